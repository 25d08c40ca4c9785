// The large view: a photo with all its regions, its heat map and its facts; a box drawn in it is the next search.

import { FULL_VIEW_SIDE, getRegions, largeUrl, originalUrl, thumbnailUrl, ZOOMED_SIDE } from "./api.js";
import { connection } from "./connection.js";
import { byId, count, fileName, folderOf, formatDate, isTyping, make, pathNodes } from "./dom.js";
import { showAlert } from "./messages.js";
import { watchImage } from "./photo.js";
import { RegionSelector } from "./region-selector.js";
import { colourOf, drawBoxes, drawHeat } from "./regions.js";
import { Zoom } from "./zoom.js";

const SCROLL_STEPS = { ArrowLeft: [-80, 0], ArrowRight: [80, 0], ArrowUp: [0, -80], ArrowDown: [0, 80] }; // Pixels [x, y].

export class Viewer {
  /**
   * getQuery(): the query of the hit. onStep(step): the user wants the next (1) or previous (-1) photo.
   * onSearchImage({id, box}): search for the photo or a part of it. onSearchFolder(path): the same query in one folder.
   * onClose(hit): the user closed the view.
   */
  constructor({ getQuery, onStep, onSearchImage, onSearchFolder, onClose }) {
    Object.assign(this, { getQuery, onStep, onSearchImage, onClose, hit: null, showsHeat: false });
    this.hiddenPhrases = new Set(); // Indices of the phrases that the user switched off.
    this.dialog = byId("viewer");
    this.frame = byId("viewer-frame");
    this.image = byId("viewer-image");
    this.canvas = byId("viewer-heat");
    this.loadImage = watchImage(this.image, this.frame, (isGone) => {
      for (const element of this.dialog.querySelectorAll("[data-needs-photo]")) element.hidden = isGone;
      if (isGone) this.selector.clear();
    });
    this.selector = new RegionSelector(this.frame, (box) => this.searchImage(box), { canTouchStart: false });
    this.zoom = new Zoom(byId("viewer-stage"), this.frame, { onSwipe: onStep, onLayout: () => this.onLayout() });
    byId("viewer-zoom").addEventListener("click", () => this.zoom.toggle());
    byId("viewer-close").addEventListener("click", () => this.dialog.close());
    byId("viewer-previous").addEventListener("click", () => onStep(-1));
    byId("viewer-next").addEventListener("click", () => onStep(1));
    byId("viewer-similar").addEventListener("click", () => this.searchImage(null));
    byId("viewer-select").addEventListener("click", () => this.selector.startInMiddle());
    byId("viewer-folder").addEventListener("click", () => onSearchFolder(folderOf(this.hit.path)));
    byId("viewer-show-heat").addEventListener("change", (event) => this.setHeat(event.target.checked));
    this.dialog.addEventListener("close", () => this.onDialogClose());
    connection.addEventListener("retry", () => this.updateHeat());
    // The document listens, since the focus may be on an element that was removed from the dialog.
    document.addEventListener("keydown", (event) => this.dialog.open && this.onKey(event));
  }

  get isOpen() {
    return this.hit !== null;
  }

  searchImage(box) {
    this.onSearchImage({ id: String(this.hit.id), box });
  }

  show(hit, { hasPrevious, hasNext }) {
    this.hit = hit;
    const name = fileName(hit.path);
    this.dialog.setAttribute("aria-label", name);
    byId("viewer-name").textContent = name;
    byId("viewer-path").replaceChildren(...pathNodes(hit.path));
    byId("viewer-original").href = originalUrl(hit.id);
    byId("viewer-previous").disabled = !hasPrevious;
    byId("viewer-next").disabled = !hasNext;
    this.image.alt = name;
    this.image.classList.remove("loaded");
    this.loadImage(largeUrl(hit.id));
    this.frame.style.backgroundImage = `url("${thumbnailUrl(hit.id, 512)}")`; // It shows until the large photo is loaded.
    this.selector.setSize(hit.width_px, hit.height_px);
    if (!this.dialog.open) this.dialog.showModal();
    this.draw();
    this.zoom.setSize(hit.width_px, hit.height_px);
    this.updateHeat();
  }

  /** Closes the view without calling onClose. */
  hide() {
    this.clear();
    if (this.dialog.open) this.dialog.close();
  }

  onDialogClose() {
    if (this.dialog.open) return; // The view was opened again before this event came.
    const { hit } = this;
    this.clear();
    if (hit) this.onClose(hit);
  }

  clear() {
    this.hit = null;
    this.image.removeAttribute("src");
    this.frame.style.backgroundImage = "";
  }

  /** Follows a new size or scroll position of the photo; a zoomed photo is loaded with more pixels. */
  onLayout() {
    const { isZoomed } = this.zoom, { hit } = this;
    byId("viewer-zoom").setAttribute("aria-pressed", String(isZoomed));
    if (this.selector.box) this.selector.placeButtons();
    if (!hit || !isZoomed || Math.max(hit.width_px, hit.height_px) <= FULL_VIEW_SIDE) return;
    const url = largeUrl(hit.id, ZOOMED_SIDE);
    if (this.image.getAttribute("src") !== url) this.loadImage(url);
  }

  draw() {
    const { hit } = this;
    this.frame.querySelector("svg.boxes")?.remove();
    this.canvas.after(drawBoxes(hit, true));
    const facts = [["Score", hit.score.toFixed(3)]];
    if (hit.rank) facts.push(["Rank", count(hit.rank)]);
    if (hit.date) facts.push(["Date", formatDate(hit.date)]);
    facts.push(["Size", `${count(hit.width_px)} × ${count(hit.height_px)} pixels`]);
    byId("viewer-facts").replaceChildren(
      ...facts.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]));
    const list = byId("viewer-phrases");
    const focused = [...list.querySelectorAll("input")].indexOf(document.activeElement);
    list.replaceChildren(...hit.phrases.map((phrase, i) => this.makeToggle(phrase, i)));
    list.querySelectorAll("input")[focused]?.focus();
    this.updateBoxes();
  }

  /** A checkbox that shows or hides the boxes and the heat of phrase i. */
  makeToggle(phrase, i) {
    const checkbox = make("input", { type: "checkbox", on: { change: () => {
      if (checkbox.checked) this.hiddenPhrases.delete(i);
      else this.hiddenPhrases.add(i);
      this.updateBoxes();
      this.updateHeat();
    } } });
    checkbox.checked = !this.hiddenPhrases.has(i);
    const dot = make("i", { class: "dot" });
    dot.style.background = colourOf(i);
    const places = phrase.regions.length > 1 ? `, ${phrase.regions.length} places` : "";
    const isWeakest = this.hit.weakest !== null && phrase.score === Math.min(...this.hit.phrases.map(({ score }) => score));
    const highlight = (isOn) => () => {
      const svg = this.frame.querySelector("svg.boxes");
      svg.classList.toggle("highlighting", isOn);
      svg.querySelector(`[data-phrase="${i}"]`)?.classList.toggle("highlighted", isOn);
    };
    const isImage = i >= this.getQuery().texts.length;
    return make("li", {}, make("label", { on: { pointerenter: highlight(true), pointerleave: highlight(false) } }, checkbox, dot,
      make("bdi", { class: "phrase", text: isImage ? "the picture" : phrase.text }),
      make("span", { class: "score", text: `${phrase.score.toFixed(3)}${places}${isWeakest ? ", weakest" : ""}` })));
  }

  updateBoxes() {
    for (const group of this.frame.querySelectorAll("[data-phrase]")) {
      const isHidden = this.hiddenPhrases.has(Number(group.dataset.phrase));
      group.setAttribute("visibility", isHidden ? "hidden" : "visible");
    }
  }

  setHeat(isShown) {
    this.showsHeat = isShown;
    byId("viewer-show-heat").checked = isShown;
    this.updateHeat();
  }

  async updateHeat() {
    this.frame.classList.remove("show-heat");
    if (!this.showsHeat || !this.hit) return;
    const { hit } = this;
    let answer = null;
    try {
      answer = await getRegions(this.getQuery(), hit.id);
    } catch (error) {
      if (error.status && error.status !== 401) showAlert(error.message);
      return; // Without a status the server is away: "retry" follows when it is back.
    }
    if (this.hit !== hit || !this.showsHeat) return;
    byId("viewer-no-heat").hidden = Boolean(answer);
    if (!answer) return;
    drawHeat(this.canvas, hit, answer.phrases.filter((_, i) => !this.hiddenPhrases.has(i)));
    this.frame.classList.add("show-heat");
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const isTypingText = isTyping(event.target) && event.target.type !== "checkbox";
    if (event.key === "Escape" && this.selector.box) this.selector.clear();
    else if (isTypingText) return;
    else if (this.zoom.isZoomed && SCROLL_STEPS[event.key]) byId("viewer-stage").scrollBy(...SCROLL_STEPS[event.key]);
    else if (event.key === "ArrowLeft") this.onStep(-1);
    else if (event.key === "ArrowRight") this.onStep(1);
    else if (event.key === "h") this.setHeat(!this.showsHeat);
    else if (event.key === "z") this.zoom.toggle();
    else if (byId("viewer-select").hidden) return; // The photo is gone.
    else if (event.key === "b") this.selector.startInMiddle();
    else if (event.key === "m") this.searchImage(null);
    else return;
    event.preventDefault();
  }
}
