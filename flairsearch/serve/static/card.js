// One hit in the gallery: photo, boxes, score; its heat while the pointer or the focus is on it.

import { getRegions, thumbnailUrl } from "./api.js";
import { fileName, make, showDate } from "./dom.js";
import { watchPhoto } from "./photo.js";
import { colourOf, drawBoxes, drawHeat } from "./regions.js";

const PATIENCE = 140; // ms on a card before its heat is asked for

/** place: {index, width, height} of the photo's room on the page, px; ask: () -> the query it answers. */
export function makeCard(hit, place, ask) {
  const frame = make("span", { class: "frame" });
  const scale = Math.min(place.width / hit.width_px, place.height / hit.height_px);
  frame.style.width = `${hit.width_px * scale}px`;
  frame.style.height = `${hit.height_px * scale}px`;
  const wanted = Math.max(hit.width_px, hit.height_px) * scale * Math.min(devicePixelRatio, 2);
  const photo = make("img", { alt: "", decoding: "async", draggable: "false" });
  frame.append(photo, make("canvas", { class: "heat" }), drawBoxes(hit));
  watchPhoto(photo, frame)(thumbnailUrl(hit.id, wanted > 300 ? 512 : 256));

  const room = make("span", { class: "room" }, frame);
  room.style.height = `${place.height}px`;
  const button = make("button", {
    class: "card", type: "button", title: [hit.path, showDate(hit.date)].filter(Boolean).join("\n"),
    "aria-label": describe(hit), data: { index: place.index, id: hit.id },
  }, room, caption(hit, ask().texts.length));
  button.style.width = `${place.width}px`;
  warmUp(button, frame, hit, ask);
  return make("div", { role: "listitem", "aria-posinset": place.index + 1, "aria-setsize": "-1" }, button);
}

/** texts: how many of the phrases are texts; the one after them is the picture. */
function caption(hit, texts) {
  const name = make("span", { class: "name" });
  if (hit.weakest !== null) {
    const scores = hit.phrases.map((phrase) => phrase.score), weakest = scores.indexOf(Math.min(...scores));
    const dot = make("i", { class: "dot" });
    dot.style.background = colourOf(weakest);
    name.append(dot, make("small", { text: "weakest: " }),
      make("bdi", { text: weakest < texts ? hit.weakest : "the picture" }), ` ${scores[weakest].toFixed(2)}`);
  } else name.append(make("bdi", { text: fileName(hit.path) }));
  return make("span", { class: "caption" }, name, make("span", { class: "score", text: hit.score.toFixed(3) }));
}

function describe(hit) {
  const parts = [`${hit.rank}: ${fileName(hit.path)}`, `score ${hit.score.toFixed(2)}`];
  if (hit.weakest !== null) parts.push(`weakest: ${hit.weakest}`);
  return parts.join(", ");
}

function warmUp(button, frame, hit, ask) {
  let timer = 0, wanted = false;
  const start = () => {
    wanted = true;
    clearTimeout(timer);
    timer = setTimeout(async () => {
      try {
        const answer = await getRegions(ask(), hit.id);
        if (!answer || !wanted) return;
        if (!frame.dataset.heat) drawHeat(frame.querySelector("canvas"), answer, answer.phrases);
        frame.dataset.heat = "drawn";
        frame.classList.add("warm");
      } catch { /* the gallery is complete without heat; the next search will say what is wrong */ }
    }, PATIENCE);
  };
  const stop = () => {
    if (button.matches(":hover") && button.isConnected && document.activeElement !== button) return;
    wanted = false;
    clearTimeout(timer);
    frame.classList.remove("warm");
  };
  const end = () => {
    wanted = button.matches(":focus-visible");
    if (!wanted) stop();
  };
  button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && start());
  button.addEventListener("pointerleave", end);
  button.addEventListener("focus", () => button.matches(":focus-visible") && start());
  button.addEventListener("blur", stop);
}
