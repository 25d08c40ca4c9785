// One search at a time: the query of the page, its results in the gallery, and the status of the index.

import { getRegions } from "./api.js";
import { byId, countPhotos } from "./dom.js";
import { rememberSizes } from "./image-query.js";
import { limitsPhotos, setTitle, showAlert, showCounts, showError, showNote, updateWelcome } from "./messages.js";
import { countPhrases, emptyQuery, isEmpty, tooManyTexts, toUrl } from "./query.js";
import { ResultCache, ResultPages } from "./result-pages.js";

const BUSY_DELAY_MS = 200; // A search that answers faster shows no progress bar.
const MAX_SCANNED_HITS = 500; // A photo that a link opens is looked for in this many hits.
const PRELOAD_MARGIN = "1200px"; // The next page is loaded when the end of the gallery is this near.

export class SearchSession {
  /** grid: the gallery. onStatusOutdated(): the index has changed since the status was requested. */
  constructor(grid, onStatusOutdated) {
    Object.assign(this, { grid, onStatusOutdated });
    this.query = emptyQuery();
    this.results = null; // The ResultPages of the query; null for an empty query.
    this.status = null; // The latest answer of /status.
    this.cache = new ResultCache();
    this.endObserver = new IntersectionObserver(
      (entries) => entries.some(({ isIntersecting }) => isIntersecting) && this.loadNextPage(),
      { rootMargin: `${PRELOAD_MARGIN} 0px` });
  }

  get url() {
    return toUrl(this.query);
  }

  /** Searches for the query. -> a promise of the first page. */
  start() {
    const { query, url } = this;
    showAlert(null);
    setTitle(query, this.status);
    if (this.results && this.results !== this.cache.get(url)) this.results.aborter.abort();
    const limitMessage = tooManyTexts(query);
    if (isEmpty(query) || limitMessage) {
      const onlyExclusions = query.exclude.length ? "Say what to look for, too: an exclusion alone finds no photos." : null;
      this.results = null;
      showNote(limitMessage ?? onlyExclusions);
      this.showWelcome();
      return Promise.resolve();
    }
    showNote(null);
    this.results = new ResultPages(query);
    this.cache.set(url, this.results);
    return this.loadNextPage();
  }

  /** Shows results of the query that are still in the cache, at their scroll position. -> whether there are any. */
  restore() {
    const cached = this.cache.get(this.url);
    if (!cached?.firstAnswer || isEmpty(this.query)) return false;
    this.results?.aborter.abort();
    this.results = cached;
    if (cached.aborter.signal.aborted) cached.aborter = new AbortController();
    showAlert(null);
    setTitle(this.query, this.status);
    setBusy(false);
    this.showResults();
    this.showCounts();
    this.observeEnd();
    scrollTo(0, cached.scrollY);
    return true;
  }

  saveScroll() {
    if (this.results) this.results.scrollY = scrollY;
  }

  /** Loads and shows the next page of the results; several calls at once wait for the same page. */
  loadNextPage() {
    const { results } = this;
    if (!results || results.nextOffset === null) return Promise.resolve();
    results.pending ??= this.fetchPage(results).finally(() => { results.pending = null; });
    return results.pending;
  }

  /** results: those of the query when the request began; the query may have changed when the answer comes. */
  async fetchPage(results) {
    const isFirst = !results.firstAnswer;
    const busyTimer = setTimeout(() => results === this.results && setBusy(true, isFirst), BUSY_DELAY_MS);
    try {
      const hits = await results.fetchNext();
      if (results === this.results) this.showPage(hits, isFirst);
    } catch (error) {
      if (error.name === "AbortError" || results !== this.results) return;
      if (isFirst) {
        this.grid.show([]);
        byId("welcome").hidden = true;
      }
      this.showCounts();
      showError(error, () => this.loadNextPage());
      this.endObserver.disconnect();
    } finally {
      clearTimeout(busyTimer);
      if (results === this.results) setBusy(false);
    }
  }

  /** Repeats the request for a page that failed. */
  retryPage() {
    this.results.failed = false;
    this.showCounts();
    this.loadNextPage();
  }

  showPage(hits, isFirst) {
    const { results } = this;
    rememberSizes(hits);
    if (isFirst) {
      scrollTo(0, 0);
      this.showResults();
      const isOutdated = !limitsPhotos(this.query) && results.firstAnswer.in_scope !== this.status?.views;
      if (isOutdated) this.onStatusOutdated();
    } else this.grid.add(hits);
    if (results.indexChanged) {
      this.onStatusOutdated();
      showAlert("The index has changed since this search began.", () => this.start(), "Search again");
    }
    this.showCounts();
    this.observeEnd();
  }

  /** Shows all hits that are loaded so far. */
  showResults() {
    const { hits, nextOffset, firstAnswer } = this.results;
    byId("welcome").hidden = true;
    this.grid.show(hits);
    const { unseen = [], warnings = [] } = firstAnswer ?? {};
    const words = unseen.map((word) => `“${word}”`).join(", ");
    const unseenNote = words ? [`The model was not trained on ${words}: its results for that are guesses.`] : [];
    showNote([...unseenNote, ...warnings].join(" ") || null);
    byId("announcement").textContent = hits.length
      ? `${countPhotos(hits.length)}${nextOffset === null ? ", no more below" : ", more below"}` : "No photos found";
  }

  showCounts() {
    showCounts(this.query, this.results, this.status);
  }

  showWelcome() {
    this.endObserver.disconnect();
    this.grid.show([]);
    this.showCounts();
    setBusy(false);
    byId("announcement").textContent = "";
    updateWelcome(this.status);
  }

  /** Loads the next page when the end of the gallery comes near; a new observation reports at once if it is near. */
  observeEnd() {
    this.endObserver.disconnect();
    if (this.results && this.results.nextOffset !== null) this.endObserver.observe(byId("end"));
  }

  /** The hit with this id, from the first pages of the results; beyond them, the photo alone, without a rank. */
  async findHit(id) {
    const { results } = this;
    const loaded = () => results?.hits.find((hit) => hit.id === id);
    const canLoadMore = () =>
      results?.nextOffset && results.nextOffset < MAX_SCANNED_HITS && !results.failed && results === this.results;
    while (!loaded() && canLoadMore()) await this.loadNextPage();
    if (loaded() || !countPhrases(this.query)) return loaded();
    const photo = await getRegions(this.query, id);
    return photo && { ...photo, rank: null };
  }
}

/** isStale: the photos on the page are those of another query. */
function setBusy(isBusy, isStale = false) {
  document.body.classList.toggle("busy", isBusy);
  byId("grid").classList.toggle("stale", isBusy && isStale);
  byId("grid").setAttribute("aria-busy", String(isBusy));
}
