// Zoom and touch gestures of the large view: the whole photo, or a scrolled part of it; a swipe turns to another photo.

import { fitFrame } from "./region-selector.js";

const ZOOM_FACTOR = 2; // The scale of a zoomed photo relative to the whole view, if its own pixels are not larger.
const MIN_SWIPE_PX = 40; // A swipe moves at least this far sideways.
const MAX_TAP_PX = 10; // A tap moves less than this.
const DOUBLE_TAP_MS = 350; // The longest time between the two taps of a double tap.

export class Zoom {
  /**
   * stage: the element that scrolls. frame: the element that the photo fills.
   * onSwipe(step): the user wants the next (1) or previous (-1) photo. onLayout(): the photo has a new size or position.
   */
  constructor(stage, frame, { onSwipe, onLayout }) {
    Object.assign(this, { stage, frame, onSwipe, onLayout, isZoomed: false, width: 1, height: 1 });
    this.start = null; // The latest pointer that went down: {x, y, type}.
    this.lastTap = null; // The first tap of a possible double tap: {x, y, time}.
    stage.addEventListener("pointerdown", (event) => this.onPointerDown(event));
    stage.addEventListener("pointerup", (event) => this.onPointerUp(event));
    stage.addEventListener("pointercancel", () => { this.start = null; }); // The browser scrolls instead.
    stage.addEventListener("dblclick", ({ clientX, clientY }) => this.start?.type === "mouse" && this.toggle(clientX, clientY));
    new ResizeObserver(() => this.layOut()).observe(stage);
  }

  /** Sets the size of the photo in pixels, and shows all of it. */
  setSize(width, height) {
    Object.assign(this, { width, height, isZoomed: false });
    this.layOut();
  }

  layOut() {
    this.stage.classList.toggle("zoomed", this.isZoomed);
    const wholeScale = fitFrame(this.frame, this.stage, this.width, this.height);
    if (this.isZoomed) {
      const scale = wholeScale < 0.8 ? 1 : ZOOM_FACTOR * wholeScale;
      this.frame.style.width = `${this.width * scale}px`;
      this.frame.style.height = `${this.height * scale}px`;
    }
    this.onLayout();
  }

  /** Zooms in or out; the point of the photo at (x, y) of the window stays there. */
  toggle(x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    const before = this.frame.getBoundingClientRect();
    const shareX = (x - before.left) / before.width, shareY = (y - before.top) / before.height;
    this.isZoomed = !this.isZoomed;
    this.layOut();
    const after = this.frame.getBoundingClientRect();
    this.stage.scrollBy(after.left + shareX * after.width - x, after.top + shareY * after.height - y);
    this.onLayout();
  }

  onPointerDown(event) {
    const isOnSelection = event.target.closest(".selection-buttons, .selection");
    if (!event.isPrimary || isOnSelection) this.start = null; // Two fingers are no swipe.
    else this.start = { x: event.clientX, y: event.clientY, type: event.pointerType };
  }

  onPointerUp(event) {
    const { start } = this;
    if (!start || start.type === "mouse" || !event.isPrimary) return;
    this.start = null;
    const [x, y] = [event.clientX - start.x, event.clientY - start.y];
    const hasSelection = this.frame.querySelector(".selection:not([hidden])");
    const isSideways = Math.abs(x) >= MIN_SWIPE_PX && Math.abs(x) > 1.5 * Math.abs(y);
    if (Math.hypot(x, y) < MAX_TAP_PX) this.onTap(event);
    else if (start.type === "touch" && !this.isZoomed && !hasSelection && isSideways) this.onSwipe(x < 0 ? 1 : -1);
  }

  onTap({ clientX: x, clientY: y, timeStamp: time }) {
    const first = this.lastTap;
    const isDouble = first && time - first.time < DOUBLE_TAP_MS && Math.hypot(x - first.x, y - first.y) < 4 * MAX_TAP_PX;
    this.lastTap = isDouble ? null : { x, y, time };
    if (isDouble) this.toggle(x, y);
  }
}
