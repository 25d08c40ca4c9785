// The texts of the page: the status line, the alert, the welcome text, the end of the results, and the title.

import { byId, count, countPhotos, isolate, make } from "./dom.js";
import { connection, NO_ANSWER, notify } from "./connection.js";

const PHOTO_FILTERS = ["folder", "since", "until", "larger_than", "extension"]; // These limit which photos are searched.

let retry = null; // The function to call when the server answers again.
let showsNoAnswer = false; // Whether the alert says that the server does not answer.
let isDismissed = false; // Whether the user dismissed that alert; it stays away until the server answers.

export const limitsPhotos = (query) => PHOTO_FILTERS.some((name) => query[name].length);

export function showNote(text) {
  byId("note").textContent = text ?? "";
  byId("note").hidden = !text;
}

/** Shows one line of text with a button that calls `action`, if one is given; null removes the alert. */
export function showAlert(text, action = null, label = "Try again") {
  retry = null;
  renderAlert(text, action, label);
}

function renderAlert(text, action, label) {
  const alert = byId("alert");
  showsNoAnswer = false;
  alert.replaceChildren();
  alert.hidden = !text;
  if (!text) return;
  alert.append(make("span", { text }));
  if (action) alert.append(make("button", { type: "button", text: label, on: { click: () => {
    showAlert(null);
    notify("retry"); // Photos that failed to load are requested again, too.
    action();
  } } }));
  alert.append(make("button", { type: "button", text: "Dismiss", on: { click: () => {
    isDismissed = showsNoAnswer;
    alert.hidden = true; // `retry` is still called when the server answers again.
  } } }));
}

/** Shows an error of the server; `action` repeats the request, and is offered if that may succeed. */
export function showError(error, action) {
  if (error.status === 401) return showAlert(null); // The token dialog is open.
  const isTemporary = !error.status || [408, 429].includes(error.status) || error.status >= 500;
  // For images, the second half of the message is advice for programmers.
  showAlert(error.status === 422 ? error.message.split(" - ")[0] : error.message, isTemporary ? action : null);
  if (error.status) return;
  retry = action;
  showsNoAnswer = true;
}

connection.addEventListener("lost", () => {
  if (isDismissed || !byId("alert").hidden) return;
  const action = retry ?? (() => {});
  renderAlert(NO_ANSWER, action, "Try again");
  [retry, showsNoAnswer] = [action, true];
});
connection.addEventListener("retry", () => {
  const action = retry;
  isDismissed = false;
  if (showsNoAnswer) showAlert(null);
  retry = null;
  action?.();
});

/** Moves the alert into the open dialog, which would hide it otherwise. */
function placeAlert() {
  (document.querySelector("dialog[open]") ?? byId("main")).prepend(byId("alert"));
}
for (const dialog of document.querySelectorAll("dialog")) {
  new MutationObserver(placeAlert).observe(dialog, { attributes: true, attributeFilter: ["open"] });
}

/** Shows how many photos were searched and are shown, and the text below the last photo. */
export function showCounts(query, results, status) {
  const countsLine = byId("counts"), endText = byId("end-text"), answer = results?.firstAnswer;
  countsLine.textContent = endText.textContent = "";
  byId("load-more").hidden = !results?.failed;
  if (!answer) return;
  const allPhotos = limitsPhotos(query) ? null : status?.photos;
  const searched = answer.photos_in_scope ?? allPhotos ?? answer.in_scope;
  const areViews = searched === answer.in_scope && status?.views > status?.photos; // A photo can have several views.
  const parts = [
    `${areViews ? `${count(searched)} views of photos` : countPhotos(searched)} searched`,
    `${count(results.hits.length)} shown`,
  ];
  const { seconds } = answer;
  if (seconds !== undefined) parts.push(`${seconds < 10 ? seconds.toFixed(2) : Math.round(seconds)} s`);
  countsLine.textContent = parts.join(" · ");
  const isIndexEmpty = status?.photos === 0 && !results.hits.length;
  updateWelcome(status, isIndexEmpty);
  if (results.failed) endText.textContent = "The next photos did not load.";
  else if (results.nextOffset !== null || isIndexEmpty) endText.textContent = "";
  else if (results.hits.length) endText.textContent = `End of the results: ${countPhotos(results.hits.length)}.`;
  else endText.textContent = "No photos found. Remove a filter, or use other words.";
}

/** Shows, in place of photos, how to search, or that the index is empty. */
export function updateWelcome(status, isShown = true) {
  byId("welcome").hidden = !isShown;
  byId("introduction").hidden = status?.photos === 0;
  byId("empty-index").hidden = status?.photos !== 0;
  byId("photos").textContent = status?.photos
    ? `${countPhotos(status.photos)} in ${isolate(`“${status.index}”`)}, searched with ${status.model}` : "";
  const needsPath = status && status.index !== "default";
  byId("empty-index-command").textContent =
    `flairsearch index FOLDER${needsPath ? ` --index ${quoteForShell(status.index)}` : ""}`;
  byId("empty-index-path").hidden = !needsPath;
}

const quoteForShell = (name) => (/^[\w.,+@-]+$/.test(name) ? name : `'${name.replaceAll("'", "'\\''")}'`);

/** Sets the title of the page; the query comes first, since a narrow tab shows only the beginning. */
export function setTitle(query, status) {
  const phrases = [...query.texts, ...(query.image ? ["a picture"] : [])].join(", ");
  const subject = phrases || status?.index;
  document.title = subject ? `${subject} · flairsearch` : "flairsearch";
}
