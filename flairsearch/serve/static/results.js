// The photos that answer a query, page after page.

import { search } from "./api.js";

const MOST_KEPT = 8; // queries whose photos are still there when one goes back

export class Results {
  constructor(query) {
    this.query = query;
    this.hits = [];
    this.next = 0; // offset of the next page; null: that was all
    this.scroll = 0; // px, where the page was left
    this.first = null; // the first page's answer
    this.stop = new AbortController();
    this.failed = false; // the next page did not come
    this.pending = null; // the page that is on its way, for those who wait for it
    this.scope = null; // views that were searched for the latest page,
    this.changed = false; // and whether they were others before
  }

  /** The next page's photos; null where there is none. */
  async more() {
    if (this.next === null) return null;
    this.failed = false;
    try {
      const answer = await search(this.query, this.next, this.stop.signal);
      this.first ??= answer;
      this.changed = this.scope !== null && answer.in_scope !== this.scope;
      this.scope = answer.in_scope;
      const known = new Set(this.hits.map((hit) => hit.id)); // the index may have changed between two pages
      const fresh = answer.hits.filter((hit) => !known.has(hit.id));
      this.hits.push(...fresh);
      this.next = answer.next;
      return fresh;
    } catch (error) {
      this.failed = error.name !== "AbortError";
      throw error;
    }
  }
}

/** Results of the latest queries by address, so that going back shows them at once and where they were left. */
export class Kept {
  constructor() {
    this.all = new Map();
  }

  get(address) {
    return this.all.get(address) ?? null;
  }

  set(address, results) {
    this.all.delete(address);
    this.all.set(address, results);
    if (this.all.size > MOST_KEPT) this.all.delete(this.all.keys().next().value);
  }
}
