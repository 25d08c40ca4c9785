// The page: one query, its results, and the address that both are written in.

import { getRegions, getStatus } from "./api.js";
import { Bar } from "./bar.js";
import { byId, count, isTyping, make } from "./dom.js";
import { Grid } from "./grid.js";
import { files, PictureDialog, rememberSizes, watchForPictures } from "./picture.js";
import { emptyQuery, fromAddress, isEmpty, phraseCount, toAddress } from "./query.js";
import { Kept, Results } from "./results.js";
import { ScopePanel } from "./scope.js";
import { Viewer } from "./viewer.js";

const PATIENCE = 200; // ms before a search is said to go on
const SCOPED = ["under", "since", "until", "larger_than", "ext"]; // filters that leave photos out unseen
const EXAMPLES = [
  { texts: ["a dog running on grass"] }, { texts: ["a child in a red shirt"] }, { texts: ["a boat on the water"] },
  { texts: ["a man", "a bicycle"] }, { texts: ["a dog"], not: ["grass"] },
];

let query = emptyQuery();
let results = null;
let status = null;
let typing = false; // the newest entry of the history is of a text that is being typed
let pushed = false; // the viewer's entry is ours to go back from
const kept = new Kept();

const grid = new Grid(byId("grid"), () => query, (index) => openPhoto(grid.hits[index], true));
const viewer = new Viewer({ ask: () => query, step, search: searchPicture, closed: closePhoto });
const bar = new Bar({
  change: (terms, live) => go({ ...query, ...terms }, live, true),
  drop: () => go({ ...query, picture: null, weight: "" }),
  part: () => pictureDialog.open(query.picture, query.weight, query.texts.length > 0),
});
const scope = new ScopePanel((filters) => go({ ...query, ...filters }));
const pictureDialog = new PictureDialog((picture, weight) => {
  go({ ...query, picture, weight });
  bar.input.focus(); // the chip that had the focus was drawn anew
});
watchForPictures((picture) => {
  viewer.hide();
  pictureDialog.dialog.close();
  go({ ...query, picture });
}, complain);

const sentinel = new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && more(), { rootMargin: "1200px 0px" });

// -- searching

/** Another query, as an entry of the history; typed: in the box, and live: while it is, all in one entry. */
function go(wanted, live = false, typed = false) {
  const before = toAddress(query), address = toAddress(wanted);
  const change = wanted.picture !== query.picture;
  query = wanted;
  if (address !== before || !results) {
    keepScroll();
    if ((typing && typed) || address === before) history.replaceState(null, "", address);
    else history.pushState(null, "", address);
  } else if (live) return;
  typing = live;
  if (change) bar.setPicture(query.picture);
  run(address);
}

function run(address) {
  complain(null);
  if (results && results !== kept.get(address)) results.stop.abort();
  const hint = query.not.length ? "Say what to look for, too: what must not be there is judged where it is found." : null;
  if (isEmpty(query)) {
    results = null;
    note(hint);
    showWelcome();
    return Promise.resolve();
  }
  note(null);
  results = new Results(query);
  kept.set(address, results);
  return more();
}

async function more() {
  const mine = results;
  if (!mine || mine.loading || mine.next === null) return;
  const isFirst = !mine.first;
  const slow = setTimeout(() => mine === results && busy(true, isFirst), PATIENCE);
  try {
    const hits = await mine.more();
    if (mine !== results) return;
    rememberSizes(hits);
    if (isFirst) {
      scrollTo(0, 0);
      showAll();
    } else grid.add(hits);
    tally();
    watchEnd();
  } catch (error) {
    if (error.name === "AbortError" || mine !== results) return;
    if (isFirst) {
      grid.show([]);
      byId("welcome").hidden = true;
      tally();
    }
    complain(error.message, error.status === 400 ? null : () => more()); // what has no sense has none the next time
    sentinel.disconnect();
  } finally {
    clearTimeout(slow);
    if (mine === results) busy(false);
  }
}

/** What was loaded of a query: at once, and where it was left. */
function showAll() {
  byId("welcome").hidden = true;
  grid.show(results.hits);
  const { unseen = [], warnings = [] } = results.first ?? {};
  const words = unseen.length ? [`The model was not trained on ${unseen.map((word) => `“${word}”`).join(", ")}: what it makes of that is a guess.`] : [];
  note([...words, ...warnings].join(" ") || null);
  const what = results.hits.length ? `${count(results.hits.length)} photos${results.next === null ? ", that is all" : ", more below"}` : "No photo";
  byId("announce").textContent = what;
}

/** Asks for the next page when the end comes near; an observer that starts anew says so at once. */
function watchEnd() {
  sentinel.disconnect();
  if (results && results.next !== null && !results.resting) sentinel.observe(byId("end"));
}

/** stale: what is shown answers another query. */
function busy(on, stale = false) {
  document.body.classList.toggle("busy", on);
  byId("grid").classList.toggle("stale", on && stale);
  byId("grid").setAttribute("aria-busy", String(on));
}

// -- what is said

function tally() {
  const line = byId("tally"), end = byId("end-text"), on = byId("further");
  const first = results?.first;
  line.textContent = end.textContent = "";
  on.hidden = !results?.resting;
  if (!first) return;
  const all = SCOPED.some((name) => query[name].length) ? null : status?.photos;
  const inScope = first.photos_in_scope ?? all ?? first.in_scope;
  const isViews = inScope === first.in_scope && status?.views > status?.photos; // parts of photos are views too
  const parts = [`${count(inScope)} ${isViews ? "views of photos" : "photos"} searched`, `${count(results.hits.length)} shown`];
  if (results.hidden) parts.push(`${count(results.hidden)} hidden, there by chance`);
  if (first.seconds !== undefined) parts.push(`${first.seconds < 10 ? first.seconds.toFixed(2) : Math.round(first.seconds)} s`);
  line.textContent = parts.join(" · ");
  const hidden = results.hidden ? ` ${count(results.hidden)} more may be there by chance and are hidden.` : "";
  if (results.resting) end.textContent = `The last ones may all be there by chance: ${count(results.hidden)} photos are hidden so far.`;
  else if (results.next !== null) end.textContent = "";
  else if (results.hits.length) end.textContent = `That was all: ${count(results.hits.length)} photos.${hidden}`;
  else end.textContent = `No photo here.${hidden || " Take a filter away, or say it in other words."}`;
}

function note(text) {
  byId("note").textContent = text ?? "";
  byId("note").hidden = !text;
}

/** An error as one line, with a way to try again; null: there is none. */
function complain(text, again = null) {
  const line = byId("alert");
  line.replaceChildren();
  line.hidden = !text;
  if (!text) return;
  line.append(make("span", { text }));
  if (again) line.append(make("button", { type: "button", text: "Try again", on: { click: () => {
    complain(null);
    again();
  } } }));
  line.append(make("button", { type: "button", text: "Dismiss", on: { click: () => complain(null) } }));
}

function showWelcome() {
  sentinel.disconnect();
  grid.show([]);
  tally();
  busy(false);
  byId("announce").textContent = "";
  byId("welcome").hidden = false;
  byId("hello").hidden = status?.photos === 0;
  byId("nothing").hidden = status?.photos !== 0;
  byId("photos").textContent = status?.photos ? `${count(status.photos)} photos in “${status.index}”, searched by ${status.model}` : "";
}

// -- the large view

function ends(hit) {
  const at = grid.hits.indexOf(hit);
  return [at > 0, at >= 0 && (at + 1 < grid.hits.length || Boolean(results?.next))];
}

function openPhoto(hit, push) {
  if (push && !viewer.open) {
    keepScroll();
    history.pushState(null, "", toAddress(query, hit.id));
    pushed = true;
    typing = false;
  } else if (push) history.replaceState(null, "", toAddress(query, hit.id));
  viewer.show(hit, ends(hit));
}

async function step(by) {
  const from = viewer.hit, at = grid.hits.indexOf(from);
  if (by > 0 && at + 1 === grid.hits.length) await more();
  const hit = grid.hits[at + by];
  if (at < 0 || !hit || viewer.hit !== from) return;
  grid.point(at + by);
  openPhoto(hit, true);
}

function closePhoto(hit) {
  if (pushed) history.back();
  else history.replaceState(null, "", toAddress(query));
  pushed = false;
  grid.focus(grid.hits.indexOf(hit)); // the browser would go back to the photo that was opened first
}

function searchPicture(picture) {
  viewer.hide();
  pushed = typing = false; // the photo's entry stays: going back opens it again
  const wanted = { ...query, texts: [], not: [], picture, weight: "" };
  keepScroll();
  history.pushState(null, "", toAddress(wanted));
  query = wanted;
  bar.show(query);
  run(toAddress(query));
  bar.input.focus();
}

// -- the address

function keepScroll() {
  if (results) results.scroll = scrollY;
}

async function follow() {
  const { query: wanted, photo, lost } = fromAddress(location.search, files);
  const address = toAddress(wanted), same = results && address === toAddress(query);
  let first = Promise.resolve();
  typing = pushed = false;
  if (!same) {
    query = wanted;
    bar.show(query);
    scope.show(query);
    const before = kept.get(address);
    if (before?.first && !isEmpty(query)) {
      results?.stop.abort();
      results = before;
      if (before.stop.signal.aborted) before.stop = new AbortController();
      complain(null);
      showAll();
      tally();
      watchEnd();
      scrollTo(0, before.scroll);
    } else first = run(address);
    if (lost) complain("The picture that was searched with is not there any more: drop it here again.");
  }
  if (photo === null) {
    const { hit } = viewer;
    viewer.hide();
    if (hit && same) grid.focus(grid.hits.indexOf(hit));
    return;
  }
  await first; // its neighbours are known then
  const known = results?.hits.find((hit) => hit.id === photo);
  try {
    const hit = known ?? (phraseCount(query) ? await getRegions(query, photo) : null);
    if (hit && fromAddress(location.search, files).photo === photo) openPhoto(hit, false);
  } catch (error) {
    complain(error.message, follow);
  }
}

async function start() {
  history.scrollRestoration = "manual";
  for (const example of EXAMPLES) {
    const button = make("button", { type: "button", on: { click: () => {
      go({ ...emptyQuery(), ...example });
      bar.show(query);
      scope.show(query);
    } } });
    example.texts.forEach((text, i) => button.append(...(i ? [make("small", { text: "and" })] : []), text));
    for (const text of example.not ?? []) button.append(make("small", { text: "not" }), text);
    byId("examples").append(make("li", {}, button));
  }
  addEventListener("popstate", follow);
  addEventListener("keydown", keys);
  byId("further").addEventListener("click", () => {
    results.barren = 0;
    tally();
    more();
  });
  byId("help-open").addEventListener("click", () => byId("help").showModal());
  byId("help-close").addEventListener("click", () => byId("help").close());
  for (const dialog of document.querySelectorAll("dialog.sheet")) { // a click beside it closes it
    dialog.addEventListener("pointerdown", (event) => event.target === dialog && dialog.close());
  }
  await Promise.all([learn(), follow()]);
  if (!viewer.open && !document.activeElement.closest("#search")) bar.input.focus();
}

async function learn() {
  try {
    status = await getStatus();
  } catch (error) {
    return complain(error.message, learn);
  }
  document.title = `${status.index} · flairsearch`;
  scope.setFolders(status.folders ?? []);
  scope.show(query);
  if (results) tally();
  else showWelcome();
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target) || document.querySelector("dialog[open]")) return;
  if (event.key === "/") bar.input.select();
  else if (event.key === "?") byId("help").showModal();
  else if (event.key === "f") scope.toggle(byId("scope").hidden);
  else return;
  if (event.key === "/") bar.input.focus();
  event.preventDefault();
}

start();
