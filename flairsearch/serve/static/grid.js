// The gallery: rows of equal height in which every photo keeps its shape. A row far from the screen is an empty element
// of the right height, so that thousands of photos cost no more than those near the screen.

import { makeCard } from "./result-card.js";
import { make } from "./dom.js";

const MIN_ASPECT = 0.42, MAX_ASPECT = 4; // A photo outside of this range is shown whole in a cell of the nearest aspect.
const RENDER_MARGIN = "900px"; // Rows this far above and below the screen are filled before they are seen.
const CAPTION_HEIGHT = 24, ROW_PADDING = 5; // Pixels; style.css has the same values.
const NARROW_WIDTH = 600; // A gallery of fewer pixels has smaller rows and gaps.
const MAX_STRETCH = 1.08; // A row is complete when its height is at most this multiple of the wanted height.

export class Grid {
  /** getQuery(): the query of the hits. onOpen(index): the user chose a hit. */
  constructor(element, getQuery, onOpen) {
    Object.assign(this, { element, getQuery, onOpen, hits: [], rows: [], width: 0 });
    this.current = 0; // The index of the card that Tab reaches.
    this.column = null; // The x position where moving up or down began, in pixels.
    this.rowObserver = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => {
      target.isNear = isIntersecting;
      if (isIntersecting) this.fillRow(target);
      else this.emptyRow(target);
    }), { rootMargin: `${RENDER_MARGIN} 0px` });
    new ResizeObserver(() => this.resize()).observe(element);
    element.addEventListener("click", (event) => {
      const card = event.target.closest(".card");
      if (!card) return;
      this.setCurrent(Number(card.dataset.index));
      this.onOpen(this.current);
    });
    element.addEventListener("focusin", (event) => {
      const card = event.target.closest(".card");
      if (card) this.setCurrent(Number(card.dataset.index));
    });
    element.addEventListener("keydown", (event) => this.onKey(event));
  }

  show(hits) {
    this.rowObserver.disconnect();
    this.element.replaceChildren();
    Object.assign(this, { hits: [...hits], rows: [], current: 0 });
    this.layOut(0);
  }

  add(hits) {
    const last = this.rows.at(-1);
    this.hits.push(...hits);
    if (last?.isComplete) this.layOut(last.last + 1);
    else this.layOut(last ? last.first : 0);
  }

  resize() {
    const width = this.element.clientWidth;
    if (width === this.width || !width) return;
    const topRow = this.rows.find((row) => row.getBoundingClientRect().bottom > 0);
    const index = topRow?.first, topBefore = topRow?.getBoundingClientRect().top;
    const hadFocus = this.element.contains(document.activeElement);
    this.layOut(0);
    const newRow = index === undefined ? null : this.rowOf(index);
    // The first photo on the screen stays where it is.
    if (newRow && topBefore < 0) scrollBy(0, newRow.getBoundingClientRect().top - topBefore);
    if (hadFocus) this.focus(this.current, false);
  }

  /** Makes all rows from the photo with index `first` on, which begins a row. */
  layOut(first) {
    this.width = this.element.clientWidth;
    if (!this.width) return;
    const hadFocus = this.element.contains(document.activeElement);
    while (this.rows.length && this.rows.at(-1).last >= first) {
      const row = this.rows.pop();
      this.rowObserver.unobserve(row);
      row.remove();
    }
    const newRows = this.makeRows(first);
    this.element.append(...newRows);
    this.rows.push(...newRows);
    newRows.forEach((row) => this.rowObserver.observe(row));
    if (hadFocus && !this.element.contains(document.activeElement)) this.focus(this.current, false);
    else if (this.rows.length) this.fillRow(this.rowOf(this.current)); // Tab must find the current card.
  }

  makeRows(first) {
    const [gap, wantedHeight] = this.width < NARROW_WIDTH ? [8, 180] : [14, 236];
    const rows = [];
    let start = first, aspects = 0;
    for (let index = first; index < this.hits.length; index++) {
      aspects += aspectOf(this.hits[index]);
      const height = (this.width - gap * (index - start)) / aspects;
      const isComplete = height <= wantedHeight * MAX_STRETCH;
      if (!isComplete && index + 1 < this.hits.length) continue;
      rows.push(makeRow(start, index, isComplete ? height : Math.min(wantedHeight, height), gap, isComplete));
      [start, aspects] = [index + 1, 0];
    }
    return rows;
  }

  fillRow(row) {
    if (!row || row.childElementCount) return;
    for (let index = row.first; index <= row.last; index++) {
      const width = row.height * aspectOf(this.hits[index]);
      const cell = makeCard(this.hits[index], { index, width, height: row.height }, this.getQuery);
      cell.firstChild.tabIndex = index === this.current ? 0 : -1;
      row.append(cell);
    }
  }

  emptyRow(row) {
    if (row.first <= this.current && this.current <= row.last) return; // Tab must find the current card.
    row.replaceChildren();
  }

  rowOf(index) {
    return this.rows.find((row) => row.first <= index && index <= row.last) ?? null;
  }

  cardOf(index) {
    const row = this.rowOf(index);
    this.fillRow(row);
    return row?.children[index - row.first]?.firstChild ?? null;
  }

  /** Makes this card the only one that Tab reaches. */
  setCurrent(index) {
    if (index === this.current) return;
    const oldRow = this.rowOf(this.current), oldCard = oldRow?.children[this.current - oldRow.first]?.firstChild;
    if (oldCard) oldCard.tabIndex = -1;
    this.current = index;
    const card = this.cardOf(index);
    if (card) card.tabIndex = 0;
    if (oldRow && !oldRow.isNear) this.emptyRow(oldRow);
  }

  focus(index, doesScroll = true) {
    const card = index < 0 ? null : this.cardOf(index);
    if (!card) return;
    this.setCurrent(index);
    card.focus({ preventScroll: true });
    if (doesScroll) card.scrollIntoView({ block: "nearest" });
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !event.target.closest(".card")) return;
    const index = this.current;
    const target = {
      ArrowRight: () => index + 1, ArrowLeft: () => index - 1, Home: () => 0, End: () => this.hits.length - 1,
      ArrowDown: () => this.indexInRow(index, 1), ArrowUp: () => this.indexInRow(index, -1),
    }[event.key]?.();
    if (target === undefined) return;
    event.preventDefault();
    if (target >= 0 && target < this.hits.length) this.focus(target);
    if (!["ArrowDown", "ArrowUp"].includes(event.key)) this.column = null;
  }

  /** The photo `rowStep` rows below that is nearest to the column where moving up or down began. */
  indexInRow(index, rowStep) {
    const row = this.rowOf(index), target = this.rows[this.rows.indexOf(row) + rowStep];
    if (!target) return index;
    const middle = (card) => card.offsetLeft + card.offsetWidth / 2;
    this.column ??= middle(this.cardOf(index));
    this.fillRow(target);
    const distances = [...target.children].map((cell) => Math.abs(middle(cell.firstChild) - this.column));
    return target.first + distances.indexOf(Math.min(...distances));
  }
}

function makeRow(first, last, height, gap, isComplete) {
  const row = make("div", { class: "row", role: "presentation" });
  row.style.height = `${height + CAPTION_HEIGHT + 2 * ROW_PADDING}px`;
  row.style.gap = `${gap}px`;
  return Object.assign(row, { first, last, height, isComplete });
}

const aspectOf = (hit) => Math.min(MAX_ASPECT, Math.max(MIN_ASPECT, hit.width_px / hit.height_px));
