// Selects a box in a photo with mouse, finger, pen or arrow keys. Boxes are in pixels of the original.

import { icon, make } from "./dom.js";

const CORNERS = [[0, 1], [2, 1], [0, 3], [2, 3]]; // Indices of x and y in [left, top, right, bottom].
const CLICK_TOLERANCE_PX = 5; // A pointer that moves less than this on the screen has clicked, not drawn.
const MIN_SCREEN_PX = 8; // The smallest side of a box on the screen.
const MIN_SIDE_FRACTION = 0.02; // The smallest side of a box as a fraction of the photo's side; the server's limit.
const BUTTON_GAP_PX = 10; // The distance between a box and its buttons.
const EDGE_GAP_PX = 4; // The distance between the buttons and the edge of the stage.

export class RegionSelector {
  /**
   * frame: the element that the photo fills. onSearch(box): the user wants to search for the box. label: of its button.
   * canTouchStart: whether a finger may draw a new box; otherwise only mouse and pen do, and fingers change one.
   */
  constructor(frame, onSearch, { label = "Search for this part", canTouchStart = true } = {}) {
    Object.assign(this, { frame, onSearch, canTouchStart, box: null, width: 1, height: 1, gesture: null });
    this.opening = make("div", { class: "opening" });
    this.shade = make("div", { class: "shade" }, this.opening);
    this.outline = make("div", { class: "selection", tabindex: "0", role: "group" });
    for (const [x, y] of CORNERS) this.outline.append(make("i", { data: { x, y } }));
    this.buttons = make("div", { class: "selection-buttons" },
      make("button", { class: "primary", type: "button", text: label, on: { click: () => this.confirm() } }),
      make("button", {
        type: "button", "aria-label": "Remove the box", title: "Remove the box", on: { click: () => this.clear() },
      }, icon("close")));
    frame.append(this.shade, this.outline, this.buttons);
    frame.addEventListener("pointerdown", (event) => this.onPointerDown(event));
    frame.addEventListener("pointermove", (event) => this.onPointerMove(event));
    frame.addEventListener("pointerup", (event) => this.onPointerUp(event));
    frame.addEventListener("pointercancel", () => { this.gesture = null; });
    this.outline.addEventListener("keydown", (event) => this.onKey(event));
    this.clear();
  }

  /** Sets the size of the original in pixels, and removes the box. */
  setSize(width, height) {
    Object.assign(this, { width, height });
    this.clear();
  }

  clear() {
    const hadFocus = this.outline.contains(document.activeElement) || this.buttons.contains(document.activeElement);
    this.select(null);
    if (hadFocus) this.frame.closest("dialog")?.querySelector("[data-home]")?.focus();
  }

  confirm() {
    if (this.box) this.onSearch(this.box);
  }

  /** Focuses the box; without one, selects the middle of the photo, for users without a pointer. */
  startInMiddle() {
    if (!this.box) {
      const { width, height } = this;
      this.select([Math.floor(width / 4), Math.floor(height / 4), Math.ceil(3 * width / 4), Math.ceil(3 * height / 4)]);
    }
    this.outline.focus();
  }

  select(box) {
    this.box = box;
    for (const element of [this.shade, this.outline, this.buttons]) element.hidden = !box;
    if (!box) return;
    const [left, top, right, bottom] = box;
    for (const { style } of [this.opening, this.outline]) {
      style.left = `${100 * left / this.width}%`;
      style.top = `${100 * top / this.height}%`;
      style.width = `${100 * (right - left) / this.width}%`;
      style.height = `${100 * (bottom - top) / this.height}%`;
    }
    this.outline.setAttribute("aria-label",
      `Selected box: left ${left}, top ${top}, right ${right}, bottom ${bottom} pixels. `
      + "Arrow keys move it, Shift and arrow keys resize it, Enter searches");
    this.placeButtons();
  }

  /** Puts the buttons below the box, or above it, or inside it: where the visible part of the photo has room. */
  placeButtons() {
    const frame = this.frame.getBoundingClientRect(), stage = this.frame.parentElement.getBoundingClientRect();
    const [left, top, right, bottom] = this.box, scaleX = frame.width / this.width, scaleY = frame.height / this.height;
    const { offsetWidth: width, offsetHeight: height } = this.buttons;
    const minTop = stage.top - frame.top + EDGE_GAP_PX, maxTop = stage.bottom - frame.top - height - EDGE_GAP_PX;
    const below = bottom * scaleY + BUTTON_GAP_PX, above = top * scaleY - height - BUTTON_GAP_PX;
    const inside = Math.min(bottom * scaleY - height - BUTTON_GAP_PX, maxTop);
    const y = below <= maxTop ? Math.max(below, minTop) : above >= minTop ? above : Math.max(inside, minTop);
    this.buttons.style.top = `${y}px`;
    const minLeft = Math.max(0, stage.left - frame.left), maxLeft = Math.min(frame.width, stage.right - frame.left) - width;
    const centred = (left + right) / 2 * scaleX - width / 2;
    this.buttons.style.left = `${Math.max(minLeft, Math.min(centred, maxLeft))}px`;
  }

  /** The smallest [width, height] of a box in pixels of the photo. */
  get minSize() {
    const frame = this.frame.getBoundingClientRect();
    const minSide = (side, shown) =>
      Math.min(side, Math.max(1, Math.ceil(Math.max(MIN_SIDE_FRACTION * side, MIN_SCREEN_PX * side / shown))));
    return [minSide(this.width, frame.width), minSide(this.height, frame.height)];
  }

  /** Whether the box is so thin on the screen that the user can hardly have meant it. */
  get isTooThin() {
    const frame = this.frame.getBoundingClientRect(), [left, top, right, bottom] = this.box;
    return (right - left) * frame.width < MIN_SCREEN_PX * this.width
      || (bottom - top) * frame.height < MIN_SCREEN_PX * this.height;
  }

  /** Enlarges the box to the smallest size around the same middle. */
  growToMinSize() {
    const [minWidth, minHeight] = this.minSize, [left, top, right, bottom] = this.box;
    const grow = (from, to, minSide, side) => {
      if (to - from >= minSide) return [from, to];
      const start = Math.min(Math.max(0, Math.round((from + to - minSide) / 2)), side - minSide);
      return [start, start + minSide];
    };
    const [x0, x1] = grow(left, right, minWidth, this.width), [y0, y1] = grow(top, bottom, minHeight, this.height);
    this.select([x0, y0, x1, y1]);
  }

  /** The position of a pointer in pixels of the photo. */
  positionOf(event) {
    const frame = this.frame.getBoundingClientRect();
    return [(event.clientX - frame.left) / frame.width * this.width, (event.clientY - frame.top) / frame.height * this.height];
  }

  onPointerDown(event) {
    if (event.button !== 0 || !event.isPrimary || event.target.closest(".selection-buttons")) return;
    if (event.pointerType === "touch" && !this.canTouchStart && !this.box) return;
    event.preventDefault(); // The browser would select text or drag the picture.
    this.frame.setPointerCapture(event.pointerId);
    const from = this.positionOf(event), corner = event.target.closest("[data-x]");
    this.gesture = { from, start: [event.clientX, event.clientY], box: this.box, hasMoved: false, kind: "new" };
    if (corner) Object.assign(this.gesture, { kind: "corner", x: Number(corner.dataset.x), y: Number(corner.dataset.y) });
    else if (event.target === this.outline) this.gesture.kind = "move";
  }

  onPointerMove(event) {
    const { gesture } = this;
    if (!gesture) return;
    gesture.hasMoved ||= Math.hypot(event.clientX - gesture.start[0], event.clientY - gesture.start[1]) >= CLICK_TOLERANCE_PX;
    if (!gesture.hasMoved) return;
    const [x, y] = this.positionOf(event);
    if (gesture.kind === "move") this.moveBox(gesture.box, x - gesture.from[0], y - gesture.from[1]);
    else if (gesture.kind === "new") {
      this.selectBetween(...gesture.from, x, y);
      this.buttons.hidden = this.isTooThin;
    } else {
      const box = [...gesture.box], [minWidth, minHeight] = this.minSize;
      box[gesture.x] = gesture.x ? Math.max(x, box[0] + minWidth) : Math.min(x, box[2] - minWidth);
      box[gesture.y] = gesture.y > 1 ? Math.max(y, box[1] + minHeight) : Math.min(y, box[3] - minHeight);
      this.selectBetween(...box);
    }
  }

  onPointerUp(event) {
    const { gesture } = this;
    this.gesture = null;
    if (!gesture || event.target.closest(".selection-buttons")) return;
    if (gesture.kind === "new" && (!gesture.hasMoved || this.isTooThin)) return this.select(null);
    if (gesture.kind === "new") this.growToMinSize();
    if (gesture.hasMoved) this.outline.focus({ preventScroll: true });
  }

  /** Selects the box between two opposite corners, rounded out to whole pixels and cut at the edges of the photo. */
  selectBetween(x0, y0, x1, y1) {
    const clip = (a, b, side) => {
      const from = Math.min(Math.max(Math.floor(Math.min(a, b)), 0), side - 1);
      return [from, Math.max(from + 1, Math.min(Math.ceil(Math.max(a, b)), side))];
    };
    const [left, right] = clip(x0, x1, this.width), [top, bottom] = clip(y0, y1, this.height);
    this.select([left, top, right, bottom]);
  }

  /** Selects `box` moved by (x, y) pixels, as far as the photo allows. */
  moveBox([left, top, right, bottom], x, y) {
    const limit = (from, to, side, step) => Math.round(Math.min(Math.max(step, -from), side - to));
    const [dx, dy] = [limit(left, right, this.width, x), limit(top, bottom, this.height, y)];
    this.select([left + dx, top + dy, right + dx, bottom + dy]);
  }

  onKey(event) {
    const step = Math.max(1, Math.round(Math.max(this.width, this.height) / 50));
    const steps = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const [x, y] = steps[event.key] ?? [0, 0];
    if (event.key === "Enter") this.confirm();
    else if (event.key === "Escape") this.clear();
    else if (!x && !y) return;
    else if (event.shiftKey) {
      const [left, top, right, bottom] = this.box, [minWidth, minHeight] = this.minSize;
      this.selectBetween(left, top, Math.max(left + minWidth, right + x), Math.max(top + minHeight, bottom + y));
    } else this.moveBox(this.box, x, y);
    event.preventDefault();
    event.stopPropagation(); // The dialog would turn to another photo on arrows, and close on Esc.
  }
}

/** Makes the photo's frame as large as the stage allows. -> the scale: pixels of the page per pixel of the photo. */
export function fitFrame(frame, stage, width, height, maxScale = 3) {
  const style = getComputedStyle(stage);
  const stageWidth = stage.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  const stageHeight = stage.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
  const scale = Math.max(0.01, Math.min(stageWidth / width, stageHeight / height, maxScale));
  frame.style.width = `${width * scale}px`;
  frame.style.height = `${height * scale}px`;
  return scale;
}
