// What is asked for: as an object, in the page's address, and as the server wants it.

const PAGE = 48; // photos a request,
const DEEP = 192; // and where somebody scrolls on and on: deep pages cost the server nearly the same, however long
const ONCE = ["min_area", "under", "since", "until", "larger_than"];
const REPEATED = ["at", "ext"];
export const SCOPE = [...REPEATED, ...ONCE]; // what the panel of filters sets

/**
 * texts: phrases, the last one being what stands in the box. not: what must not be there.
 * picture: null, {id, box} of an indexed photo, or {file, key, box} of one of the user's; box: [l, t, r, b] or null.
 */
export function emptyQuery() {
  return {
    texts: [], not: [], picture: null, weight: "",
    at: [], ext: [], min_area: "", under: "", since: "", until: "", larger_than: "",
  };
}

export const isEmpty = (query) => !query.texts.length && !query.picture;

const MOST = 8; // phrases, and things that must not be there

export function tooMany({ texts, not }) {
  if (texts.length > MOST) return `A search may have ${MOST} phrases: take one away.`;
  return not.length > MOST ? `A search may leave ${MOST} things out: take one away.` : null;
}

export const phraseCount = (query) => query.texts.length + (query.picture ? 1 : 0);

export const scopeCount = (query) => SCOPE.filter((name) => query[name].length).length;

/** The address of the page that shows this; files: key -> File, for pictures that only this tab has. */
export function toAddress(query, photo = null) {
  const parameters = terms(query);
  if (query.picture?.key) {
    parameters.set("file", query.picture.key);
    if (query.picture.box) parameters.set("box", query.picture.box.join());
  }
  scope(query, parameters);
  if (photo !== null) parameters.set("photo", photo);
  const text = parameters.toString();
  return text ? `?${text}` : location.pathname;
}

export function fromAddress(text, files) {
  const given = new URLSearchParams(text), query = emptyQuery();
  query.texts = given.getAll("q").filter((one) => one.trim());
  query.not = given.getAll("not").filter((one) => one.trim());
  for (const name of REPEATED) query[name] = given.getAll(name);
  for (const name of ONCE) query[name] = given.get(name) ?? "";
  query.weight = given.get("image_weight") ?? "";
  const box = readBox(given.get("box"));
  if (given.get("image")) query.picture = { id: given.get("image"), box };
  else if (files.has(given.get("file"))) query.picture = { file: files.get(given.get("file")), key: given.get("file"), box };
  const lost = given.has("file") && !query.picture;
  return { query, photo: /^\d+$/.test(given.get("photo") ?? "") ? Number(given.get("photo")) : null, lost };
}

function readBox(text) {
  const box = (text ?? "").split(",").map(Number);
  return box.length === 4 && box.every(Number.isInteger) ? box : null;
}

/** Parameters of /search. */
export function searchParameters(query, offset) {
  const parameters = terms(query);
  scope(query, parameters);
  if (query.picture?.file && query.picture.box) parameters.set("box", query.picture.box.join());
  parameters.set("k", offset < DEEP ? PAGE : DEEP);
  if (offset) parameters.set("offset", offset);
  return parameters;
}

/** Parameters of /regions: phrases only. */
export function regionParameters(query) {
  const parameters = terms({ ...query, not: [] });
  if (query.picture?.file && query.picture.box) parameters.set("box", query.picture.box.join());
  return parameters;
}

function terms(query) {
  const parameters = new URLSearchParams();
  for (const text of query.texts) parameters.append("q", text);
  for (const text of query.not) parameters.append("not", text);
  if (query.picture?.id) {
    parameters.set("image", query.picture.id);
    if (query.picture.box) parameters.set("box", query.picture.box.join());
  }
  if (query.picture && query.weight) parameters.set("image_weight", query.weight);
  return parameters;
}

function scope(query, parameters) {
  for (const name of REPEATED) for (const value of query[name]) parameters.append(name, value);
  for (const name of ONCE) if (query[name]) parameters.set(name, query[name]);
}

/** "a dog on grass -leash" -> a phrase, and what must not be there; "-red leash" is all exclusion. */
export function readText(text) {
  const plain = text.trim().replace(/\s+/g, " ");
  if (plain.startsWith("-")) return { phrase: "", not: [unquote(plain.slice(1))].filter(Boolean) };
  const not = [];
  const phrase = plain.replace(/\s-(?:"([^"]+)"|([^\s"-]\S*))(?=\s|$)/g, (_, quoted, word) => {
    not.push((quoted ?? word).trim());
    return "";
  });
  return { phrase: phrase.trim(), not: not.filter(Boolean) };
}

const unquote = (text) => text.trim().replace(/^"(.*)"$/, "$1").trim();
