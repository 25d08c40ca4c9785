// An <img> of a photo that says when the photo cannot be shown, and requests it again when that may succeed.

import { make } from "./dom.js";
import { connection, notify, reportNoAnswer } from "./connection.js";

const RETRY_MS = 5000; // The delay before a photo is requested once more after an error of the server.
const GONE = "the photo is gone";

const waiting = new Set(); // Images to request again when the server answers.
const retried = new WeakSet(); // Images that were requested once more after an error of the server.

connection.addEventListener("retry", () => {
  for (const image of [...waiting]) {
    waiting.delete(image);
    reload(image);
  }
});

function reload(image) {
  const url = image.getAttribute("src");
  if (url && image.isConnected) image.src = url;
}

/**
 * Shows errors of `image` as text in its frame. onStateChange(isGone) is called when that text changes.
 * -> load(url), which shows another photo.
 */
export function watchImage(image, frame, onStateChange = () => {}) {
  const errorText = make("span", { class: "load-error", role: "status" });
  const setError = (text) => {
    errorText.textContent = text;
    frame.classList.toggle("failed", Boolean(text));
    onStateChange(text === GONE);
  };
  image.addEventListener("load", () => {
    image.classList.add("loaded");
    setError("");
  });
  image.addEventListener("error", async () => {
    const url = image.getAttribute("src");
    const status = url && await fetchStatus(url);
    if (!url || image.getAttribute("src") !== url) return; // The image shows another photo by now.
    setError(status === 404 || status === 410 ? GONE : "not loaded");
    if (status === 401) notify("unauthorized");
    if (!status) {
      waiting.add(image);
      reportNoAnswer();
    } else if ((status === 200 || status === 429 || status >= 500) && !retried.has(image)) {
      retried.add(image);
      setTimeout(() => image.getAttribute("src") === url && reload(image), RETRY_MS);
    }
  });
  frame.append(errorText);
  return (url) => {
    waiting.delete(image);
    retried.delete(image);
    setError("");
    image.src = url;
  };
}

/** The HTTP status of a URL, which the error event of an image does not tell; 0 when no answer came. */
async function fetchStatus(url) {
  try {
    return (await fetch(url, { method: "HEAD" })).status;
  } catch {
    return 0;
  }
}
