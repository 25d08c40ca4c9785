// The page: one query, its results, and the URL that keeps the query, the filters and the open photo.

import { getRegions, getStatus } from "./api.js";
import { connection } from "./connection.js";
import { byId, countPhotos, isTyping, make } from "./dom.js";
import { FilterPanel } from "./filter-panel.js";
import { Grid } from "./grid.js";
import { acceptImages, imageFiles, ImageQueryDialog, rememberSizes } from "./image-query.js";
import { limitsPhotos, setTitle, showAlert, showCounts, showError, showNote, updateWelcome } from "./messages.js";
import { countPhrases, emptyQuery, fromUrl, isEmpty, tooManyTexts, toUrl } from "./query.js";
import { ResultCache, ResultPages } from "./result-pages.js";
import { SearchBar } from "./search-bar.js";
import "./token-dialog.js";
import { Viewer } from "./viewer.js";

const BUSY_DELAY_MS = 200; // A search that answers faster shows no progress bar.
const EMPTY_INDEX_POLL_MS = 3000; // The status of an empty index is requested this often.
const MAX_SCANNED_HITS = 500; // A photo that a link opens is looked for in this many hits.
const PRELOAD_MARGIN = "1200px"; // The next page is loaded when the end of the gallery is this near.
const EXAMPLES = [
  { texts: ["a dog running on grass"] }, { texts: ["a child in a red shirt"] }, { texts: ["a boat on the water"] },
  { texts: ["a man", "a bicycle"] }, { texts: ["a dog"], exclude: ["grass"] },
];

let query = emptyQuery();
let results = null; // The ResultPages of the query; null for an empty query.
let status = null; // The latest answer of /status.
let isTypingEntry = false; // Whether the newest history entry is for a text that is being typed.
let statusTimer = 0;
const cache = new ResultCache();

const grid = new Grid(byId("grid"), () => query, (index) => openPhoto(grid.hits[index], true));
const viewer = new Viewer({
  getQuery: () => query, onStep: showNeighbour, onClose: closePhoto,
  onSearchImage: (image) => openSearchFromPhoto({ ...query, texts: [], exclude: [], image, image_weight: "" }),
  onSearchFolder: (folder) => openSearchFromPhoto({ ...query, folder }),
});
const searchBar = new SearchBar({
  onChange: (terms, isTyping) => navigate({ ...query, ...terms }, { isTyping, isText: true }),
  onRemoveImage: () => navigate({ ...query, image: null, image_weight: "" }),
  onEditImage: () => imageDialog.open(query.image, query.image_weight, query.texts.length > 0),
});
const filterPanel = new FilterPanel((filters) => navigate({ ...query, ...filters }));
const imageDialog = new ImageQueryDialog((image, image_weight) => {
  navigate({ ...query, image, image_weight });
  searchBar.focus(); // The chip that had the focus was replaced.
});
acceptImages((image) => {
  viewer.hide();
  imageDialog.dialog.close();
  navigate({ ...query, image });
}, showAlert);

const endObserver = new IntersectionObserver(
  (entries) => entries.some(({ isIntersecting }) => isIntersecting) && loadNextPage(), { rootMargin: `${PRELOAD_MARGIN} 0px` });

// -- Searching

/**
 * Shows another query and adds it to the history. isText: the change came from the search box.
 * isTyping: the user is still typing there; all queries of one typing share a history entry.
 */
function navigate(newQuery, { isTyping = false, isText = false } = {}) {
  const oldUrl = toUrl(query), url = toUrl(newQuery);
  const isNewImage = newQuery.image !== query.image;
  query = newQuery;
  if (url !== oldUrl || !results) {
    saveScroll();
    if ((isTypingEntry && isText) || url === oldUrl) history.replaceState(null, "", url);
    else history.pushState(null, "", url);
  } else if (isTyping) return;
  isTypingEntry = isTyping;
  if (isNewImage) searchBar.setImage(query.image);
  startSearch(url);
}

function startSearch(url) {
  showAlert(null);
  setTitle(query, status);
  if (results && results !== cache.get(url)) results.aborter.abort();
  if (isEmpty(query) || tooManyTexts(query)) {
    results = null;
    const onlyExclusions = query.exclude.length ? "Say what to look for, too: an exclusion alone finds no photos." : null;
    showNote(tooManyTexts(query) ?? onlyExclusions);
    showWelcome();
    return Promise.resolve();
  }
  showNote(null);
  results = new ResultPages(query);
  cache.set(url, results);
  return loadNextPage();
}

/** Loads and shows the next page of the results; several calls at once wait for the same page. */
function loadNextPage() {
  const current = results;
  if (!current || current.nextOffset === null) return Promise.resolve();
  current.pending ??= fetchPage(current).finally(() => { current.pending = null; });
  return current.pending;
}

async function fetchPage(current) {
  const isFirst = !current.firstAnswer;
  const busyTimer = setTimeout(() => current === results && setBusy(true, isFirst), BUSY_DELAY_MS);
  try {
    const hits = await current.fetchNext();
    if (current === results) showPage(hits, isFirst);
  } catch (error) {
    if (error.name === "AbortError" || current !== results) return;
    if (isFirst) {
      grid.show([]);
      byId("welcome").hidden = true;
    }
    showCounts(query, results, status);
    showError(error, loadNextPage);
    endObserver.disconnect();
  } finally {
    clearTimeout(busyTimer);
    if (current === results) setBusy(false);
  }
}

function showPage(hits, isFirst) {
  rememberSizes(hits);
  if (isFirst) {
    scrollTo(0, 0);
    showResults();
    const isStatusOld = !limitsPhotos(query) && results.firstAnswer.in_scope !== status?.views;
    if (isStatusOld) refreshStatus();
  } else grid.add(hits);
  if (results.indexChanged) {
    refreshStatus();
    showAlert("The index has changed since this search began.", () => startSearch(toUrl(query)), "Search again");
  }
  showCounts(query, results, status);
  observeEnd();
}

/** Shows all hits that are loaded so far. */
function showResults() {
  byId("welcome").hidden = true;
  grid.show(results.hits);
  const { unseen = [], warnings = [] } = results.firstAnswer ?? {};
  const words = unseen.map((word) => `“${word}”`).join(", ");
  const unseenNote = words ? [`The model was not trained on ${words}: its results for that are guesses.`] : [];
  showNote([...unseenNote, ...warnings].join(" ") || null);
  const hitCount = results.hits.length;
  byId("announcement").textContent = hitCount
    ? `${countPhotos(hitCount)}${results.nextOffset === null ? ", no more below" : ", more below"}` : "No photos found";
}

/** Loads the next page when the end of the gallery comes near; a new observation reports at once if it is near. */
function observeEnd() {
  endObserver.disconnect();
  if (results && results.nextOffset !== null) endObserver.observe(byId("end"));
}

/** isStale: the photos on the page are those of another query. */
function setBusy(isBusy, isStale = false) {
  document.body.classList.toggle("busy", isBusy);
  byId("grid").classList.toggle("stale", isBusy && isStale);
  byId("grid").setAttribute("aria-busy", String(isBusy));
}

function showWelcome() {
  endObserver.disconnect();
  grid.show([]);
  showCounts(query, results, status);
  setBusy(false);
  byId("announcement").textContent = "";
  updateWelcome(status);
}

// -- The large view

function neighbours(hit) {
  const index = grid.hits.indexOf(hit);
  const isLast = index + 1 === grid.hits.length;
  return { hasPrevious: index > 0, hasNext: index >= 0 && (!isLast || Boolean(results?.nextOffset)) };
}

/** isByUser: the user chose the photo here; otherwise the URL names it already. */
function openPhoto(hit, isByUser) {
  if (isByUser && !viewer.isOpen) {
    saveScroll();
    searchBar.pause();
    history.pushState({ isSearchBefore: true }, "", toUrl(query, hit.id)); // The entry before it shows the search.
    isTypingEntry = false;
  } else if (isByUser) history.replaceState(history.state, "", toUrl(query, hit.id));
  viewer.show(hit, neighbours(hit));
}

/** Opens the next (step 1) or previous (step -1) photo of the results. */
async function showNeighbour(step) {
  const from = viewer.hit, index = grid.hits.indexOf(from);
  if (step > 0 && index + 1 === grid.hits.length) await loadNextPage();
  const hit = grid.hits[index + step];
  if (index < 0 || !hit || viewer.hit !== from) return;
  grid.setCurrent(index + step);
  openPhoto(hit, true);
}

function closePhoto(hit) {
  if (history.state?.isSearchBefore) history.back();
  else history.replaceState(null, "", toUrl(query));
  searchBar.resume();
  grid.focus(grid.hits.indexOf(hit)); // The browser would focus the photo that was opened first.
}

/** Starts a search from the large view. Its history entry stays, so that going back opens the photo again. */
function openSearchFromPhoto(newQuery) {
  viewer.hide();
  isTypingEntry = false;
  saveScroll();
  history.pushState(null, "", toUrl(newQuery));
  showQuery(newQuery);
  startSearch(toUrl(query));
  searchBar.focus();
}

function showQuery(newQuery) {
  query = newQuery;
  searchBar.show(query);
  filterPanel.show(query);
}

// -- The URL

function saveScroll() {
  if (results) results.scrollY = scrollY;
}

/** Shows the query and the photo of the URL. */
async function restoreFromUrl() {
  const { query: newQuery, photo, isFileLost } = fromUrl(location.search, imageFiles);
  const isSameQuery = results && toUrl(newQuery) === toUrl(query);
  let firstPage = Promise.resolve();
  isTypingEntry = false;
  if (!isSameQuery) {
    imageDialog.dialog.close();
    showQuery(newQuery);
    firstPage = restoreResults() ? firstPage : startSearch(toUrl(query));
    if (isFileLost) showAlert("The picture of this search is no longer available: drop it here again.");
  }
  if (photo === null) {
    const { hit } = viewer;
    viewer.hide();
    if (hit && isSameQuery) grid.focus(grid.hits.indexOf(hit));
    return;
  }
  await firstPage; // The photo may be one of its hits, with neighbours.
  try {
    const hit = await findHit(photo);
    if (fromUrl(location.search, imageFiles).photo !== photo) return;
    if (hit) openPhoto(hit, false);
    else {
      history.replaceState(null, "", toUrl(query));
      showAlert("This photo is no longer in the index.");
    }
  } catch (error) {
    showError(error, restoreFromUrl);
  }
}

/** Shows results of the query that are still in the cache, at their scroll position. -> whether there are any. */
function restoreResults() {
  const cached = cache.get(toUrl(query));
  if (!cached?.firstAnswer || isEmpty(query)) return false;
  results?.aborter.abort();
  results = cached;
  if (cached.aborter.signal.aborted) cached.aborter = new AbortController();
  showAlert(null);
  setTitle(query, status);
  setBusy(false);
  showResults();
  showCounts(query, results, status);
  observeEnd();
  scrollTo(0, cached.scrollY);
  return true;
}

/** The hit with this id, from the first pages of the results; beyond them, the photo alone, without a rank. */
async function findHit(id) {
  const current = results;
  const loaded = () => current?.hits.find((hit) => hit.id === id);
  const canLoadMore = () =>
    current?.nextOffset && current.nextOffset < MAX_SCANNED_HITS && !current.failed && current === results;
  while (!loaded() && canLoadMore()) await loadNextPage();
  if (loaded() || !countPhrases(query)) return loaded();
  const photo = await getRegions(query, id);
  return photo && { ...photo, rank: null };
}

// -- Status, keys and start

/** Requests what is indexed; repeats that while the index is empty. */
async function refreshStatus() {
  const wasEmpty = status?.photos === 0;
  clearTimeout(statusTimer);
  try {
    status = await getStatus();
  } catch (error) {
    if (error.status) showError(error, refreshStatus); // Without a status the server is away: "retry" follows.
    return;
  }
  filterPanel.setFolders(status.folders);
  setTitle(query, status);
  if (!results) updateWelcome(status);
  else if (wasEmpty && status.photos) startSearch(toUrl(query));
  else showCounts(query, results, status);
  if (!status.photos) statusTimer = setTimeout(refreshStatus, EMPTY_INDEX_POLL_MS);
}

function handleKey(event) {
  const hasModifier = event.ctrlKey || event.metaKey || event.altKey;
  if (hasModifier || isTyping(event.target) || document.querySelector("dialog[open]")) return;
  if (event.key === "/") {
    searchBar.input.select();
    searchBar.input.focus();
  } else if (event.key === "?") byId("help").showModal();
  else if (event.key === "f") filterPanel.toggle(byId("filter-panel").hidden);
  else return;
  event.preventDefault();
}

/** Repeats the request for a page that failed. */
function retryPage() {
  results.failed = false;
  showCounts(query, results, status);
  if (grid.hits.length) grid.focus(grid.hits.length - 1, false); // The button that had the focus is hidden now.
  else searchBar.focus();
  loadNextPage();
}

function makeExample(example) {
  const button = make("button", { type: "button", on: { click: () => {
    navigate({ ...emptyQuery(), ...example });
    searchBar.show(query);
    filterPanel.show(query);
  } } });
  example.texts.forEach((text, i) => button.append(...(i ? [make("small", { text: "and" })] : []), text));
  for (const text of example.exclude ?? []) button.append(make("small", { text: "not" }), text);
  return make("li", {}, button);
}

/** Tells the style sheet the height of the part of the head that stays on the screen while scrolling. */
function trackHeadHeight() {
  const head = document.querySelector(".head");
  new ResizeObserver(() => {
    const height = head.offsetHeight + parseFloat(getComputedStyle(head).top);
    document.documentElement.style.setProperty("--head-height", `${height}px`);
  }).observe(head);
}

async function start() {
  history.scrollRestoration = "manual";
  byId("examples").append(...EXAMPLES.map(makeExample));
  addEventListener("popstate", restoreFromUrl);
  connection.addEventListener("retry", refreshStatus);
  addEventListener("keydown", handleKey);
  byId("load-more").addEventListener("click", retryPage);
  byId("help-open").addEventListener("click", () => byId("help").showModal());
  byId("help-close").addEventListener("click", () => byId("help").close());
  byId("help").addEventListener("pointerdown", ({ target }) => target === byId("help") && byId("help").close()); // A click beside it.
  trackHeadHeight();
  await Promise.all([refreshStatus(), restoreFromUrl()]);
  if (!viewer.isOpen && !document.activeElement.closest("#search, dialog")) searchBar.focus();
}

start();
