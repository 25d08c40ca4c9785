// The panel of filters: which photos are looked at, where in them, and what is there by chance.

import { byId, count, fileName, make } from "./dom.js";
import { emptyQuery, SCOPE, scopeCount } from "./query.js";

const OPPOSITE = { left: "right", right: "left", top: "bottom", bottom: "top" };

export class ScopePanel {
  /** change: (part of a query) when a filter was set. */
  constructor(change) {
    this.panel = byId("scope");
    this.form = byId("filters");
    this.button = byId("scope-open");
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
      this.label();
      change(this.read());
    });
    this.form.elements.min_area.addEventListener("input", () => this.label());
    byId("scope-clear").addEventListener("click", () => {
      this.show(emptyQuery());
      change(this.read());
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
    for (const { path, photos } of folders) {
      select.append(make("option", { value: path, text: `${fileName(path) || path} (${count(photos)})`, title: path }));
    }
  }

  show(query) {
    const { elements } = this.form;
    for (const name of ["under", "larger_than", "max_false_alarm"]) {
      const select = elements[name];
      if (![...select.options].some((option) => option.value === query[name])) { // from an address somebody wrote
        select.append(make("option", { value: query[name], text: query[name] }));
      }
      select.value = query[name];
    }
    elements.since.value = query.since;
    elements.until.value = query.until;
    elements.min_area.value = parseFloat(query.min_area) || 0;
    elements.hide.checked = query.hide;
    for (const box of this.form.querySelectorAll("[name=at]")) box.checked = query.at.includes(box.value);
    const kinds = query.ext.flatMap((one) => one.split(","));
    for (const box of this.form.querySelectorAll("[name=ext]")) box.checked = kinds.includes(box.value.split(",")[0]);
    this.label();
  }

  label() {
    const { min_area: area, max_false_alarm: alarm, hide } = this.form.elements;
    byId("area-shown").textContent = Number(area.value) ? `${area.value} % of the photo` : "any size";
    hide.disabled = !alarm.value;
    const active = scopeCount(this.read());
    byId("scope-count").textContent = active || "";
    byId("scope-count").hidden = !active;
    byId("scope-clear").disabled = !active;
    this.button.setAttribute("aria-label", active ? `Filters, ${active} set` : "Filters");
  }

  read() {
    const { elements } = this.form, empty = emptyQuery();
    const all = (name) => [...this.form.querySelectorAll(`[name=${name}]:checked`)].map((box) => box.value);
    const given = {
      under: elements.under.value, since: elements.since.value, until: elements.until.value,
      larger_than: elements.larger_than.value, max_false_alarm: elements.max_false_alarm.value, hide: elements.hide.checked,
      min_area: Number(elements.min_area.value) ? `${elements.min_area.value}%` : "", at: all("at"), ext: all("ext"),
    };
    return Object.fromEntries(SCOPE.map((name) => [name, given[name] ?? empty[name]]));
  }
}
