// The large view: a photo with all its regions, heat, what is known of it, and a box to draw for the next search.

import { getRegions, largeUrl, originalUrl, thumbnailUrl } from "./api.js";
import { byId, count, fileName, isTyping, make, percent } from "./dom.js";
import { fit, Part } from "./part.js";
import { colourOf, drawBoxes, drawHeat } from "./regions.js";

export class Viewer {
  /** ask: () -> the query; step: (by) to another photo; search: ({id, box}); closed: (hit) when it was closed by hand. */
  constructor({ ask, step, search, closed }) {
    Object.assign(this, { ask, step, search, hit: null, off: new Set(), heat: false });
    this.dialog = byId("viewer");
    this.frame = byId("viewer-frame");
    this.image = byId("viewer-image");
    this.canvas = byId("viewer-heat");
    this.image.addEventListener("load", () => this.image.classList.add("there"));
    this.part = new Part(this.frame, (box) => search({ id: String(this.hit.id), box }));
    byId("viewer-close").addEventListener("click", () => this.dialog.close());
    byId("viewer-back").addEventListener("click", () => step(-1));
    byId("viewer-on").addEventListener("click", () => step(1));
    byId("viewer-like").addEventListener("click", () => search({ id: String(this.hit.id), box: null }));
    byId("viewer-part").addEventListener("click", () => this.part.start());
    byId("viewer-warm").addEventListener("change", (event) => this.setHeat(event.target.checked));
    this.dialog.addEventListener("close", () => {
      if (this.dialog.open) return; // opened again meanwhile
      const { hit } = this;
      this.forget();
      if (hit) closed(hit);
    });
    document.addEventListener("keydown", (event) => this.dialog.open && this.key(event)); // wherever the focus went
    new ResizeObserver(() => this.lay()).observe(byId("viewer-stage"));
    addEventListener("resize", () => this.lay());
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
    byId("viewer-path").textContent = hit.path;
    byId("viewer-original").href = originalUrl(hit.id);
    byId("viewer-back").disabled = !before;
    byId("viewer-on").disabled = !after;
    this.image.alt = name;
    this.image.classList.remove("there");
    this.image.src = largeUrl(hit.id);
    this.frame.style.backgroundImage = `url("${thumbnailUrl(hit.id, 512)}")`; // until the large one is there
    this.canvas.classList.remove("warm");
    this.part.setSize(hit.width_px, hit.height_px);
    if (!this.dialog.open) this.dialog.showModal();
    this.draw();
    this.lay();
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

  lay() {
    if (!this.hit || !this.dialog.open) return;
    fit(this.frame, byId("viewer-stage"), this.hit.width_px, this.hit.height_px);
    if (this.part.box) this.part.place();
  }

  draw() {
    const { hit } = this;
    this.frame.querySelector("svg.boxes")?.remove();
    this.canvas.after(drawBoxes(hit, true));
    const facts = [["Score", hit.score.toFixed(3)]];
    if (hit.confidence !== null) facts.push(["Sure", percent(hit.confidence) + (hit.matches === false ? ", may be by chance" : "")]);
    facts.push(["Rank", count(hit.rank)], ["Size", `${count(hit.width_px)} × ${count(hit.height_px)} pixels`]);
    if (!hit.rank) facts.splice(facts.findIndex(([name]) => name === "Rank"), 1);
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
      make("span", { class: "phrase", text: isPicture ? "the picture" : phrase.text }),
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
    } catch { /* said below */ }
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
    else if (event.key === "ArrowLeft") this.step(-1);
    else if (event.key === "ArrowRight") this.step(1);
    else if (event.key === "h") this.setHeat(!this.heat);
    else if (event.key === "b") this.part.start();
    else if (event.key === "m") this.search({ id: String(this.hit.id), box: null });
    else return;
    event.preventDefault();
  }
}
