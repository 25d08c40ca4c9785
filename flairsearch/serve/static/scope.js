// The panel of filters: which photos are looked at, and where in them.

import { byId, count, fileName, isolate, make } from "./dom.js";
import { emptyQuery, SCOPE, scopeCount } from "./query.js";

const PAUSE = 400; // ms: dates and sizes change many times before they are what is meant
const OPPOSITE = { left: "right", right: "left", top: "bottom", bottom: "top" };

export class ScopePanel {
  /** change: (part of a query) when a filter was set. */
  constructor(change) {
    this.panel = byId("scope");
    this.form = byId("filters");
    this.button = byId("scope-open");
    this.query = emptyQuery();
    this.timer = 0;
    const narrow = matchMedia("(max-width: 700px)");
    this.button.addEventListener("click", () => this.toggle(this.panel.hidden));
    byId("scope-close").addEventListener("click", () => this.toggle(false));
    byId("scope-shade").addEventListener("click", () => this.toggle(false));
    this.panel.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.toggle(false);
    });
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (narrow.matches) this.toggle(false);
    });
    this.form.addEventListener("change", (event) => {
      const { name, value, checked } = event.target;
      if (name === "at" && checked && OPPOSITE[value]) this.form.querySelector(`[value=${OPPOSITE[value]}]`).checked = false;
      this.query = { ...this.query, [name]: this.read(name) };
      this.label();
      clearTimeout(this.timer);
      if (event.target.type === "date" && value && value < "1000") return; // a year that is being typed
      this.timer = setTimeout(() => change(this.scope()), ["date", "range"].includes(event.target.type) ? PAUSE : 0);
    });
    this.form.elements.min_area.addEventListener("input", () => {
      this.query = { ...this.query, min_area: this.read("min_area") };
      this.label();
    });
    byId("scope-clear").addEventListener("click", () => {
      this.show(emptyQuery());
      byId("scope-close").focus(); // this button is disabled now
      change(this.scope());
    });
  }

  toggle(open) {
    this.panel.hidden = !open;
    byId("scope-shade").hidden = !open;
    this.button.setAttribute("aria-expanded", String(open));
    if (open) this.panel.querySelector("select, input").focus();
    else this.button.focus();
  }

  setFolders(folders) {
    const select = this.form.elements.under;
    const options = folders.map(({ path, photos }) =>
      make("option", { value: path, text: `${isolate(fileName(path) || path)} (${count(photos)})`, title: path }));
    select.replaceChildren(select.options[0], ...options);
    this.show(this.query);
  }

  show(query) {
    const { elements } = this.form;
    clearTimeout(this.timer);
    this.query = query;
    for (const name of ["under", "larger_than"]) {
      const select = elements[name];
      if (![...select.options].some((option) => option.value === query[name])) { // from an address somebody wrote
        select.append(make("option", { value: query[name], text: isolate(query[name]) }));
      }
      select.value = query[name];
    }
    elements.since.value = query.since;
    elements.until.value = query.until;
    elements.min_area.value = percent(query.min_area);
    for (const box of this.form.querySelectorAll("[name=at]")) box.checked = query.at.includes(box.value);
    for (const box of this.form.querySelectorAll("[name=ext]")) box.checked = kinds(query).includes(box.value.split(",")[0]);
    this.label();
  }

  label() {
    const area = percent(this.query.min_area);
    byId("area-shown").textContent = area ? `${Number(area.toFixed(2))} % of the photo` : "any size";
    const active = scopeCount(this.query);
    byId("scope-count").textContent = active || "";
    byId("scope-count").hidden = !active;
    byId("scope-clear").disabled = !active;
    this.button.setAttribute("aria-label", active ? `Filters, ${active} set` : "Filters");
  }

  /** What is set, with what an address can say and no control can show: since=2024. */
  scope() {
    return Object.fromEntries(SCOPE.map((name) => [name, this.query[name]]));
  }

  /** What one control says. */
  read(name) {
    const { [name]: control } = this.form.elements;
    const boxes = [...this.form.querySelectorAll(`[name=${name}]`)];
    if (name === "min_area") return Number(control.value) ? `${control.value}%` : "";
    if (name === "at") return boxes.filter((box) => box.checked).map((box) => box.value);
    if (name !== "ext") return control.value;
    const others = kinds(this.query).filter((kind) => !boxes.some((box) => box.value.split(",").includes(kind)));
    return [...boxes.filter((box) => box.checked).map((box) => box.value), ...others];
  }
}

const kinds = (query) => query.ext.flatMap((one) => one.split(","));

/** "5%" and "0.05" are 5. */
const percent = (text) => (parseFloat(text) || 0) * (text.trim().endsWith("%") ? 1 : 100);
