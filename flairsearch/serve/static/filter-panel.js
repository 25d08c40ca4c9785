// The panel of filters: which photos are searched, and where and how large a match must be.

import { byId, count, fileName, isolate, make } from "./dom.js";
import { countFilters, emptyQuery, FILTER_NAMES } from "./query.js";

const INPUT_PAUSE_MS = 400; // Dates and sizes change several times before the user is done with them.
const OPPOSITE = { left: "right", right: "left", top: "bottom", bottom: "top" };

export class FilterPanel {
  /** onChange(filters): the user set a filter; filters has all fields of a query that are filters. */
  constructor(onChange) {
    this.onChange = onChange;
    this.panel = byId("filter-panel");
    this.form = byId("filters");
    this.button = byId("filters-open");
    this.query = emptyQuery();
    this.timer = 0;
    const narrowScreen = matchMedia("(max-width: 700px)");
    this.button.addEventListener("click", () => this.toggle(this.panel.hidden));
    byId("filters-close").addEventListener("click", () => this.toggle(false));
    byId("filters-shade").addEventListener("click", () => this.toggle(false));
    this.panel.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.toggle(false);
    });
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (narrowScreen.matches) this.toggle(false);
    });
    this.form.addEventListener("change", (event) => this.onControlChange(event.target));
    this.form.elements.min_area.addEventListener("input", () => {
      this.query = { ...this.query, min_area: this.readControl("min_area") };
      this.updateLabels();
    });
    byId("filters-clear").addEventListener("click", () => {
      this.show(emptyQuery());
      byId("filters-close").focus(); // The clicked button is disabled now.
      this.onChange(this.filters());
    });
  }

  onControlChange({ name, type, value, checked }) {
    if (name === "position" && checked && OPPOSITE[value]) {
      this.form.querySelector(`[value=${OPPOSITE[value]}]`).checked = false; // A match cannot be at both sides.
    }
    this.query = { ...this.query, [name]: this.readControl(name) };
    this.updateLabels();
    clearTimeout(this.timer);
    if (type === "date" && value && value < "1000") return; // The user is still typing the year.
    const delay = ["date", "range"].includes(type) ? INPUT_PAUSE_MS : 0;
    this.timer = setTimeout(() => this.onChange(this.filters()), delay);
  }

  toggle(isOpen) {
    this.panel.hidden = !isOpen;
    byId("filters-shade").hidden = !isOpen;
    this.button.setAttribute("aria-expanded", String(isOpen));
    if (isOpen) this.panel.querySelector("select, input").focus();
    else this.button.focus();
  }

  setFolders(folders) {
    const select = this.form.elements.folder;
    const options = folders.map(({ path, photos }) =>
      make("option", { value: path, text: `${isolate(fileName(path) || path)} (${count(photos)})`, title: path }));
    select.replaceChildren(select.options[0], ...options);
    this.show(this.query);
  }

  show(query) {
    const { elements } = this.form;
    clearTimeout(this.timer);
    this.query = query;
    for (const name of ["folder", "larger_than"]) {
      const select = elements[name];
      if (![...select.options].some((option) => option.value === query[name])) { // The value comes from the URL.
        select.append(make("option", { value: query[name], text: isolate(query[name]) }));
      }
      select.value = query[name];
    }
    elements.since.value = query.since;
    elements.until.value = query.until;
    elements.min_area.value = toPercent(query.min_area);
    const extensions = extensionsOf(query);
    for (const box of this.form.querySelectorAll("[name=position]")) box.checked = query.position.includes(box.value);
    for (const box of this.form.querySelectorAll("[name=extension]")) {
      box.checked = extensions.includes(box.value.split(",")[0]);
    }
    this.updateLabels();
  }

  updateLabels() {
    const area = toPercent(this.query.min_area);
    byId("area-value").textContent = area ? `${Number(area.toFixed(2))} % of the photo` : "any size";
    const active = countFilters(this.query);
    byId("filters-count").textContent = active || "";
    byId("filters-count").hidden = !active;
    byId("filters-clear").disabled = !active;
    this.button.setAttribute("aria-label", active ? `Filters, ${active} set` : "Filters");
  }

  /** All filters, with values of the URL that no control can show, such as since=2024. */
  filters() {
    return Object.fromEntries(FILTER_NAMES.map((name) => [name, this.query[name]]));
  }

  /** The value of one filter as its controls show it. */
  readControl(name) {
    const { [name]: control } = this.form.elements;
    const boxes = [...this.form.querySelectorAll(`[name=${name}]`)];
    const checkedValues = () => boxes.filter((box) => box.checked).map((box) => box.value);
    if (name === "min_area") return Number(control.value) ? `${control.value}%` : "";
    if (name === "position") return checkedValues();
    if (name !== "extension") return control.value;
    const withoutBox = extensionsOf(this.query).filter((extension) =>
      !boxes.some((box) => box.value.split(",").includes(extension)));
    return [...checkedValues(), ...withoutBox];
  }
}

const extensionsOf = (query) => query.extension.flatMap((list) => list.split(","));

/** Reads a share of the photo's area: "5%" and "0.05" are both 5. */
const toPercent = (text) => (parseFloat(text) || 0) * (text.trim().endsWith("%") ? 1 : 100);
