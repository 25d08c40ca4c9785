// What the page says: over the photos and below them, of errors, and in its title.

import { byId, count, countPhotos, isolate, make } from "./dom.js";
import { NO_ANSWER, reach, say } from "./reach.js";

const SCOPED = ["under", "since", "until", "larger_than", "ext"]; // filters that leave photos out unseen
let waits = null; // what is tried again when the server is back

export const isScoped = (query) => SCOPED.some((name) => query[name].length);

export function note(text) {
  byId("note").textContent = text ?? "";
  byId("note").hidden = !text;
}

/** An error as one line, with a way to try again; null: there is none. */
export function complain(text, again = null) {
  const line = byId("alert");
  waits = null;
  line.replaceChildren();
  line.hidden = !text;
  if (!text) return;
  line.append(make("span", { text }));
  if (again) line.append(make("button", { type: "button", text: "Try again", on: { click: () => {
    complain(null);
    say("back"); // photos that did not come are asked for, too
    again();
  } } }));
  line.append(make("button", { type: "button", text: "Dismiss", on: { click: () => complain(null) } }));
}

/** What the server said, or that it said nothing; what has no sense has none the next time. */
export function fail(error, again) {
  if (error.status === 401) return complain(null); // the token is asked for
  complain(error.message, error.status && error.status < 408 ? null : again);
  if (!error.status) waits = again;
}

reach.addEventListener("lost", () => {
  if (byId("alert").hidden) fail({ message: NO_ANSWER, status: 0 }, () => {});
});
reach.addEventListener("back", () => {
  const again = waits;
  if (!again) return;
  complain(null);
  again();
});

/** How many photos were looked at and are shown. */
export function tally(query, results, status) {
  const line = byId("tally"), end = byId("end-text"), first = results?.first;
  line.textContent = end.textContent = "";
  byId("further").hidden = !results?.resting;
  if (!first) return;
  const all = isScoped(query) ? null : status?.photos;
  const inScope = first.photos_in_scope ?? all ?? first.in_scope;
  const isViews = inScope === first.in_scope && status?.views > status?.photos; // parts of photos are views too
  const parts = [`${isViews ? `${count(inScope)} views of photos` : countPhotos(inScope)} searched`, `${count(results.hits.length)} shown`];
  if (results.hidden) parts.push(`${count(results.hidden)} hidden, there by chance`);
  if (first.seconds !== undefined) parts.push(`${first.seconds < 10 ? first.seconds.toFixed(2) : Math.round(first.seconds)} s`);
  line.textContent = parts.join(" · ");
  const hidden = results.hidden ? ` ${count(results.hidden)} more may be there by chance and are hidden.` : "";
  const empty = status?.photos === 0 && !results.hits.length;
  greet(status, empty);
  if (results.resting) end.textContent = `The last ones may all be there by chance: ${countPhotos(results.hidden)} are hidden so far.`;
  else if (results.next !== null || empty) end.textContent = "";
  else if (results.hits.length) end.textContent = `That was all: ${countPhotos(results.hits.length)}.${hidden}`;
  else end.textContent = `No photo here.${hidden || " Take a filter away, or say it in other words."}`;
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
