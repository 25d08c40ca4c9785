// The large view: a photo with all its regions, heat, what is known of it, and a box to draw for the next search.

import { getRegions, LARGE, LARGEST, largeUrl, originalUrl, thumbnailUrl } from "./api.js";
import { byId, count, fileName, folderOf, isTyping, make, pathNodes, showDate } from "./dom.js";
import { Part } from "./part.js";
import { watchPhoto } from "./photo.js";
import { reach } from "./reach.js";
import { colourOf, drawBoxes, drawHeat } from "./regions.js";
import { complain } from "./said.js";
import { Zoom } from "./zoom.js";

const ARROWS = { ArrowLeft: [-80, 0], ArrowRight: [80, 0], ArrowUp: [0, -80], ArrowDown: [0, 80] }; // px

export class Viewer {
  /**
   * ask: () -> the query; step: (by) to another photo; search: ({id, box}); within: (folder) to the same query there;
   * closed: (hit) when it was closed by hand.
   */
  constructor({ ask, step, search, within, closed }) {
    Object.assign(this, { ask, step, search, hit: null, off: new Set(), heat: false });
    this.dialog = byId("viewer");
    this.frame = byId("viewer-frame");
    this.image = byId("viewer-image");
    this.canvas = byId("viewer-heat");
    this.load = watchPhoto(this.image, this.frame, (gone) => {
      for (const act of this.dialog.querySelectorAll("[data-needs-photo]")) act.hidden = gone;
      if (gone) this.part.clear();
    });
    this.part = new Part(this.frame, (box) => search({ id: String(this.hit.id), box }), { free: false });
    this.zoom = new Zoom(byId("viewer-stage"), this.frame, { swiped: step, changed: () => this.laid() });
    byId("viewer-near").addEventListener("click", () => this.zoom.toggle());
    byId("viewer-close").addEventListener("click", () => this.dialog.close());
    byId("viewer-back").addEventListener("click", () => step(-1));
    byId("viewer-on").addEventListener("click", () => step(1));
    byId("viewer-like").addEventListener("click", () => search({ id: String(this.hit.id), box: null }));
    byId("viewer-part").addEventListener("click", () => this.part.start());
    byId("viewer-folder").addEventListener("click", () => within(folderOf(this.hit.path)));
    byId("viewer-warm").addEventListener("change", (event) => this.setHeat(event.target.checked));
    this.dialog.addEventListener("close", () => {
      if (this.dialog.open) return; // opened again meanwhile
      const { hit } = this;
      this.forget();
      if (hit) closed(hit);
    });
    reach.addEventListener("back", () => this.warm());
    document.addEventListener("keydown", (event) => this.dialog.open && this.key(event)); // wherever the focus went
  }

  get open() {
    return this.hit !== null;
  }

  /** ends: whether there is a photo before, and one after. */
  show(hit, [before, after]) {
    this.hit = hit;
    const name = fileName(hit.path);
    this.dialog.setAttribute("aria-label", name);
    byId("viewer-name").textContent = name;
    byId("viewer-path").replaceChildren(...pathNodes(hit.path));
    byId("viewer-original").href = originalUrl(hit.id);
    byId("viewer-back").disabled = !before;
    byId("viewer-on").disabled = !after;
    this.image.alt = name;
    this.image.classList.remove("there");
    this.load(largeUrl(hit.id));
    this.frame.style.backgroundImage = `url("${thumbnailUrl(hit.id, 512)}")`; // until the large one is there
    this.canvas.classList.remove("warm");
    this.part.setSize(hit.width_px, hit.height_px);
    if (!this.dialog.open) this.dialog.showModal();
    this.draw();
    this.zoom.setSize(hit.width_px, hit.height_px);
    this.warm();
  }

  /** Closed by the page itself: nobody is told. */
  hide() {
    this.forget();
    if (this.dialog.open) this.dialog.close();
  }

  forget() {
    this.hit = null;
    this.image.removeAttribute("src");
    this.frame.style.backgroundImage = "";
  }

  /** The photo has another size on the screen, or another part of it is seen. */
  laid() {
    const { near } = this.zoom, { hit } = this;
    byId("viewer-near").setAttribute("aria-pressed", String(near));
    if (this.part.box) this.part.place();
    if (!hit || !near || Math.max(hit.width_px, hit.height_px) <= LARGE) return;
    const url = largeUrl(hit.id, LARGEST);
    if (this.image.getAttribute("src") !== url) this.load(url);
  }

  draw() {
    const { hit } = this;
    this.frame.querySelector("svg.boxes")?.remove();
    this.canvas.after(drawBoxes(hit, true));
    const facts = [["Score", hit.score.toFixed(3)]];
    if (hit.rank) facts.push(["Rank", count(hit.rank)]);
    if (hit.date) facts.push(["Date", showDate(hit.date)]);
    facts.push(["Size", `${count(hit.width_px)} × ${count(hit.height_px)} pixels`]);
    byId("viewer-facts").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]));
    const list = byId("viewer-phrases"), held = [...list.querySelectorAll("input")].indexOf(document.activeElement);
    list.replaceChildren(...hit.phrases.map((phrase, i) => this.makeToggle(phrase, i)));
    list.querySelectorAll("input")[held]?.focus();
    this.hideOff();
  }

  makeToggle(phrase, i) {
    const box = make("input", { type: "checkbox", on: { change: () => {
      if (box.checked) this.off.delete(i);
      else this.off.add(i);
      this.hideOff();
      this.warm();
    } } });
    box.checked = !this.off.has(i);
    const dot = make("i", { class: "dot" });
    dot.style.background = colourOf(i);
    const several = phrase.regions.length > 1 ? `, ${phrase.regions.length} places` : "";
    const weak = this.hit.weakest !== null && phrase.score === Math.min(...this.hit.phrases.map((one) => one.score));
    const point = (on) => () => {
      const svg = this.frame.querySelector("svg.boxes");
      svg.classList.toggle("pointed", on);
      svg.querySelector(`[data-phrase="${i}"]`)?.classList.toggle("pointed", on);
    };
    const isPicture = i >= this.ask().texts.length;
    return make("li", {}, make("label", { on: { pointerenter: point(true), pointerleave: point(false) } }, box, dot,
      make("bdi", { class: "phrase", text: isPicture ? "the picture" : phrase.text }),
      make("span", { class: "score", text: `${phrase.score.toFixed(3)}${several}${weak ? ", weakest" : ""}` })));
  }

  hideOff() {
    for (const group of this.frame.querySelectorAll("[data-phrase]")) {
      group.setAttribute("visibility", this.off.has(Number(group.dataset.phrase)) ? "hidden" : "visible");
    }
  }

  setHeat(on) {
    this.heat = on;
    byId("viewer-warm").checked = on;
    this.warm();
  }

  async warm() {
    this.frame.classList.toggle("warm", false);
    if (!this.heat || !this.hit) return;
    const { hit } = this;
    let answer = null;
    try {
      answer = await getRegions(this.ask(), hit.id);
    } catch (error) {
      if (error.status && error.status !== 401) complain(error.message);
      return; // a server that is away comes back
    }
    if (this.hit !== hit || !this.heat) return;
    byId("viewer-cold").hidden = Boolean(answer);
    if (!answer) return;
    drawHeat(this.canvas, hit, answer.phrases.filter((_, i) => !this.off.has(i)));
    this.frame.classList.add("warm");
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = isTyping(event.target) && event.target.type !== "checkbox";
    if (event.key === "Escape" && this.part.box) this.part.clear();
    else if (typing) return;
    else if (this.zoom.near && ARROWS[event.key]) byId("viewer-stage").scrollBy(...ARROWS[event.key]);
    else if (event.key === "ArrowLeft") this.step(-1);
    else if (event.key === "ArrowRight") this.step(1);
    else if (event.key === "h") this.setHeat(!this.heat);
    else if (event.key === "z") this.zoom.toggle();
    else if (byId("viewer-part").hidden) return; // the photo is gone
    else if (event.key === "b") this.part.start();
    else if (event.key === "m") this.search({ id: String(this.hit.id), box: null });
    else return;
    event.preventDefault();
  }
}
