// How the large view is moved: all of the photo, or nearer and scrolled; a swipe turns to the next photo.

import { fit } from "./part.js";

const NEARER = 2; // times, where the photo's own pixels are no larger than what is seen
const SWIPE = 40, TAP = 10; // px that a finger goes sideways at least, and wanders at most
const TWICE = 350; // ms between two taps

export class Zoom {
  /** stage: what scrolls; frame: what the photo fills; swiped: (by) another photo; changed: () after it was laid anew. */
  constructor(stage, frame, { swiped, changed }) {
    Object.assign(this, { stage, frame, swiped, changed, near: false, width: 1, height: 1, from: null, tapped: null });
    stage.addEventListener("pointerdown", (event) => this.down(event));
    stage.addEventListener("pointerup", (event) => this.up(event));
    stage.addEventListener("pointercancel", () => { this.from = null; }); // the browser scrolls
    stage.addEventListener("dblclick", (event) => this.from?.kind === "mouse" && this.toggle(event.clientX, event.clientY));
    new ResizeObserver(() => this.lay()).observe(stage);
  }

  /** Of the photo, pixels; all of it is shown. */
  setSize(width, height) {
    Object.assign(this, { width, height, near: false });
    this.lay();
  }

  lay() {
    this.stage.classList.toggle("near", this.near);
    const all = fit(this.frame, this.stage, this.width, this.height);
    if (this.near) {
      const scale = all < 0.8 ? 1 : NEARER * all;
      this.frame.style.width = `${this.width * scale}px`;
      this.frame.style.height = `${this.height * scale}px`;
    }
    this.changed();
  }

  /** What is at this place of the window stays there. */
  toggle(x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    const before = this.frame.getBoundingClientRect();
    const across = (x - before.left) / before.width, down = (y - before.top) / before.height;
    this.near = !this.near;
    this.lay();
    const now = this.frame.getBoundingClientRect();
    this.stage.scrollBy(now.left + across * now.width - x, now.top + down * now.height - y);
    this.changed();
  }

  down(event) {
    if (!event.isPrimary) this.from = null; // two fingers are no swipe
    else this.from = event.target.closest(".tools, .part") ? null : { x: event.clientX, y: event.clientY, kind: event.pointerType };
  }

  up(event) {
    const { from } = this;
    if (!from || from.kind === "mouse" || !event.isPrimary) return;
    this.from = null;
    const [x, y] = [event.clientX - from.x, event.clientY - from.y];
    const drawn = this.frame.querySelector(".part:not([hidden])");
    if (Math.hypot(x, y) < TAP) this.tap(event);
    else if (from.kind === "touch" && !this.near && !drawn && Math.abs(x) >= SWIPE && Math.abs(x) > 1.5 * Math.abs(y)) this.swiped(x < 0 ? 1 : -1);
  }

  tap({ clientX: x, clientY: y, timeStamp: time }) {
    const before = this.tapped, twice = before && time - before.time < TWICE && Math.hypot(x - before.x, y - before.y) < 4 * TAP;
    this.tapped = twice ? null : { x, y, time };
    if (twice) this.toggle(x, y);
  }
}
