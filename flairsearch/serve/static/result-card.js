// One hit in the gallery: photo, boxes and score, and the heat map while the pointer or the focus is on it.

import { getRegions, thumbnailUrl } from "./api.js";
import { fileName, formatDate, make } from "./dom.js";
import { watchImage } from "./photo.js";
import { colourOf, drawBoxes, drawHeat } from "./regions.js";

const HEAT_DELAY_MS = 140; // The heat map is requested this long after the pointer came.

/** slot: {index, width, height}, the card's place in the gallery and its size in pixels. getQuery(): the hit's query. */
export function makeCard(hit, slot, getQuery) {
  const frame = make("span", { class: "frame" });
  const scale = Math.min(slot.width / hit.width_px, slot.height / hit.height_px);
  frame.style.width = `${hit.width_px * scale}px`;
  frame.style.height = `${hit.height_px * scale}px`;
  const screenPixels = Math.max(hit.width_px, hit.height_px) * scale * Math.min(devicePixelRatio, 2);
  const photo = make("img", { alt: "", decoding: "async", draggable: "false" });
  frame.append(photo, make("canvas", { class: "heat" }), drawBoxes(hit));
  watchImage(photo, frame)(thumbnailUrl(hit.id, screenPixels > 300 ? 512 : 256));

  const photoArea = make("span", { class: "photo-area" }, frame);
  photoArea.style.height = `${slot.height}px`;
  const card = make("button", {
    class: "card", type: "button", title: [hit.path, formatDate(hit.date)].filter(Boolean).join("\n"),
    "aria-label": describe(hit), data: { index: slot.index, id: hit.id },
  }, photoArea, makeCaption(hit, getQuery().texts.length));
  card.style.width = `${slot.width}px`;
  showHeatOnHover(card, frame, hit, getQuery);
  return make("div", { role: "listitem", "aria-posinset": slot.index + 1, "aria-setsize": "-1" }, card);
}

/** textCount: the number of phrases that are texts; the phrase after them is the image. */
function makeCaption(hit, textCount) {
  const name = make("span", { class: "name" });
  if (hit.weakest !== null) {
    const scores = hit.phrases.map((phrase) => phrase.score), weakest = scores.indexOf(Math.min(...scores));
    const dot = make("i", { class: "dot" });
    dot.style.background = colourOf(weakest);
    name.append(dot, make("small", { text: "weakest: " }),
      make("bdi", { text: weakest < textCount ? hit.weakest : "the picture" }), ` ${scores[weakest].toFixed(2)}`);
  } else name.append(make("bdi", { text: fileName(hit.path) }));
  return make("span", { class: "caption" }, name, make("span", { class: "score", text: hit.score.toFixed(3) }));
}

function describe(hit) {
  const parts = [`${hit.rank}: ${fileName(hit.path)}`, `score ${hit.score.toFixed(2)}`];
  if (hit.weakest !== null) parts.push(`weakest: ${hit.weakest}`);
  return parts.join(", ");
}

function showHeatOnHover(card, frame, hit, getQuery) {
  let timer = 0, isWanted = false;
  const showHeat = async () => {
    try {
      const answer = await getRegions(getQuery(), hit.id);
      if (!answer || !isWanted) return;
      if (!frame.dataset.heat) drawHeat(frame.querySelector("canvas"), answer, answer.phrases);
      frame.dataset.heat = "drawn";
      frame.classList.add("show-heat");
    } catch { /* The gallery is useful without heat maps, and the next search will show the error. */ }
  };
  const start = () => {
    isWanted = true;
    clearTimeout(timer);
    timer = setTimeout(showHeat, HEAT_DELAY_MS);
  };
  const stop = () => {
    if (card.matches(":hover") && card.isConnected && document.activeElement !== card) return;
    isWanted = false;
    clearTimeout(timer);
    frame.classList.remove("show-heat");
  };
  const onPointerLeave = () => {
    isWanted = card.matches(":focus-visible");
    if (!isWanted) stop();
  };
  card.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && start());
  card.addEventListener("pointerleave", onPointerLeave);
  card.addEventListener("focus", () => card.matches(":focus-visible") && start());
  card.addEventListener("blur", stop);
}
