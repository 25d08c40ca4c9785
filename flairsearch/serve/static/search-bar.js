// The search box: the phrase that is being typed, and chips for other phrases, exclusions and the image.

import { byId, icon, make } from "./dom.js";
import { makeImageChip } from "./image-query.js";
import { parseText } from "./query.js";
import { colourOf } from "./regions.js";

const TYPING_PAUSE_MS = 450; // A search starts this long after the last key.

const hasTouchScreen = () => matchMedia("(pointer: coarse)").matches;

export class SearchBar {
  /**
   * onChange({texts, exclude}, isTyping): the search changed. onRemoveImage(): the image's chip was closed.
   * onEditImage(): the image's chip was clicked.
   */
  constructor({ onChange, onRemoveImage, onEditImage }) {
    Object.assign(this, { onChange, onRemoveImage, onEditImage });
    this.phrases = []; // The phrases that have chips: all but the one in the text field.
    this.exclude = [];
    this.image = null;
    this.timer = 0;
    this.pausedText = null; // The text in the field when pause() was called.
    this.box = byId("box");
    this.chipList = byId("chips");
    this.input = byId("text");
    this.dot = byId("dot");
    byId("search").addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    byId("add-phrase").addEventListener("click", () => this.addPhrase());
    byId("add-exclusion").addEventListener("click", () => this.addExclusion());
    this.input.addEventListener("input", () => this.onInput());
    this.input.addEventListener("keydown", (event) => this.onKey(event));
    this.box.addEventListener("mousedown", (event) => {
      if (event.target !== this.box && event.target !== this.chipList) return;
      event.preventDefault();
      this.input.focus();
    });
  }

  /** Shows a query; its last phrase goes into the text field. */
  show(query) {
    clearTimeout(this.timer);
    this.phrases = query.texts.slice(0, -1);
    this.exclude = [...query.exclude];
    this.image = query.image;
    this.input.value = query.texts.at(-1) ?? "";
    this.draw();
  }

  /** Focuses the text field, except on touch screens, where a keyboard would cover the photos. */
  focus() {
    if (!hasTouchScreen()) this.input.focus();
  }

  /** Stops searching for the text that is being typed, until resume() is called. */
  pause() {
    clearTimeout(this.timer);
    this.pausedText = this.input.value;
  }

  /** Searches for the text of pause(), unless the field has another text by now. */
  resume() {
    if (this.pausedText === this.input.value) this.onInput();
    this.pausedText = null;
  }

  setImage(image) {
    this.image = image;
    this.draw();
  }

  get terms() {
    const { phrase, exclude } = parseText(this.input.value);
    return { texts: [...this.phrases, ...(phrase ? [phrase] : [])], exclude: [...this.exclude, ...exclude] };
  }

  applyChange(isTyping = false) {
    clearTimeout(this.timer);
    this.onChange(this.terms, isTyping);
    this.draw();
  }

  onInput() {
    clearTimeout(this.timer);
    this.drawDot();
    if (/^\s*-/.test(this.input.value)) return; // An exclusion is applied on Enter only.
    this.timer = setTimeout(() => this.applyChange(true), TYPING_PAUSE_MS);
  }

  /** Turns exclusions in the text into chips; the phrase stays in the field. */
  submit() {
    const { phrase, exclude } = parseText(this.input.value);
    this.addExclusions(exclude);
    this.input.value = phrase;
    if (hasTouchScreen()) this.input.blur(); // The keyboard would cover the photos.
    this.applyChange();
  }

  addExclusions(texts) {
    this.exclude = [...new Set([...this.exclude, ...texts])];
  }

  /** Turns the text in the field into chips. */
  moveTextToChips() {
    const { phrase, exclude } = parseText(this.input.value);
    if (phrase) this.phrases.push(phrase);
    this.addExclusions(exclude);
  }

  addPhrase() {
    this.moveTextToChips();
    this.input.value = "";
    this.applyChange();
    this.input.focus();
  }

  addExclusion() {
    const text = this.input.value.trim().replace(/^-\s*/, "");
    if (text && this.input.value.trim().startsWith("-")) return this.submit();
    if (text) this.addPhrase(); // The text so far becomes a phrase of its own.
    this.input.value = "-";
    this.input.focus();
  }

  onKey(event) {
    if (event.key === "Enter" && event.shiftKey) {
      event.preventDefault();
      this.addPhrase();
    } else if (event.key === "Backspace" && !this.input.value && (this.phrases.length || this.exclude.length)) {
      event.preventDefault(); // The last chip returns to the field, without losing its last letter.
      this.input.value = this.exclude.length ? `-${this.exclude.pop()}` : this.phrases.pop();
      this.draw();
      this.onInput();
    } else if (event.key === "ArrowLeft" && this.input.selectionEnd === 0) {
      this.chipList.querySelector("li:last-child button")?.focus();
    } else if (event.key === "Escape" && this.input.value) {
      event.preventDefault();
      this.input.value = "";
      this.applyChange();
    }
  }

  draw() {
    const chips = [];
    if (this.image) {
      const colour = colourOf(this.terms.texts.length);
      chips.push(makeImageChip(this.image, colour, () => this.onEditImage(), () => {
        this.onRemoveImage();
        this.focus();
      }));
    }
    this.phrases.forEach((text, i) =>
      chips.push(this.makeChip(text, colourOf(i), "phrase", () => this.phrases.splice(i, 1)[0])));
    this.exclude.forEach((text, i) =>
      chips.push(this.makeChip(text, null, "exclusion", () => `-${this.exclude.splice(i, 1)[0]}`)));
    this.chipList.replaceChildren(...chips);
    this.chipList.hidden = !chips.length;
    this.drawDot();
  }

  /** Shows the colour of the phrase in the field when there are several phrases. */
  drawDot() {
    const hasOthers = this.phrases.length || this.image;
    this.dot.hidden = !hasOthers || !parseText(this.input.value).phrase;
    this.dot.style.background = colourOf(this.phrases.length);
    const isFilled = this.input.value || this.phrases.length || this.exclude.length || this.image;
    this.box.classList.toggle("filled", Boolean(isFilled));
  }

  /** kind: "phrase" or "exclusion". takeText() removes the text of the chip from the search and returns it. */
  makeChip(text, colour, kind, takeText) {
    const marker = colour ? make("i", { class: "dot" }) : make("b", { text: "not" });
    if (colour) marker.style.background = colour;
    const onEdit = () => {
      const taken = takeText();
      this.moveTextToChips();
      this.input.value = taken;
      this.applyChange(true); // The order of the phrases changed, and with it their colours.
      this.input.focus();
    };
    const onRemove = () => {
      takeText();
      this.applyChange();
      this.focus();
    };
    const edit = make("button", {
      class: "edit", type: "button", title: "Change", "aria-label": `Change ${kind} ${text}`, on: { click: onEdit },
    }, marker, make("bdi", { text }));
    const remove = make("button", {
      class: "remove", type: "button", "aria-label": `Remove ${kind} ${text}`, on: { click: onRemove },
    }, icon("close"));
    return make("li", { class: `chip ${kind}`, on: { keydown: (event) => this.onChipKey(event, remove) } }, edit, remove);
  }

  onChipKey(event, remove) {
    if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      remove.click();
    } else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const stops = [...this.chipList.querySelectorAll("button"), this.input];
      stops[stops.indexOf(document.activeElement) + (event.key === "ArrowLeft" ? -1 : 1)]?.focus();
      event.preventDefault();
    }
  }
}
