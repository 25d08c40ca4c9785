// The gallery: rows of equal height in which every photo keeps its shape. Rows out of sight are empty, of known height,
// so that thousands of photos cost what the screen shows.

import { makeCard } from "./card.js";
import { make } from "./dom.js";

const NARROWEST = 0.42, WIDEST = 4; // shapes beyond these are shown whole in a room of this shape
const NEAR = "900px"; // above and below the screen: rows that are there before they are seen
const CAPTION = 24, PADDING = 5; // px, as style.css has them

export class Grid {
  /** ask: () -> the query that the hits answer; open: (index) of the hit that was chosen. */
  constructor(element, ask, open) {
    Object.assign(this, { element, ask, open, hits: [], rows: [], current: 0, width: 0, column: null });
    this.watcher = new IntersectionObserver((seen) => seen.forEach((one) => {
      one.target.near = one.isIntersecting;
      if (one.isIntersecting) this.fill(one.target);
      else this.drain(one.target);
    }), { rootMargin: `${NEAR} 0px` });
    new ResizeObserver(() => this.resize()).observe(element);
    element.addEventListener("click", (event) => {
      const card = event.target.closest(".card");
      if (!card) return;
      this.point(Number(card.dataset.index));
      this.open(this.current);
    });
    element.addEventListener("focusin", (event) => {
      const card = event.target.closest(".card");
      if (card) this.point(Number(card.dataset.index));
    });
    element.addEventListener("keydown", (event) => this.move(event));
  }

  show(hits) {
    this.watcher.disconnect();
    this.element.replaceChildren();
    Object.assign(this, { hits: [...hits], rows: [], current: 0 });
    this.lay(0);
  }

  add(hits) {
    const last = this.rows.at(-1);
    this.hits.push(...hits);
    if (last?.whole) this.lay(last.last + 1);
    else this.lay(last ? last.first : 0);
  }

  resize() {
    const width = this.element.clientWidth;
    if (width === this.width || !width) return;
    const top = this.rows.find((row) => row.getBoundingClientRect().bottom > 0); // what is read stays in sight
    const index = top?.first, before = top?.getBoundingClientRect().top;
    const held = this.element.contains(document.activeElement);
    this.lay(0);
    const now = index === undefined ? null : this.rowOf(index);
    if (now && before < 0) scrollBy(0, now.getBoundingClientRect().top - before);
    if (held) this.focus(this.current, false);
  }

  /** Rows anew, from the photo `first` on, which begins one. */
  lay(first) {
    this.width = this.element.clientWidth;
    if (!this.width) return;
    const held = this.element.contains(document.activeElement);
    while (this.rows.length && this.rows.at(-1).last >= first) {
      const row = this.rows.pop();
      this.watcher.unobserve(row);
      row.remove();
    }
    const [gap, target] = this.width < 600 ? [8, 180] : [14, 236];
    const made = [];
    for (let from = first, sum = 0, at = first; at < this.hits.length; at++) {
      sum += shape(this.hits[at]);
      const room = this.width - gap * (at - from);
      const whole = room / sum <= target * 1.08;
      if (!whole && at + 1 < this.hits.length) continue;
      made.push(this.makeRow(from, at, whole ? room / sum : Math.min(target, room / sum), gap, whole));
      [from, sum] = [at + 1, 0];
    }
    this.element.append(...made);
    this.rows.push(...made);
    made.forEach((row) => this.watcher.observe(row));
    if (held && !this.element.contains(document.activeElement)) this.focus(this.current, false);
    else if (this.rows.length) this.fill(this.rowOf(this.current)); // Tab must find it
  }

  makeRow(first, last, height, gap, whole) {
    const row = make("div", { class: "row", role: "presentation" });
    row.style.height = `${height + CAPTION + 2 * PADDING}px`;
    row.style.gap = `${gap}px`;
    return Object.assign(row, { first, last, height, whole });
  }

  fill(row) {
    if (!row || row.childElementCount) return;
    for (let index = row.first; index <= row.last; index++) {
      const width = row.height * shape(this.hits[index]);
      const cell = makeCard(this.hits[index], { index, width, height: row.height }, this.ask);
      cell.firstChild.tabIndex = index === this.current ? 0 : -1;
      row.append(cell);
    }
  }

  drain(row) {
    if (row.first <= this.current && this.current <= row.last) return; // the way in for the keyboard
    row.replaceChildren();
  }

  rowOf(index) {
    return this.rows.find((row) => row.first <= index && index <= row.last) ?? null;
  }

  cardOf(index) {
    const row = this.rowOf(index);
    this.fill(row);
    return row?.children[index - row.first]?.firstChild ?? null;
  }

  /** The one card that Tab reaches. */
  point(index) {
    if (index === this.current) return;
    const before = this.rowOf(this.current), old = before?.children[this.current - before.first]?.firstChild;
    if (old) old.tabIndex = -1;
    this.current = index;
    const card = this.cardOf(index);
    if (card) card.tabIndex = 0;
    if (before && !before.near) this.drain(before);
  }

  focus(index, scroll = true) {
    const card = index < 0 ? null : this.cardOf(index);
    if (!card) return;
    this.point(index);
    card.focus({ preventScroll: true });
    if (scroll) card.scrollIntoView({ block: "nearest" });
  }

  move(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !event.target.closest(".card")) return;
    const at = this.current, row = this.rowOf(at);
    const to = {
      ArrowRight: () => at + 1, ArrowLeft: () => at - 1, Home: () => 0, End: () => this.hits.length - 1,
      ArrowDown: () => this.beside(row, at, 1), ArrowUp: () => this.beside(row, at, -1),
    }[event.key]?.();
    if (to === undefined) return;
    event.preventDefault();
    if (to >= 0 && to < this.hits.length) this.focus(to);
    if (!["ArrowDown", "ArrowUp"].includes(event.key)) this.column = null;
  }

  /** The photo of the next or previous row that is most nearly below or above where the way up or down began. */
  beside(row, at, step) {
    const other = this.rows[this.rows.indexOf(row) + step];
    if (!other) return at;
    const middle = (card) => card.offsetLeft + card.offsetWidth / 2;
    this.column ??= middle(this.cardOf(at));
    this.fill(other);
    const far = [...other.children].map((cell) => Math.abs(middle(cell.firstChild) - this.column));
    return other.first + far.indexOf(Math.min(...far));
  }
}

const shape = (hit) => Math.min(WIDEST, Math.max(NARROWEST, hit.width_px / hit.height_px));
