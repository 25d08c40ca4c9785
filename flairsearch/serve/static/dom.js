// Builds elements in code: data becomes text or an attribute, never markup. Also formats names, numbers and dates.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** Makes an element. Options `class`, `text`, `on` (event -> listener) and `data` are special, others are attributes. */
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

/** Shows one of the symbols that index.html defines. */
export const icon = (name) => makeSvg("svg", { class: "icon", "aria-hidden": "true" }, makeSvg("use", { href: `#i-${name}` }));

export const fileName = (path) => path.split(/[\\/]/).pop();

/** The absolute path of the folder of a file. */
export const folderOf = (path) => path.slice(0, Math.max(0, path.length - fileName(path).length - 1)) || path.slice(0, 1);

/** The nodes of a path; every name in it keeps its own direction of writing. */
export const pathNodes = (path) =>
  path.split(/([\\/])/).map((name, i) => (i % 2 ? name : make("bdi", { text: name })));

/** Keeps right-to-left text from reordering its surroundings where <bdi> cannot be used: in attributes and options. */
export const isolate = (text) => `\u2068${text}\u2069`;

export const count = (number) => number.toLocaleString("en");

export const countPhotos = (number) => `${count(number)} ${number === 1 ? "photo" : "photos"}`;

const DATE_STYLE = { dateStyle: "medium", timeStyle: "short" };

/** Formats "2021-05-03T14:22:10", a local time without a zone, in the style of the reader's country. */
export const formatDate = (text) => (text ? new Date(text).toLocaleString(undefined, DATE_STYLE) : "");

export const isTyping = (target) =>
  target instanceof HTMLElement && (target.isContentEditable || ["INPUT", "SELECT", "TEXTAREA"].includes(target.tagName));
