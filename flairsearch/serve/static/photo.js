// A photo on the page. It may be gone from the disk, or not have come: that one is asked for again.

import { make } from "./dom.js";
import { lost, reach, say } from "./reach.js";

const LATER = 5000; // ms before what a server could not do is asked for once more
const waiting = new Set(); // images to ask for again when the server is back
const retried = new WeakSet();

reach.addEventListener("back", () => {
  for (const image of [...waiting]) {
    waiting.delete(image);
    reload(image);
  }
});

function reload(image) {
  const url = image.getAttribute("src");
  if (url && image.isConnected) image.src = url;
}

/** Says in the frame what is wrong with its image; told: (whether the photo is gone). -> show(url), which sets another. */
export function watchPhoto(image, frame, told = () => {}) {
  const sign = make("span", { class: "missing", role: "status" });
  const set = (text) => {
    sign.textContent = text;
    frame.classList.toggle("without", Boolean(text));
    told(text === GONE);
  };
  image.addEventListener("load", () => {
    image.classList.add("there");
    set("");
  });
  image.addEventListener("error", async () => {
    const url = image.getAttribute("src");
    const status = url && await statusOf(url);
    if (!url || image.getAttribute("src") !== url) return; // another photo meanwhile
    set(status === 404 || status === 410 ? GONE : "not loaded");
    if (status === 401) say("locked");
    if (!status) {
      waiting.add(image);
      lost();
    } else if ((status === 200 || status === 429 || status >= 500) && !retried.has(image)) {
      retried.add(image);
      setTimeout(() => image.getAttribute("src") === url && reload(image), LATER);
    }
  });
  frame.append(sign);
  return (url) => {
    waiting.delete(image);
    retried.delete(image);
    set("");
    image.src = url;
  };
}

const GONE = "the photo is gone";

/** An image's error does not tell. 0: no answer came. */
async function statusOf(url) {
  try {
    return (await fetch(url, { method: "HEAD" })).status;
  } catch {
    return 0;
  }
}
