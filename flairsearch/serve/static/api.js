// Requests to the server; an error comes back as one line of text.

import { regionParameters, searchParameters } from "./query.js";
import { NO_ANSWER, notify, reportAnswer, reportNoAnswer } from "./connection.js";

const API_ROOT = "/api/v1";
const MAX_CACHED_REGIONS = 200; // Answers of /regions that stay in memory.
export const FULL_VIEW_SIDE = 1600; // The long side in pixels of a photo that is shown as a whole.
export const ZOOMED_SIDE = 4096; // The long side in pixels of a photo that is zoomed into.

export class ServerError extends Error {
  /** status: the HTTP status, or 0 when no answer came. */
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

async function request(path, options = {}) {
  let answer;
  try {
    answer = await fetch(API_ROOT + path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    reportNoAnswer();
    throw new ServerError(NO_ANSWER);
  }
  reportAnswer();
  if (answer.status === 401) notify("unauthorized");
  let content = null;
  try {
    content = await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (answer.ok && content) return content;
  const busy = answer.status === 429 ? "The server is busy. Try again in a moment." : null;
  throw new ServerError(busy ?? content?.error ?? `The server answered with status ${answer.status}.`, answer.status);
}

/** Options of fetch(): a query with a file of the user's sends that file as the body of a POST request. */
const fetchOptions = ({ image }, signal) => (image?.file ? { method: "POST", body: image.file, signal } : { signal });

export const getStatus = () => request("/status");

export const search = (query, offset, signal) =>
  request(`/search?${searchParameters(query, offset)}`, fetchOptions(query, signal));

const regionCache = new Map();
let acceptsImageFiles = true; // Whether the server computes regions for image files that are sent to it.

/** The phrases of one photo with their heat maps, cached per photo and query; null when the server has none. */
export function getRegions(query, id) {
  if (query.image?.file && !acceptsImageFiles) return Promise.resolve(null);
  const path = `/regions/${id}?${regionParameters(query)}`, key = path + (query.image?.key ?? "");
  let answer = regionCache.get(key);
  if (!answer) {
    answer = request(path, fetchOptions(query)).catch((error) => {
      regionCache.delete(key);
      if (error.status === 405) acceptsImageFiles = false;
      if (error.status === 404 || error.status === 405) return null;
      throw error;
    });
    if (regionCache.size >= MAX_CACHED_REGIONS) regionCache.delete(regionCache.keys().next().value);
  } else regionCache.delete(key);
  regionCache.set(key, answer); // A Map keeps insertion order, so the least recently used answer stays first.
  return answer;
}

export const originalUrl = (id) => `${API_ROOT}/images/${encodeURIComponent(id)}`;
export const largeUrl = (id, size = FULL_VIEW_SIDE) => `${originalUrl(id)}?size=${size}`;
export const thumbnailUrl = (id, size) => `${API_ROOT}/thumbnails/${encodeURIComponent(id)}?size=${size}`;
