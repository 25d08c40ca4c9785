// The page: one query, its results, and the address that both are written in.

import { getRegions, getStatus } from "./api.js";
import { Bar } from "./bar.js";
import { byId, countPhotos, isTyping, make } from "./dom.js";
import { Grid } from "./grid.js";
import "./lock.js";
import { files, PictureDialog, rememberSizes, watchForPictures } from "./picture.js";
import { emptyQuery, fromAddress, isEmpty, phraseCount, toAddress, tooMany } from "./query.js";
import { reach } from "./reach.js";
import { Kept, Results } from "./results.js";
import { complain, entitle, fail, greet, isScoped, note, tally } from "./said.js";
import { ScopePanel } from "./scope.js";
import { Viewer } from "./viewer.js";

const PATIENCE = 200; // ms before a search is said to go on
const AGAIN = 3000; // ms before an empty index is looked at again
const FAR = 500; // photos that are loaded, at most, to find one that a link opens
const EXAMPLES = [
  { texts: ["a dog running on grass"] }, { texts: ["a child in a red shirt"] }, { texts: ["a boat on the water"] },
  { texts: ["a man", "a bicycle"] }, { texts: ["a dog"], not: ["grass"] },
];

let query = emptyQuery();
let results = null;
let status = null;
let typing = false; // the newest entry of the history is of a text that is being typed
let timer = 0;
const kept = new Kept();

const grid = new Grid(byId("grid"), () => query, (index) => openPhoto(grid.hits[index], true));
const viewer = new Viewer({ ask: () => query, step, search: searchPicture, within: searchFolder, closed: closePhoto });
const bar = new Bar({
  change: (terms, live) => go({ ...query, ...terms }, live, true),
  drop: () => go({ ...query, picture: null, weight: "" }),
  part: () => pictureDialog.open(query.picture, query.weight, query.texts.length > 0),
});
const scope = new ScopePanel((filters) => go({ ...query, ...filters }));
const pictureDialog = new PictureDialog((picture, weight) => {
  go({ ...query, picture, weight });
  bar.focus(); // the chip that had the focus was drawn anew
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
  entitle(query, status);
  if (results && results !== kept.get(address)) results.stop.abort();
  const hint = tooMany(query) ?? (query.not.length ? "Say what to look for, too: what must not be there is judged where it is found." : null);
  if (isEmpty(query) || tooMany(query)) {
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

/** The next page of what is shown; who asks while one is on its way waits for that one. */
function more() {
  const mine = results;
  if (!mine || mine.next === null) return Promise.resolve();
  mine.pending ??= load(mine).finally(() => { mine.pending = null; });
  return mine.pending;
}

async function load(mine) {
  const isFirst = !mine.first;
  const slow = setTimeout(() => mine === results && busy(true, isFirst), PATIENCE);
  try {
    const hits = await mine.more();
    if (mine !== results) return;
    rememberSizes(hits);
    if (isFirst) {
      scrollTo(0, 0);
      showAll();
      if (!isScoped(query) && mine.first.in_scope !== status?.views) learn(); // photos came or went
    } else grid.add(hits);
    if (mine.changed) {
      learn();
      complain("Photos came or went since this search began.", () => run(toAddress(query)), "Search again");
    }
    tally(query, results, status);
    watchEnd();
  } catch (error) {
    if (error.name === "AbortError" || mine !== results) return;
    if (isFirst) {
      grid.show([]);
      byId("welcome").hidden = true;
    }
    tally(query, results, status);
    fail(error, more);
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
  const what = results.hits.length ? `${countPhotos(results.hits.length)}${results.next === null ? ", that is all" : ", more below"}` : "No photo";
  byId("announce").textContent = what;
}

/** Asks for the next page when the end comes near; an observer that starts anew says so at once. */
function watchEnd() {
  sentinel.disconnect();
  if (results && results.next !== null) sentinel.observe(byId("end"));
}

/** stale: what is shown answers another query. */
function busy(on, stale = false) {
  document.body.classList.toggle("busy", on);
  byId("grid").classList.toggle("stale", on && stale);
  byId("grid").setAttribute("aria-busy", String(on));
}

function showWelcome() {
  sentinel.disconnect();
  grid.show([]);
  tally(query, results, status);
  busy(false);
  byId("announce").textContent = "";
  greet(status);
}

// -- the large view

function ends(hit) {
  const at = grid.hits.indexOf(hit);
  return [at > 0, at >= 0 && (at + 1 < grid.hits.length || Boolean(results?.next))];
}

function openPhoto(hit, push) {
  if (push && !viewer.open) {
    keepScroll();
    bar.pause();
    history.pushState({ before: true }, "", toAddress(query, hit.id)); // the search is the entry before
    typing = false;
  } else if (push) history.replaceState(history.state, "", toAddress(query, hit.id));
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
  if (history.state?.before) history.back();
  else history.replaceState(null, "", toAddress(query));
  bar.resume();
  grid.focus(grid.hits.indexOf(hit)); // the browser would go back to the photo that was opened first
}

function searchPicture(picture) {
  leave({ ...query, texts: [], not: [], picture, weight: "" });
}

function searchFolder(under) {
  leave({ ...query, under });
}

/** From a photo to another search; the photo's entry stays: going back opens it again. */
function leave(wanted) {
  viewer.hide();
  typing = false;
  keepScroll();
  history.pushState(null, "", toAddress(wanted));
  query = wanted;
  bar.show(query);
  scope.show(query);
  run(toAddress(query));
  bar.focus();
}

// -- the address

function keepScroll() {
  if (results) results.scroll = scrollY;
}

async function follow() {
  const { query: wanted, photo, lost } = fromAddress(location.search, files);
  const address = toAddress(wanted), same = results && address === toAddress(query);
  let first = Promise.resolve();
  typing = false;
  if (!same) {
    pictureDialog.dialog.close();
    query = wanted;
    bar.show(query);
    scope.show(query);
    const before = kept.get(address);
    if (before?.first && !isEmpty(query)) {
      results?.stop.abort();
      results = before;
      if (before.stop.signal.aborted) before.stop = new AbortController();
      complain(null);
      entitle(query, status);
      busy(false);
      showAll();
      tally(query, results, status);
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
  try {
    const hit = await find(photo);
    if (fromAddress(location.search, files).photo !== photo) return;
    if (hit) openPhoto(hit, false);
    else {
      history.replaceState(null, "", toAddress(query));
      complain("There is no such photo in the index any more.");
    }
  } catch (error) {
    fail(error, follow);
  }
}

/** The hit of this id, of the first pages; else what is known of it by itself, which is no rank. */
async function find(photo) {
  const mine = results;
  const known = () => mine?.hits.find((hit) => hit.id === photo);
  while (!known() && mine?.next && mine.next < FAR && !mine.failed && mine === results) await more();
  if (known() || !phraseCount(query)) return known();
  const alone = await getRegions(query, photo);
  return alone && { ...alone, rank: null };
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
  reach.addEventListener("back", learn);
  addEventListener("keydown", keys);
  byId("further").addEventListener("click", () => {
    results.failed = false;
    tally(query, results, status);
    if (grid.hits.length) grid.focus(grid.hits.length - 1, false); // the button is gone
    else bar.focus();
    more();
  });
  byId("help-open").addEventListener("click", () => byId("help").showModal());
  byId("help-close").addEventListener("click", () => byId("help").close());
  for (const dialog of document.querySelectorAll("dialog.sheet:not(#lock)")) { // a click beside it closes it
    dialog.addEventListener("pointerdown", (event) => event.target === dialog && dialog.close());
  }
  const head = document.querySelector(".head");
  new ResizeObserver(() => { // of the part of it that stays, on a phone
    document.documentElement.style.setProperty("--head", `${head.offsetHeight + parseFloat(getComputedStyle(head).top)}px`);
  }).observe(head);
  await Promise.all([learn(), follow()]);
  if (!viewer.open && !document.activeElement.closest("#search, dialog")) bar.focus();
}

/** What is indexed; asked again while that is nothing, and when there is more or less of it. */
async function learn() {
  const wasEmpty = status?.photos === 0;
  clearTimeout(timer);
  try {
    status = await getStatus();
  } catch (error) {
    if (error.status) fail(error, learn); // else it is asked again when the server is back
    return;
  }
  scope.setFolders(status.folders);
  entitle(query, status);
  if (!results) greet(status);
  else if (wasEmpty && status.photos) run(toAddress(query));
  else tally(query, results, status);
  if (!status.photos) timer = setTimeout(learn, AGAIN);
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
