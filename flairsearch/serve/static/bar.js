// The search box: the phrase that is being typed, and chips for further phrases, exclusions and the picture.

import { byId, icon, make } from "./dom.js";
import { pictureChip } from "./picture.js";
import { readText } from "./query.js";
import { colourOf } from "./regions.js";

const PAUSE = 450; // ms without a key before what stands in the box is searched for

const isTouched = () => matchMedia("(pointer: coarse)").matches;

export class Bar {
  /** change: ({texts, not}, live) when it asks for something else; drop, part: the picture's chip was closed, opened. */
  constructor({ change, drop, part }) {
    Object.assign(this, { change, drop, part, chips: [], not: [], picture: null, timer: 0, waits: null });
    this.box = byId("box");
    this.list = byId("chips");
    this.input = byId("text");
    this.dot = byId("dot");
    byId("search").addEventListener("submit", (event) => {
      event.preventDefault();
      this.enter();
    });
    byId("and").addEventListener("click", () => this.addPhrase());
    byId("without").addEventListener("click", () => this.addExclusion());
    this.input.addEventListener("input", () => this.typed());
    this.input.addEventListener("keydown", (event) => this.key(event));
    this.box.addEventListener("mousedown", (event) => {
      if (event.target !== this.box && event.target !== this.list) return;
      event.preventDefault();
      this.input.focus();
    });
  }

  /** What a query asks for; its last text stands in the box. */
  show(query) {
    clearTimeout(this.timer);
    this.chips = query.texts.slice(0, -1);
    this.not = [...query.not];
    this.picture = query.picture;
    this.input.value = query.texts.at(-1) ?? "";
    this.draw();
  }

  /** Not where a keyboard would come up over the photos. */
  focus() {
    if (!isTouched()) this.input.focus();
  }

  /** What is being typed waits, while a photo is looked at. */
  pause() {
    clearTimeout(this.timer);
    this.waits = this.input.value;
  }

  /** Unless the box was filled otherwise meanwhile. */
  resume() {
    if (this.waits === this.input.value) this.typed();
    this.waits = null;
  }

  setPicture(picture) {
    this.picture = picture;
    this.draw();
  }

  get terms() {
    const { phrase, not } = readText(this.input.value);
    return { texts: [...this.chips, ...(phrase ? [phrase] : [])], not: [...this.not, ...not] };
  }

  tell(live = false) {
    clearTimeout(this.timer);
    this.change(this.terms, live);
    this.draw();
  }

  typed() {
    clearTimeout(this.timer);
    this.drawDot();
    if (/^\s*-/.test(this.input.value)) return; // an exclusion waits for Enter
    this.timer = setTimeout(() => this.tell(true), PAUSE);
  }

  /** Exclusions in the text become chips; the phrase stays, to be changed. */
  enter() {
    const { phrase, not } = readText(this.input.value);
    this.not = [...new Set([...this.not, ...not])];
    this.input.value = phrase;
    if (isTouched()) this.input.blur(); // the keyboard would cover the photos
    this.tell();
  }

  addPhrase() {
    const { phrase, not } = readText(this.input.value);
    if (phrase) this.chips.push(phrase);
    this.not = [...new Set([...this.not, ...not])];
    this.input.value = "";
    this.tell();
    this.input.focus();
  }

  addExclusion() {
    const text = this.input.value.trim().replace(/^-\s*/, "");
    if (text && this.input.value.trim().startsWith("-")) return this.enter();
    if (text) this.addPhrase(); // what was typed stays a phrase, and the exclusion begins
    this.input.value = "-";
    this.input.focus();
  }

  key(event) {
    if (event.key === "Enter" && event.shiftKey) {
      event.preventDefault();
      this.addPhrase();
    } else if (event.key === "Backspace" && !this.input.value && (this.chips.length || this.not.length)) {
      event.preventDefault(); // the last chip is typed on
      this.input.value = this.not.length ? `-${this.not.pop()}` : this.chips.pop();
      this.draw();
      this.typed();
    } else if (event.key === "ArrowLeft" && this.input.selectionEnd === 0) {
      this.list.querySelector("li:last-child button")?.focus();
    } else if (event.key === "Escape" && this.input.value) {
      event.preventDefault();
      this.input.value = "";
      this.tell();
    }
  }

  draw() {
    const chips = [];
    if (this.picture) {
      const colour = colourOf(this.terms.texts.length);
      chips.push(pictureChip(this.picture, colour, () => this.part(), () => {
        this.drop();
        this.focus();
      }));
    }
    this.chips.forEach((text, i) => chips.push(this.makeChip(text, colourOf(i), () => this.chips.splice(i, 1)[0], "phrase")));
    this.not.forEach((text, i) => chips.push(this.makeChip(text, null, () => `-${this.not.splice(i, 1)[0]}`, "not")));
    this.list.replaceChildren(...chips);
    this.list.hidden = !chips.length;
    this.drawDot();
  }

  drawDot() {
    const several = this.chips.length || this.picture;
    this.dot.hidden = !several || !readText(this.input.value).phrase;
    this.dot.style.background = colourOf(this.chips.length);
    this.box.classList.toggle("filled", Boolean(this.input.value || this.chips.length || this.not.length || this.picture));
  }

  /** take: removes it and gives the text that stood for it. */
  makeChip(text, colour, take, kind) {
    const dot = colour ? make("i", { class: "dot" }) : make("b", { text: "not" });
    if (colour) dot.style.background = colour;
    const edit = make("button", { class: "edit", type: "button", title: "Change", "aria-label": `Change ${kind} ${text}`, on: { click: () => {
      const shown = take(), { phrase, not } = readText(this.input.value);
      if (phrase) this.chips.push(phrase);
      this.not = [...new Set([...this.not, ...not])];
      this.input.value = shown;
      this.tell(true); // phrases changed places, and with them their colours
      this.input.focus();
    } } }, dot, make("bdi", { text }));
    const remove = make("button", { class: "remove", type: "button", "aria-label": `Remove ${kind} ${text}`, on: { click: () => {
      take();
      this.tell();
      this.focus();
    } } }, icon("close"));
    return make("li", { class: `chip ${kind}`, on: { keydown: (event) => this.chipKey(event, remove) } }, edit, remove);
  }

  chipKey(event, remove) {
    if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      remove.click();
    } else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const all = [...this.list.querySelectorAll("button"), this.input];
      all[all.indexOf(document.activeElement) + (event.key === "ArrowLeft" ? -1 : 1)]?.focus();
      event.preventDefault();
    }
  }
}
