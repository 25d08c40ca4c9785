// Draws regions: boxes as SVG in pixels of the photo, heat maps on a canvas over the photo.

import { makeSvg } from "./dom.js";

const COLOURS = [
  "#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2", // The palette of Okabe and Ito.
  "#ffffff", "#8f5bff", // Two more make nine: eight phrases and an image.
];
export const colourOf = (i) => COLOURS[i % COLOURS.length];

/** Draws the best box of each phrase of a hit; withAll: all boxes. */
export function drawBoxes(hit, withAll = false) {
  const svg = makeSvg("svg", {
    class: "boxes", viewBox: `0 0 ${hit.width_px} ${hit.height_px}`, preserveAspectRatio: "none", "aria-hidden": "true",
  });
  const drawn = new Set(); // Boxes drawn so far: an equal box is dashed, so that both colours show.
  for (let i = hit.phrases.length - 1; i >= 0; i--) { // The first phrase is drawn last, on top.
    const group = makeSvg("g", { "data-phrase": i });
    const boxes = hit.phrases[i].regions.slice(0, withAll ? undefined : 1);
    boxes.reverse().forEach(({ box }, index) => {
      const isShared = drawn.has(box.join()), isBest = index === boxes.length - 1;
      drawn.add(box.join());
      for (const role of ["halo", "line"]) {
        const rect = makeSvg("rect", {
          class: `${role}${isBest ? "" : " secondary"}${isShared ? " shared" : ""}`,
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

const HEAT_COLOURS = [[0, 0, 0], [99, 0, 0], [183, 28, 0], [236, 102, 0], [255, 176, 30], [255, 244, 150]];
const MAX_OPACITY = 0.75; // The opacity of the hottest pixel.
const OUTSIDE_OPACITY = 0.5; // The darkness of pixels outside of the views that have heat maps.
const CANVAS_SIDE = 320; // The long side of the canvas in pixels.

/** Draws the maximum of the phrases' heat maps on a canvas of the photo's shape; phrases without one are skipped. */
export function drawHeat(canvas, hit, phrases) {
  const scale = CANVAS_SIDE / Math.max(hit.width_px, hit.height_px);
  const width = Math.max(1, Math.round(hit.width_px * scale)), height = Math.max(1, Math.round(hit.height_px * scale));
  const heat = new Float32Array(width * height).fill(-1); // -1 marks pixels outside of all views.
  for (const { heat: grid, view } of phrases) {
    if (!grid || !view) continue;
    const [scaleX, scaleY] = [width / hit.width_px, height / hit.height_px];
    addHeat(grid, [view[0] * scaleX, view[1] * scaleY, view[2] * scaleX, view[3] * scaleY], heat, width, height);
  }
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d"), pixels = context.createImageData(width, height);
  heat.forEach((level, i) => {
    const position = Math.max(0, level) * (HEAT_COLOURS.length - 1);
    const low = Math.min(Math.floor(position), HEAT_COLOURS.length - 2);
    for (let channel = 0; channel < 3; channel++) {
      const [from, to] = [HEAT_COLOURS[low][channel], HEAT_COLOURS[low + 1][channel]];
      pixels.data[4 * i + channel] = from + (position - low) * (to - from);
    }
    pixels.data[4 * i + 3] = 255 * (level < 0 ? OUTSIDE_OPACITY : MAX_OPACITY * level ** 0.75);
  });
  context.putImageData(pixels, 0, 0);
}

/**
 * Raises the pixels of one view to the heat of its grid, with bicubic interpolation.
 * grid: rows of cells. [left, top, right, bottom]: the view in pixels of the canvas.
 * heat f32[width * height]: 0 is the mean of the grid or less, 1 is its maximum.
 */
function addHeat(grid, [left, top, right, bottom], heat, width, height) {
  const values = grid.flat(), mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const range = Math.max(...values) - mean || 1;
  const levels = grid.map((row) => row.map((value) => Math.max(0, (value - mean) / range)));
  const columnTaps = cubicTaps(left, right, width, grid[0].length), rowTaps = cubicTaps(top, bottom, height, grid.length);
  const rows = levels.map((row) => columnTaps.map(({ cells, weights }) =>
    cells.reduce((sum, cell, i) => sum + weights[i] * row[cell], 0)));
  for (const { pixel: y, cells, weights } of rowTaps) {
    columnTaps.forEach(({ pixel: x }, column) => {
      let level = 0;
      for (let i = 0; i < 4; i++) level += weights[i] * rows[cells[i]][column];
      heat[y * width + x] = Math.max(heat[y * width + x], Math.min(1, Math.max(0, level)));
    });
  }
}

/** For each pixel of `side` in [from, to): the four nearest of `cellCount` cells, and their Catmull-Rom weights. */
function cubicTaps(from, to, side, cellCount) {
  const taps = [];
  for (let pixel = Math.max(0, Math.floor(from)); pixel < Math.min(side, Math.ceil(to)); pixel++) {
    const position = Math.min(Math.max((pixel + 0.5 - from) / (to - from), 0), 1) * cellCount - 0.5;
    const low = Math.floor(position), t = position - low;
    taps.push({
      pixel,
      cells: [-1, 0, 1, 2].map((step) => Math.min(Math.max(low + step, 0), cellCount - 1)),
      weights: [
        (2 * t ** 2 - t ** 3 - t) / 2, (3 * t ** 3 - 5 * t ** 2 + 2) / 2,
        (4 * t ** 2 - 3 * t ** 3 + t) / 2, (t ** 3 - t ** 2) / 2,
      ],
    });
  }
  return taps;
}
