// What the page says: over the photos and below them, of errors, and in its title.

import { byId, count, countPhotos, isolate, make } from "./dom.js";
import { NO_ANSWER, reach, say } from "./reach.js";

const SCOPED = ["under", "since", "until", "larger_than", "ext"]; // filters that leave photos out unseen
let waits = null; // what is tried again when the server is back
let away = false; // that is what the line says
let dismissed = false; // the line, while the server was away

export const isScoped = (query) => SCOPED.some((name) => query[name].length);

export function note(text) {
  byId("note").textContent = text ?? "";
  byId("note").hidden = !text;
}

/** An error as one line, with a way on; null: there is none. */
export function complain(text, again = null, label = "Try again") {
  waits = null;
  show(text, again, label);
}

function show(text, again, label) {
  const line = byId("alert");
  away = false;
  line.replaceChildren();
  line.hidden = !text;
  if (!text) return;
  line.append(make("span", { text }));
  if (again) line.append(make("button", { type: "button", text: label, on: { click: () => {
    complain(null);
    say("back"); // photos that did not come are asked for, too
    again();
  } } }));
  line.append(make("button", { type: "button", text: "Dismiss", on: { click: () => {
    dismissed = away;
    line.hidden = true; // what waits for the server still does
  } } }));
}

/** What the server said, or that it said nothing; what has no sense has none the next time. */
export function fail(error, again) {
  if (error.status === 401) return complain(null); // the token is asked for
  const passes = !error.status || [408, 429].includes(error.status) || error.status >= 500;
  // What to do about a picture is said to those who write programs.
  complain(error.status === 422 ? error.message.split(" - ")[0] : error.message, passes ? again : null);
  if (error.status) return;
  waits = again;
  away = true;
}

reach.addEventListener("lost", () => {
  if (dismissed || !byId("alert").hidden) return;
  const again = waits ?? (() => {});
  show(NO_ANSWER, again, "Try again");
  [waits, away] = [again, true];
});
reach.addEventListener("back", () => {
  const again = waits;
  dismissed = false;
  if (away) complain(null);
  waits = null;
  again?.();
});

/** In front of a dialog that is open, which hides all that is beside it. */
function place() {
  (document.querySelector("dialog[open]") ?? byId("main")).prepend(byId("alert"));
}
for (const dialog of document.querySelectorAll("dialog")) {
  new MutationObserver(place).observe(dialog, { attributes: true, attributeFilter: ["open"] });
}

/** How many photos were looked at and are shown. */
export function tally(query, results, status) {
  const line = byId("tally"), end = byId("end-text"), first = results?.first;
  line.textContent = end.textContent = "";
  byId("further").hidden = !results?.failed;
  if (!first) return;
  const all = isScoped(query) ? null : status?.photos;
  const inScope = first.photos_in_scope ?? all ?? first.in_scope;
  const isViews = inScope === first.in_scope && status?.views > status?.photos; // parts of photos are views too
  const parts = [`${isViews ? `${count(inScope)} views of photos` : countPhotos(inScope)} searched`, `${count(results.hits.length)} shown`];
  if (first.seconds !== undefined) parts.push(`${first.seconds < 10 ? first.seconds.toFixed(2) : Math.round(first.seconds)} s`);
  line.textContent = parts.join(" · ");
  const empty = status?.photos === 0 && !results.hits.length;
  greet(status, empty);
  if (results.failed) end.textContent = "The next photos did not come.";
  else if (results.next !== null || empty) end.textContent = "";
  else if (results.hits.length) end.textContent = `That was all: ${countPhotos(results.hits.length)}.`;
  else end.textContent = "No photo here. Take a filter away, or say it in other words.";
}

/** Instead of photos: what to do, or that the index is empty. */
export function greet(status, shown = true) {
  byId("welcome").hidden = !shown;
  byId("hello").hidden = status?.photos === 0;
  byId("nothing").hidden = status?.photos !== 0;
  byId("photos").textContent = status?.photos ? `${countPhotos(status.photos)} in ${isolate(`“${status.index}”`)}, searched by ${status.model}` : "";
  const other = status && status.index !== "default";
  byId("nothing-command").textContent = `flairsearch index FOLDER${other ? ` --index ${quote(status.index)}` : ""}`;
  byId("nothing-index").hidden = !other;
}

const quote = (name) => (/^[\w.,+@-]+$/.test(name) ? name : `'${name.replaceAll("'", "'\\''")}'`); // as a shell wants it

/** The query first: of many tabs only that much is seen. */
export function entitle(query, status) {
  const terms = [...query.texts, ...(query.picture ? ["a picture"] : [])].join(", ");
  const what = terms || status?.index;
  document.title = what ? `${what} · flairsearch` : "flairsearch";
}
