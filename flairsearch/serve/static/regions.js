// Where a phrase is: boxes as SVG in the photo's own pixels, heat as a canvas over it.

import { makeSvg } from "./dom.js";

const COLOURS = [
  "#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2", // Okabe & Ito's,
  "#ffffff", "#8f5bff", // and two more: eight phrases and a picture
];
export const colourOf = (i) => COLOURS[i % COLOURS.length];

/** Boxes of a hit's phrases; all: not only the best of each. */
export function drawBoxes(hit, all = false) {
  const svg = makeSvg("svg", {
    class: "boxes", viewBox: `0 0 ${hit.width_px} ${hit.height_px}`, preserveAspectRatio: "none", "aria-hidden": "true",
  });
  const seen = new Map(); // box -> how many phrases have it: the next one is dashed over it, so that both show
  for (let i = hit.phrases.length - 1; i >= 0; i--) { // the first phrase's box on top
    const group = makeSvg("g", { "data-phrase": i });
    const boxes = hit.phrases[i].regions.slice(0, all ? undefined : 1);
    boxes.reverse().forEach(({ box }, place) => {
      const key = box.join(), times = seen.get(key) ?? 0;
      seen.set(key, times + 1);
      const best = place === boxes.length - 1;
      for (const role of ["halo", "line"]) {
        const rect = makeSvg("rect", {
          class: `${role}${best ? "" : " further"}${times ? " shared" : ""}`,
          x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1], "vector-effect": "non-scaling-stroke",
        });
        if (role === "line") rect.setAttribute("stroke", colourOf(i));
        group.append(rect);
      }
    });
    svg.append(group);
  }
  return svg;
}

const WARM = [[0, 0, 0], [99, 0, 0], [183, 28, 0], [236, 102, 0], [255, 176, 30], [255, 244, 150]];
const HOTTEST = 0.75; // opacity of the most heat
const UNSEEN = 0.5; // darkness outside of the views that the heat is of
const LONG = 320; // pixels of the canvas

/** The largest heat of some phrases, smooth, on a canvas of the photo's shape; phrases without any are left out. */
export function drawHeat(canvas, hit, phrases) {
  const scale = LONG / Math.max(hit.width_px, hit.height_px);
  const wide = Math.max(1, Math.round(hit.width_px * scale)), high = Math.max(1, Math.round(hit.height_px * scale));
  const heat = new Float32Array(wide * high).fill(-1);
  for (const { heat: grid, view } of phrases) {
    if (!grid || !view) continue;
    spread(grid, [view[0] * wide / hit.width_px, view[1] * high / hit.height_px,
      view[2] * wide / hit.width_px, view[3] * high / hit.height_px], heat, wide, high);
  }
  [canvas.width, canvas.height] = [wide, high];
  const pen = canvas.getContext("2d"), image = pen.createImageData(wide, high);
  heat.forEach((level, i) => {
    const at = Math.max(0, level) * (WARM.length - 1), low = Math.min(Math.floor(at), WARM.length - 2);
    for (let part = 0; part < 3; part++) {
      image.data[4 * i + part] = WARM[low][part] + (at - low) * (WARM[low + 1][part] - WARM[low][part]);
    }
    image.data[4 * i + 3] = 255 * (level < 0 ? UNSEEN : HOTTEST * level ** 0.75);
  });
  pen.putImageData(image, 0, 0);
}

/** A grid's heat above its mean, 0 to 1, into those pixels of `heat` that its view covers. */
function spread(grid, [left, top, right, bottom], heat, wide, high) {
  const flat = grid.flat(), mean = flat.reduce((sum, one) => sum + one, 0) / flat.length;
  const most = Math.max(...flat) - mean || 1;
  const raised = grid.map((row) => row.map((one) => Math.max(0, one - mean) / most));
  const across = taps(left, right, wide, grid[0].length), down = taps(top, bottom, high, grid.length);
  const rows = raised.map((row) => across.map(({ cells, weights }) =>
    cells.reduce((sum, cell, i) => sum + weights[i] * row[cell], 0)));
  for (const { pixel: y, cells, weights } of down) {
    across.forEach(({ pixel: x }, column) => {
      let level = 0;
      for (let i = 0; i < 4; i++) level += weights[i] * rows[cells[i]][column];
      heat[y * wide + x] = Math.max(heat[y * wide + x], Math.min(1, Math.max(0, level)));
    });
  }
}

/** For each pixel between two places: four cells of a row and their weights (a cubic through the middles of cells). */
function taps(from, to, most, cells) {
  const found = [];
  for (let pixel = Math.max(0, Math.floor(from)); pixel < Math.min(most, Math.ceil(to)); pixel++) {
    const at = Math.min(Math.max((pixel + 0.5 - from) / (to - from), 0), 1) * cells - 0.5;
    const low = Math.floor(at), t = at - low;
    found.push({
      pixel,
      cells: [-1, 0, 1, 2].map((step) => Math.min(Math.max(low + step, 0), cells - 1)),
      weights: [
        (2 * t ** 2 - t ** 3 - t) / 2, (3 * t ** 3 - 5 * t ** 2 + 2) / 2,
        (4 * t ** 2 - 3 * t ** 3 + t) / 2, (t ** 3 - t ** 2) / 2,
      ],
    });
  }
  return found;
}
