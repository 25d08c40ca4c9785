// Search by image: a file that is dropped, pasted or chosen, or a photo of the index; its chip and its dialog.

import { getRegions, largeUrl, thumbnailUrl } from "./api.js";
import { byId, icon, isolate, make } from "./dom.js";
import { emptyQuery } from "./query.js";
import { fitFrame, RegionSelector } from "./region-selector.js";

const MAX_FILE_BYTES = 32e6; // The server refuses larger bodies.
const CHIP_HEIGHT = 96; // The height in pixels of a chip's canvas, which is shown at a third for fine screens.

export const imageFiles = new Map(); // key -> File: the image files that this tab holds.
const chipPictures = new WeakMap(); // image of a query -> the element in its chip, which is drawn once.
const photoSizes = new Map(); // id -> [width, height] in pixels of the photos seen so far.

export const rememberSizes = (hits) =>
  hits.forEach((hit) => photoSizes.set(String(hit.id), [hit.width_px, hit.height_px]));

async function sizeOfPhoto(id) {
  if (!photoSizes.has(String(id))) {
    const hit = await getRegions({ ...emptyQuery(), image: { id, box: null } }, id);
    if (hit) rememberSizes([hit]);
  }
  return photoSizes.get(String(id));
}

/** Accepts image files anywhere on the page. onImage(image): a file was given. onError(text): it cannot be used. */
export function acceptImages(onImage, onError) {
  const accept = async (file) => {
    if (!file) return;
    const name = isolate(`“${file.name}”`);
    if (file.type && !file.type.startsWith("image/")) return onError(`${name} is not a picture.`);
    if (file.size > MAX_FILE_BYTES) {
      const megabytes = (file.size / 1e6).toFixed(0);
      return onError(`${name} has ${megabytes} MB; a picture to search with can have at most ${MAX_FILE_BYTES / 1e6} MB.`);
    }
    // randomUUID does not exist on pages that came over plain HTTP.
    const key = crypto.randomUUID?.() ?? String(Math.random()).slice(2);
    try { // A copy in memory, since the file may be changed, moved or unplugged before the next search.
      file = new File([await file.arrayBuffer()], file.name, { type: file.type });
    } catch {
      return onError(`${name} cannot be read.`);
    }
    imageFiles.set(key, file);
    onImage({ file, key, box: null });
  };
  const fileInput = byId("file");
  byId("choose-file").addEventListener("click", () => fileInput.click());
  fileInput.addEventListener("change", () => {
    accept(fileInput.files[0]);
    fileInput.value = "";
  });
  addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    accept(file);
  });
  acceptDrops(accept);
}

function acceptDrops(accept) {
  const dropTarget = byId("drop-target");
  const hasFile = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => { dropTarget.hidden = !hasFile(event); });
  addEventListener("dragover", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    dropTarget.hidden = false;
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) dropTarget.hidden = true; });
  addEventListener("drop", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    dropTarget.hidden = true;
    accept(event.dataTransfer.files[0]);
  });
}

export function makeImageChip(image, colour, onOpen, onRemove) {
  const name = image.file ? image.file.name || "pasted picture" : "photo";
  const label = image.box ? `part of ${name}` : name;
  const picture = chipPictures.get(image) ?? make("canvas", { "aria-hidden": "true" });
  const dot = make("i", { class: "dot" });
  dot.style.background = colour;
  if (!chipPictures.has(image)) drawChip(picture, image).catch(() => { // The browser cannot show this kind of file.
    chipPictures.set(image, icon("picture"));
    picture.replaceWith(chipPictures.get(image));
  });
  chipPictures.set(image, picture);
  const removeOnKey = (event) => {
    if (event.key !== "Delete" && event.key !== "Backspace") return;
    event.preventDefault();
    onRemove();
  };
  const edit = make("button", {
    class: "edit", type: "button", title: "Choose a part of it", on: { click: onOpen },
    "aria-label": `Picture: ${label}. Choose a part of it`,
  }, dot, picture, make("bdi", { text: label }));
  const remove = make("button", {
    class: "remove", type: "button", "aria-label": "Remove the picture", on: { click: onRemove },
  }, icon("close"));
  return make("li", { class: "chip image", on: { keydown: removeOnKey } }, edit, remove);
}

/** Draws the box of an image, or all of it, so that it fills the chip. */
async function drawChip(canvas, image) {
  let source, width, height;
  if (image.file) {
    source = await createImageBitmap(image.file);
    [width, height] = [source.width, source.height];
  } else {
    source = new Image();
    source.src = image.box ? largeUrl(image.id) : thumbnailUrl(image.id, 256);
    await source.decode();
    [width, height] = (image.box && await sizeOfPhoto(image.id)) || [source.naturalWidth, source.naturalHeight];
  }
  const [left, top, right, bottom] = image.box ?? [0, 0, width, height];
  const scaleX = (source.naturalWidth ?? source.width) / width, scaleY = (source.naturalHeight ?? source.height) / height;
  const chipWidth = Math.round(
    Math.min(2 * CHIP_HEIGHT, Math.max(CHIP_HEIGHT / 2, CHIP_HEIGHT * (right - left) / (bottom - top))));
  [canvas.width, canvas.height] = [chipWidth, CHIP_HEIGHT];
  canvas.style.width = `${chipWidth / 3}px`;
  const scale = Math.max(chipWidth / (right - left), CHIP_HEIGHT / (bottom - top)); // The chip has no empty borders.
  const [cropWidth, cropHeight] = [chipWidth / scale, CHIP_HEIGHT / scale];
  canvas.getContext("2d").drawImage(source,
    ((left + right - cropWidth) / 2) * scaleX, ((top + bottom - cropHeight) / 2) * scaleY,
    cropWidth * scaleX, cropHeight * scaleY, 0, 0, chipWidth, CHIP_HEIGHT);
}

/** The dialog in which the user selects a part of the query's image and sets its weight. */
export class ImageQueryDialog {
  /** onUse(image, weight): the user wants to search; weight is a number as text, "" for 1. */
  constructor(onUse) {
    this.onUse = onUse;
    this.dialog = byId("image-query");
    this.frame = byId("image-query-frame");
    this.picture = byId("image-query-picture");
    this.weight = byId("image-query-weight");
    this.selector = new RegionSelector(this.frame, () => this.finish(), { label: "Search with this part" });
    byId("image-query-select").addEventListener("click", () => this.selector.startInMiddle());
    byId("image-query-use").addEventListener("click", () => this.finish());
    byId("image-query-whole").addEventListener("click", () => {
      this.selector.select(null);
      this.finish();
    });
    this.weight.addEventListener("input", () => { byId("image-query-weight-value").textContent = `× ${this.weight.value}`; });
    byId("image-query-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("close", () => {
      if (this.url) URL.revokeObjectURL(this.url);
      this.picture.removeAttribute("src");
    });
    addEventListener("resize", () => this.layOut());
  }

  /** hasText: whether the query has phrases too; only then a weight makes a difference. */
  async open(image, weight, hasText) {
    this.image = image;
    this.size = null;
    this.frame.hidden = true;
    byId("image-query-note").hidden = true;
    this.setSelectable(false);
    byId("image-query-weight-field").hidden = !hasText;
    this.weight.value = weight || 1;
    this.weight.dispatchEvent(new Event("input"));
    this.url = image.file ? URL.createObjectURL(image.file) : null;
    this.picture.src = this.url ?? largeUrl(image.id);
    this.selector.clear();
    this.dialog.showModal();
    try {
      await this.picture.decode();
      this.size = image.file ? [this.picture.naturalWidth, this.picture.naturalHeight] : await sizeOfPhoto(image.id);
    } catch {
      byId("image-query-note").textContent = image.file
        ? "This browser cannot show this kind of picture. The search uses all of it." : "The photo did not load.";
      byId("image-query-note").hidden = false;
      return;
    }
    this.frame.hidden = false;
    this.setSelectable(true);
    this.selector.setSize(...this.size);
    this.layOut();
    this.selector.select(image.box);
  }

  /** Shows or hides the buttons that choose a part, which need a visible picture. */
  setSelectable(isSelectable) {
    for (const id of ["image-query-select", "image-query-whole"]) byId(id).hidden = !isSelectable;
  }

  layOut() {
    if (!this.dialog.open || !this.size) return;
    fitFrame(this.frame, byId("image-query-stage"), ...this.size);
    if (this.selector.box) this.selector.placeButtons();
  }

  finish() {
    const weight = Number(this.weight.value) === 1 ? "" : this.weight.value;
    const { box } = this.size ? this.selector : this.image;
    this.dialog.close();
    this.onUse({ ...this.image, box }, weight);
  }
}
