// The results of a query, loaded page by page, and a cache of the latest results.

import { search } from "./api.js";

const MAX_CACHED_QUERIES = 8; // Results in memory, so that going back in the history shows them at once.

export class ResultPages {
  constructor(query) {
    this.query = query;
    this.hits = [];
    this.nextOffset = 0; // The offset of the next page; null after the last page.
    this.scrollY = 0; // The scroll position in pixels at which the user left the page.
    this.firstAnswer = null; // The server's answer for the first page.
    this.aborter = new AbortController();
    this.failed = false; // Whether loading the next page failed.
    this.pending = null; // The promise of the page that is being loaded.
    this.viewsSearched = null; // The number of views that the latest page was searched in.
    this.indexChanged = false; // Whether that number differs from the one of the page before.
  }

  /** Loads the next page. -> its hits, or null after the last page. */
  async fetchNext() {
    if (this.nextOffset === null) return null;
    this.failed = false;
    try {
      const answer = await search(this.query, this.nextOffset, this.aborter.signal);
      this.firstAnswer ??= answer;
      this.indexChanged = this.viewsSearched !== null && answer.in_scope !== this.viewsSearched;
      this.viewsSearched = answer.in_scope;
      const known = new Set(this.hits.map((hit) => hit.id)); // Pages overlap if the index changes between them.
      const added = answer.hits.filter((hit) => !known.has(hit.id));
      this.hits.push(...added);
      this.nextOffset = answer.next;
      return added;
    } catch (error) {
      this.failed = error.name !== "AbortError";
      throw error;
    }
  }
}

/** The results of the latest queries by the URL of the page; the oldest results go first. */
export class ResultCache {
  constructor() {
    this.byUrl = new Map();
  }

  get(url) {
    return this.byUrl.get(url) ?? null;
  }

  set(url, results) {
    this.byUrl.delete(url);
    this.byUrl.set(url, results);
    if (this.byUrl.size > MAX_CACHED_QUERIES) this.byUrl.delete(this.byUrl.keys().next().value);
  }
}
