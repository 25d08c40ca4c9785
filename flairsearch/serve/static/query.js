// The query and its filters: as an object, in the URL of the page, and as parameters of the server's requests.

const PAGE_SIZE = 48; // Photos per request at the start of a search.
const DEEP_PAGE_SIZE = 192; // Photos per request for deep pages, which cost the server nearly the same at any size.
const SINGLE_FILTERS = ["min_area", "folder", "since", "until", "larger_than"]; // Parameters that occur once.
const LIST_FILTERS = ["position", "extension"]; // Parameters that may be repeated.
export const FILTER_NAMES = [...LIST_FILTERS, ...SINGLE_FILTERS]; // Everything that the filter panel sets.
const MAX_TEXTS = 8; // The server takes at most this many phrases, and as many exclusions.

/**
 * texts: phrases; the last one is the text in the search box. exclude: texts that a photo must not show.
 * image: null, {id, box} for an indexed photo, or {file, key, box} for a file of the user's.
 * box: [left, top, right, bottom] in pixels of the upright original, or null for the whole image.
 * image_weight: "" or a number as text. The remaining fields are the filters, named as the server's parameters.
 */
export function emptyQuery() {
  return {
    texts: [], exclude: [], image: null, image_weight: "",
    position: [], extension: [], min_area: "", folder: "", since: "", until: "", larger_than: "",
  };
}

export const isEmpty = (query) => !query.texts.length && !query.image;

/** What to tell the user when the query has more texts than the server takes; null otherwise. */
export function tooManyTexts({ texts, exclude }) {
  if (texts.length > MAX_TEXTS) return `A search can have at most ${MAX_TEXTS} phrases: remove one.`;
  return exclude.length > MAX_TEXTS ? `A search can have at most ${MAX_TEXTS} exclusions: remove one.` : null;
}

export const countPhrases = (query) => query.texts.length + (query.image ? 1 : 0);

export const countFilters = (query) => FILTER_NAMES.filter((name) => query[name].length).length;

/** The URL of the page that shows this query, and the large view of `photo` (an id) if it is given. */
export function toUrl(query, photo = null) {
  const parameters = queryParameters(query);
  if (query.image?.key) {
    parameters.set("file", query.image.key);
    if (query.image.box) parameters.set("box", query.image.box.join());
  }
  addFilters(query, parameters);
  if (photo !== null) parameters.set("photo", photo);
  const text = parameters.toString();
  return text ? `?${text}` : location.pathname;
}

/**
 * The inverse of toUrl. files: key -> File, the image files that this tab holds.
 * -> {query, photo: id or null, isFileLost: whether the URL names a file that this tab does not hold}.
 */
export function fromUrl(search, files) {
  const given = new URLSearchParams(search), query = emptyQuery();
  query.texts = given.getAll("q").filter((text) => text.trim());
  query.exclude = given.getAll("exclude").filter((text) => text.trim());
  for (const name of LIST_FILTERS) query[name] = given.getAll(name);
  for (const name of SINGLE_FILTERS) query[name] = given.get(name) ?? "";
  query.image_weight = given.get("image_weight") ?? "";
  const box = parseBox(given.get("box")), key = given.get("file"), photo = given.get("photo") ?? "";
  if (given.get("image")) query.image = { id: given.get("image"), box };
  else if (files.has(key)) query.image = { file: files.get(key), key, box };
  const isFileLost = given.has("file") && !query.image;
  return { query, photo: /^\d+$/.test(photo) ? Number(photo) : null, isFileLost };
}

function parseBox(text) {
  const box = (text ?? "").split(",").map(Number);
  return box.length === 4 && box.every(Number.isInteger) ? box : null;
}

/** Parameters of /search. */
export function searchParameters(query, offset) {
  const parameters = queryParameters(query);
  addFilters(query, parameters);
  if (query.image?.file && query.image.box) parameters.set("box", query.image.box.join());
  parameters.set("k", offset < DEEP_PAGE_SIZE ? PAGE_SIZE : DEEP_PAGE_SIZE);
  if (offset) parameters.set("offset", offset);
  return parameters;
}

/** Parameters of /regions, which takes phrases but neither exclusions nor filters. */
export function regionParameters(query) {
  const parameters = queryParameters({ ...query, exclude: [] });
  if (query.image?.file && query.image.box) parameters.set("box", query.image.box.join());
  return parameters;
}

function queryParameters(query) {
  const parameters = new URLSearchParams();
  for (const text of query.texts) parameters.append("q", text);
  for (const text of query.exclude) parameters.append("exclude", text);
  if (query.image?.id) {
    parameters.set("image", query.image.id);
    if (query.image.box) parameters.set("box", query.image.box.join());
  }
  if (query.image && query.image_weight) parameters.set("image_weight", query.image_weight);
  return parameters;
}

function addFilters(query, parameters) {
  for (const name of LIST_FILTERS) for (const value of query[name]) parameters.append(name, value);
  for (const name of SINGLE_FILTERS) if (query[name]) parameters.set(name, query[name]);
}

/** Splits "a dog on grass -leash" into a phrase and exclusions; "-red leash" is one exclusion as a whole. */
export function parseText(text) {
  const plain = text.trim().replace(/\s+/g, " ");
  if (plain.startsWith("-")) return { phrase: "", exclude: [unquote(plain.slice(1))].filter(Boolean) };
  const exclude = [];
  const phrase = plain.replace(/\s-(?:"([^"]+)"|([^\s"-]\S*))(?=\s|$)/g, (_, quoted, word) => {
    exclude.push((quoted ?? word).trim());
    return "";
  });
  return { phrase: phrase.trim(), exclude: exclude.filter(Boolean) };
}

const unquote = (text) => text.trim().replace(/^"(.*)"$/, "$1").trim();
