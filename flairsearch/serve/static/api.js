// The server's answers, and its errors as one line.

import { regionParameters, searchParameters } from "./query.js";
import { answered, lost, NO_ANSWER, say } from "./reach.js";

const ROOT = "/api/v1";
const MOST_KEPT = 200; // answers about one photo
export const LARGE = 1600, LARGEST = 4096; // px of the long side: of all of a photo, and of one looked at nearer

export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status; // 0: no answer came
  }
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(ROOT + path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    lost();
    throw new ServerError(NO_ANSWER);
  }
  answered();
  if (answer.status === 401) say("locked");
  let content = null;
  try {
    content = await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (answer.ok && content) return content;
  const waiting = answer.status === 429 ? "The server is busy. Try again in a moment." : null;
  throw new ServerError(waiting ?? content?.error ?? `The server answered with ${answer.status}.`, answer.status);
}

const withPicture = (query, signal) => (query.picture?.file ? { method: "POST", body: query.picture.file, signal } : { signal });

export const getStatus = () => ask("/status");

export const search = (query, offset, signal) => ask(`/search?${searchParameters(query, offset)}`, withPicture(query, signal));

const kept = new Map();
let takesPictures = true; // whether the server says where a picture of the user's is found

/** One photo's phrases with their heat; asked once for each photo and query. null: the server cannot say. */
export function getRegions(query, id) {
  if (query.picture?.file && !takesPictures) return Promise.resolve(null);
  const path = `/regions/${id}?${regionParameters(query)}`, key = path + (query.picture?.key ?? "");
  let answer = kept.get(key);
  if (!answer) {
    answer = ask(path, withPicture(query)).catch((error) => {
      kept.delete(key);
      if (error.status === 405) takesPictures = false;
      if (error.status === 404 || error.status === 405) return null;
      throw error;
    });
    if (kept.size >= MOST_KEPT) kept.delete(kept.keys().next().value);
  } else kept.delete(key);
  kept.set(key, answer); // the latest last
  return answer;
}

export const originalUrl = (id) => `${ROOT}/images/${encodeURIComponent(id)}`;
export const largeUrl = (id, size = LARGE) => `${originalUrl(id)}?size=${size}`;
export const thumbnailUrl = (id, size) => `${ROOT}/thumbnails/${encodeURIComponent(id)}?size=${size}`;
