// A part of a photo, drawn with mouse, touch or pen, or moved by the arrow keys; in pixels of the original.

import { icon, make } from "./dom.js";

const CORNERS = [[0, 1], [2, 1], [0, 3], [2, 3]]; // places in [left, top, right, bottom]
const CLICK = 5; // px that a pointer may wander and still be no stroke
const THIN = 8, SHARE = 0.02; // px of the screen, or of the photo's side: nothing is looked for in less

export class Part {
  /**
   * frame: the element that the photo fills; search: (box) when somebody asks for it.
   * free: whether a finger draws one where none is yet; else only mouse and pen do.
   */
  constructor(frame, search, { label = "Search for this part", free = true } = {}) {
    Object.assign(this, { frame, search, free, box: null, width: 1, height: 1, stroke: null });
    this.hole = make("div", { class: "hole" });
    this.cut = make("div", { class: "cut" }, this.hole);
    this.outline = make("div", { class: "part", tabindex: "0", role: "group" });
    for (const [x, y] of CORNERS) this.outline.append(make("i", { data: { x, y } }));
    this.tools = make("div", { class: "tools" },
      make("button", { class: "main", type: "button", text: label, on: { click: () => this.ask() } }),
      make("button", { type: "button", "aria-label": "Take the box away", title: "Take the box away", on: { click: () => this.clear() } }, icon("close")));
    frame.append(this.cut, this.outline, this.tools);
    frame.addEventListener("pointerdown", (event) => this.down(event));
    frame.addEventListener("pointermove", (event) => this.drag(event));
    frame.addEventListener("pointerup", (event) => this.up(event));
    frame.addEventListener("pointercancel", () => { this.stroke = null; });
    this.outline.addEventListener("keydown", (event) => this.key(event));
    this.clear();
  }

  /** Of the original, pixels. */
  setSize(width, height) {
    Object.assign(this, { width, height });
    this.clear();
  }

  clear() {
    const held = this.outline.contains(document.activeElement) || this.tools.contains(document.activeElement);
    this.select(null);
    if (held) this.frame.closest("dialog")?.querySelector("[data-home]")?.focus();
  }

  ask() {
    if (this.box) this.search(this.box);
  }

  /** The middle of the photo, for those who have no pointer. */
  start() {
    if (!this.box) {
      const [w, h] = [this.width, this.height];
      this.select([Math.floor(w / 4), Math.floor(h / 4), Math.ceil(3 * w / 4), Math.ceil(3 * h / 4)]);
    }
    this.outline.focus();
  }

  select(box) {
    this.box = box;
    for (const element of [this.cut, this.outline, this.tools]) element.hidden = !box;
    if (!box) return;
    const [left, top, right, bottom] = box;
    for (const { style } of [this.hole, this.outline]) {
      style.left = `${100 * left / this.width}%`;
      style.top = `${100 * top / this.height}%`;
      style.width = `${100 * (right - left) / this.width}%`;
      style.height = `${100 * (bottom - top) / this.height}%`;
    }
    this.outline.setAttribute("aria-label",
      `Chosen part: left ${left}, top ${top}, right ${right}, bottom ${bottom} pixels. Arrow keys move it, with Shift they resize it, Enter searches`);
    this.place();
  }

  /** The buttons: below the box, else above, else inside; where they are seen, if the photo is larger than its stage. */
  place() {
    const room = this.frame.getBoundingClientRect(), stage = this.frame.parentElement.getBoundingClientRect();
    const [left, top, right, bottom] = this.box, y = room.height / this.height, x = room.width / this.width;
    const wide = this.tools.offsetWidth, high = this.tools.offsetHeight;
    const first = stage.top - room.top + 4, last = stage.bottom - room.top - high - 4;
    const below = bottom * y + 10, above = top * y - high - 10, inside = Math.min(bottom * y - high - 10, last);
    this.tools.style.top = `${below <= last ? Math.max(below, first) : above >= first ? above : Math.max(inside, first)}px`;
    const from = Math.max(0, stage.left - room.left), to = Math.min(room.width, stage.right - room.left) - wide;
    this.tools.style.left = `${Math.max(from, Math.min((left + right) / 2 * x - wide / 2, to))}px`;
  }

  /** Pixels of the photo that a box has at least, across and down. */
  get least() {
    const room = this.frame.getBoundingClientRect();
    const least = (side, seen) => Math.min(side, Math.max(1, Math.ceil(Math.max(SHARE * side, THIN * side / seen))));
    return [least(this.width, room.width), least(this.height, room.height)];
  }

  /** Too thin on the screen to have been meant. */
  get isThin() {
    const room = this.frame.getBoundingClientRect(), [left, top, right, bottom] = this.box;
    return (right - left) * room.width < THIN * this.width || (bottom - top) * room.height < THIN * this.height;
  }

  /** As large as it must be at least, around the same middle. */
  grow() {
    const [wide, high] = this.least, [left, top, right, bottom] = this.box;
    const around = (from, to, least, most) => {
      const low = Math.min(Math.max(0, Math.round((from + to - least) / 2)), most - least);
      return to - from >= least ? [from, to] : [low, low + least];
    };
    const [x0, x1] = around(left, right, wide, this.width), [y0, y1] = around(top, bottom, high, this.height);
    this.select([x0, y0, x1, y1]);
  }

  at(event) {
    const room = this.frame.getBoundingClientRect();
    return [(event.clientX - room.left) / room.width * this.width, (event.clientY - room.top) / room.height * this.height];
  }

  down(event) {
    if (event.button !== 0 || !event.isPrimary || event.target.closest(".tools")) return;
    if (event.pointerType === "touch" && !this.free && !this.box) return;
    event.preventDefault(); // no text is marked, no picture dragged away
    this.frame.setPointerCapture(event.pointerId);
    const from = this.at(event), corner = event.target.closest("[data-x]");
    this.stroke = { from, start: [event.clientX, event.clientY], box: this.box, far: false, kind: "new" };
    if (corner) Object.assign(this.stroke, { kind: "corner", x: Number(corner.dataset.x), y: Number(corner.dataset.y) });
    else if (event.target === this.outline) this.stroke.kind = "move";
  }

  drag(event) {
    const stroke = this.stroke;
    if (!stroke) return;
    stroke.far ||= Math.hypot(event.clientX - stroke.start[0], event.clientY - stroke.start[1]) >= CLICK;
    if (!stroke.far) return;
    const [x, y] = this.at(event);
    if (stroke.kind === "move") this.shift(stroke.box, x - stroke.from[0], y - stroke.from[1]);
    else if (stroke.kind === "new") {
      this.stretch(...stroke.from, x, y);
      this.tools.hidden = this.isThin;
    } else {
      const box = [...stroke.box], [wide, high] = this.least;
      box[stroke.x] = stroke.x ? Math.max(x, box[0] + wide) : Math.min(x, box[2] - wide);
      box[stroke.y] = stroke.y > 1 ? Math.max(y, box[1] + high) : Math.min(y, box[3] - high);
      this.stretch(...box);
    }
  }

  up(event) {
    const stroke = this.stroke;
    this.stroke = null;
    if (!stroke || event.target.closest(".tools")) return;
    if (stroke.kind === "new" && (!stroke.far || this.isThin)) return this.select(null);
    if (stroke.kind === "new") this.grow();
    if (stroke.far) this.outline.focus({ preventScroll: true });
  }

  /** Any two corners -> whole pixels inside the photo, one at least. */
  stretch(x0, y0, x1, y1) {
    const keep = (low, high, most) => {
      const from = Math.min(Math.max(Math.floor(Math.min(low, high)), 0), most - 1);
      return [from, Math.max(from + 1, Math.min(Math.ceil(Math.max(low, high)), most))];
    };
    const [left, right] = keep(x0, x1, this.width), [top, bottom] = keep(y0, y1, this.height);
    this.select([left, top, right, bottom]);
  }

  shift([left, top, right, bottom], x, y) {
    const by = (from, to, most, step) => Math.round(Math.min(Math.max(step, -from), most - to));
    const [dx, dy] = [by(left, right, this.width, x), by(top, bottom, this.height, y)];
    this.select([left + dx, top + dy, right + dx, bottom + dy]);
  }

  key(event) {
    const step = Math.max(1, Math.round(Math.max(this.width, this.height) / 50));
    const [x, y] = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key] ?? [0, 0];
    if (event.key === "Enter") this.ask();
    else if (event.key === "Escape") this.clear();
    else if (!x && !y) return;
    else if (event.shiftKey) {
      const [left, top, right, bottom] = this.box, [wide, high] = this.least;
      this.stretch(left, top, Math.max(left + wide, right + x), Math.max(top + high, bottom + y));
    } else this.shift(this.box, x, y);
    event.preventDefault();
    event.stopPropagation(); // the arrows do not turn to the next photo, Esc does not close the dialog
  }
}

/** The photo's frame as large as the stage has room for, in the photo's shape. -> px of the page for one of the photo. */
export function fit(frame, stage, width, height, most = 3) {
  const style = getComputedStyle(stage);
  const wide = stage.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  const high = stage.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
  const scale = Math.max(0.01, Math.min(wide / width, high / height, most));
  frame.style.width = `${width * scale}px`;
  frame.style.height = `${height * scale}px`;
  return scale;
}
