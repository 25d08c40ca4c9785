// Elements made in code: data only ever becomes text or an attribute, never markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element; `class`, `text`, `on` (event -> listener) and `data` are names of their own, the rest are attributes. */
export function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function makeSvg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** One of the symbols that index.html defines. */
export const icon = (name) => makeSvg("svg", { class: "icon", "aria-hidden": "true" }, makeSvg("use", { href: `#i-${name}` }));

export const fileName = (path) => path.split(/[\\/]/).pop();

/** The folder of a file, as a whole path. */
export const folderOf = (path) => path.slice(0, Math.max(0, path.length - fileName(path).length - 1)) || path.slice(0, 1);

/** A path whose names each keep their own direction of writing. */
export const pathNodes = (path) => path.split(/([\\/])/).map((part, i) => (i % 2 ? part : make("bdi", { text: part })));

/** Somebody's words, where markup cannot keep them from turning what is around them: in attributes and options. */
export const isolate = (text) => `\u2068${text}\u2069`;

export const count = (number) => number.toLocaleString("en");

export const countPhotos = (number) => `${count(number)} ${number === 1 ? "photo" : "photos"}`;

/** "2021-05-03T14:22:10", a clock without a zone, as it is written where the reader is. */
export const showDate = (text) => (text ? new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }) : "");

export const isTyping = (target) =>
  target instanceof HTMLElement && (target.isContentEditable || ["INPUT", "SELECT", "TEXTAREA"].includes(target.tagName));
