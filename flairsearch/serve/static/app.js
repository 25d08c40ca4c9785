// Connects the parts of the page. The URL keeps the query, the filters and the open photo.

import { getStatus } from "./api.js";
import { connection } from "./connection.js";
import { byId, isTyping, make } from "./dom.js";
import { FilterPanel } from "./filter-panel.js";
import { Grid } from "./grid.js";
import { acceptImages, imageFiles, ImageQueryDialog } from "./image-query.js";
import { setTitle, showAlert, showError, updateWelcome } from "./messages.js";
import { emptyQuery, fromUrl, toUrl } from "./query.js";
import { SearchBar } from "./search-bar.js";
import { SearchSession } from "./search-session.js";
import "./token-dialog.js";
import { Viewer } from "./viewer.js";

const EMPTY_INDEX_POLL_MS = 3000; // The status of an empty index is requested this often.
const EXAMPLES = [
  { texts: ["a dog running on grass"] }, { texts: ["a child in a red shirt"] }, { texts: ["a boat on the water"] },
  { texts: ["a man", "a bicycle"] }, { texts: ["a dog"], exclude: ["grass"] },
];

let isTypingEntry = false; // Whether the newest history entry is for a text that is being typed.
let statusTimer = 0;

const grid = new Grid(byId("grid"), () => session.query, (index) => openPhoto(grid.hits[index], true));
const session = new SearchSession(grid, refreshStatus);
const viewer = new Viewer({
  getQuery: () => session.query, onStep: showNeighbour, onClose: closePhoto,
  onSearchImage: (image) => openSearchFromPhoto({ texts: [], exclude: [], image, image_weight: "" }),
  onSearchFolder: (folder) => openSearchFromPhoto({ folder }),
});
const searchBar = new SearchBar({
  onChange: (terms, isTyping) => navigate(terms, { isTyping, isText: true }),
  onRemoveImage: () => navigate({ image: null, image_weight: "" }),
  onEditImage: () => {
    const { image, image_weight, texts } = session.query;
    imageDialog.open(image, image_weight, texts.length > 0);
  },
});
const filterPanel = new FilterPanel((filters) => navigate(filters));
const imageDialog = new ImageQueryDialog((image, image_weight) => {
  navigate({ image, image_weight });
  searchBar.focus(); // The chip that had the focus was replaced.
});
acceptImages((image) => {
  viewer.hide();
  imageDialog.dialog.close();
  navigate({ image });
}, showAlert);

// -- Searches

/**
 * Changes some fields of the query, searches for it, and adds it to the history. isText: the change came from the
 * search box. isTyping: the user is still typing there; all queries of one typing share a history entry.
 */
function navigate(changes, { isTyping = false, isText = false } = {}) {
  const newQuery = { ...session.query, ...changes };
  const oldUrl = session.url, url = toUrl(newQuery);
  const isNewImage = newQuery.image !== session.query.image;
  session.query = newQuery;
  if (url !== oldUrl || !session.results) {
    session.saveScroll();
    if ((isTypingEntry && isText) || url === oldUrl) history.replaceState(null, "", url);
    else history.pushState(null, "", url);
  } else if (isTyping) return;
  isTypingEntry = isTyping;
  if (isNewImage) searchBar.setImage(newQuery.image);
  session.start();
}

/** Shows a query in the search box and the filter panel. */
function showQuery(query) {
  session.query = query;
  searchBar.show(query);
  filterPanel.show(query);
}

// -- The large view

function neighbours(hit) {
  const index = grid.hits.indexOf(hit);
  const isLast = index + 1 === grid.hits.length;
  return { hasPrevious: index > 0, hasNext: index >= 0 && (!isLast || Boolean(session.results?.nextOffset)) };
}

/** isByUser: the user chose the photo here; otherwise the URL names it already. */
function openPhoto(hit, isByUser) {
  const url = toUrl(session.query, hit.id);
  if (isByUser && !viewer.isOpen) {
    session.saveScroll();
    searchBar.pause();
    history.pushState({ isSearchBefore: true }, "", url); // The history entry before this one shows the search.
    isTypingEntry = false;
  } else if (isByUser) history.replaceState(history.state, "", url);
  viewer.show(hit, neighbours(hit));
}

/** Opens the next (step 1) or previous (step -1) photo of the results. */
async function showNeighbour(step) {
  const from = viewer.hit, index = grid.hits.indexOf(from);
  if (step > 0 && index + 1 === grid.hits.length) await session.loadNextPage();
  const hit = grid.hits[index + step];
  if (index < 0 || !hit || viewer.hit !== from) return;
  grid.setCurrent(index + step);
  openPhoto(hit, true);
}

function closePhoto(hit) {
  if (history.state?.isSearchBefore) history.back();
  else history.replaceState(null, "", session.url);
  searchBar.resume();
  grid.focus(grid.hits.indexOf(hit)); // The browser would focus the photo that was opened first.
}

/** Starts a search from the large view. Its history entry stays, so that going back opens the photo again. */
function openSearchFromPhoto(changes) {
  const query = { ...session.query, ...changes };
  viewer.hide();
  isTypingEntry = false;
  session.saveScroll();
  history.pushState(null, "", toUrl(query));
  showQuery(query);
  session.start();
  searchBar.focus();
}

// -- The URL

/** Shows the query and the photo of the URL. */
async function restoreFromUrl() {
  const { query, photo, isFileLost } = fromUrl(location.search, imageFiles);
  const isSameQuery = session.results && toUrl(query) === session.url;
  let firstPage = Promise.resolve();
  isTypingEntry = false;
  if (!isSameQuery) {
    imageDialog.dialog.close();
    showQuery(query);
    if (!session.restore()) firstPage = session.start();
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
    const hit = await session.findHit(photo);
    if (fromUrl(location.search, imageFiles).photo !== photo) return;
    if (hit) openPhoto(hit, false);
    else {
      history.replaceState(null, "", session.url);
      showAlert("This photo is no longer in the index.");
    }
  } catch (error) {
    showError(error, restoreFromUrl);
  }
}

// -- Status, keys and start

/** Requests what is indexed; repeats that while the index is empty. */
async function refreshStatus() {
  const wasEmpty = session.status?.photos === 0;
  clearTimeout(statusTimer);
  try {
    session.status = await getStatus();
  } catch (error) {
    if (error.status) showError(error, refreshStatus); // Without a status the server is away: "retry" follows.
    return;
  }
  const { status } = session;
  filterPanel.setFolders(status.folders);
  setTitle(session.query, status);
  if (!session.results) updateWelcome(status);
  else if (wasEmpty && status.photos) session.start();
  else session.showCounts();
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

/** Loads the page that failed; the button that had the focus is hidden then. */
function loadMore() {
  session.retryPage();
  if (grid.hits.length) grid.focus(grid.hits.length - 1, false);
  else searchBar.focus();
}

function makeExample(example) {
  const button = make("button", { type: "button", on: { click: () => {
    navigate({ ...emptyQuery(), ...example });
    showQuery(session.query);
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
  const help = byId("help");
  history.scrollRestoration = "manual";
  byId("examples").append(...EXAMPLES.map(makeExample));
  addEventListener("popstate", restoreFromUrl);
  connection.addEventListener("retry", refreshStatus);
  addEventListener("keydown", handleKey);
  byId("load-more").addEventListener("click", loadMore);
  byId("help-open").addEventListener("click", () => help.showModal());
  byId("help-close").addEventListener("click", () => help.close());
  help.addEventListener("pointerdown", ({ target }) => target === help && help.close()); // The user clicked beside it.
  trackHeadHeight();
  await Promise.all([refreshStatus(), restoreFromUrl()]);
  if (!viewer.isOpen && !document.activeElement.closest("#search, dialog")) searchBar.focus();
}

start();
