// A picture as the query: dropped, pasted, chosen, or a photo of the index; its chip, and the part of it that is meant.

import { getRegions, largeUrl, thumbnailUrl } from "./api.js";
import { byId, icon, isolate, make } from "./dom.js";
import { emptyQuery } from "./query.js";
import { fit, Part } from "./part.js";

const LARGEST = 32e6; // bytes that the server takes
const CROP = 96; // px of the chip's picture: its double, for fine screens

export const files = new Map(); // key -> File: pictures that only this tab has
const crops = new WeakMap(); // picture -> its chip's canvas: drawn once
const sizes = new Map(); // id -> [width, height] of photos seen, pixels

export const rememberSizes = (hits) => hits.forEach((hit) => sizes.set(String(hit.id), [hit.width_px, hit.height_px]));

async function sizeOf(id) {
  if (!sizes.has(String(id))) {
    const hit = await getRegions({ ...emptyQuery(), picture: { id, box: null } }, id);
    if (hit) rememberSizes([hit]);
  }
  return sizes.get(String(id));
}

/** Everywhere on the page; use: (picture) takes it, complain: (text). */
export function watchForPictures(use, complain) {
  const take = async (file) => {
    if (!file) return;
    if (file.type && !file.type.startsWith("image/")) return complain(`${isolate(`“${file.name}”`)} is no picture.`);
    if (file.size > LARGEST) return complain(`${isolate(`“${file.name}”`)} has ${(file.size / 1e6).toFixed(0)} MB; a picture to search with may have 32.`);
    const key = crypto.randomUUID?.() ?? String(Math.random()).slice(2); // absent where the page came over plain HTTP
    try { // as it is now: it may be changed, moved or unplugged before the next search
      file = new File([await file.arrayBuffer()], file.name, { type: file.type });
    } catch {
      return complain(`${isolate(`“${file.name}”`)} cannot be read.`);
    }
    files.set(key, file);
    use({ file, key, box: null });
  };
  const pick = byId("file");
  byId("pick").addEventListener("click", () => pick.click());
  pick.addEventListener("change", () => {
    take(pick.files[0]);
    pick.value = "";
  });
  addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    take(file);
  });
  const sign = byId("drop");
  const hasFile = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => { sign.hidden = !hasFile(event); });
  addEventListener("dragover", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    sign.hidden = false;
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) sign.hidden = true; });
  addEventListener("drop", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    sign.hidden = true;
    take(event.dataTransfer.files[0]);
  });
}

export function pictureChip(picture, colour, open, remove) {
  const name = picture.file ? picture.file.name || "pasted picture" : "photo";
  const what = picture.box ? `part of ${name}` : name;
  const crop = crops.get(picture) ?? make("canvas", { "aria-hidden": "true" });
  const dot = make("i", { class: "dot" });
  dot.style.background = colour;
  if (!crops.has(picture)) drawCrop(crop, picture).catch(() => { // a kind no browser shows
    crops.set(picture, icon("picture"));
    crop.replaceWith(crops.get(picture));
  });
  crops.set(picture, crop);
  return make("li", { class: "chip picture", on: { keydown: (event) => {
    if (event.key !== "Delete" && event.key !== "Backspace") return;
    event.preventDefault();
    remove();
  } } },
    make("button", { class: "edit", type: "button", title: "Choose a part of it", "aria-label": `Picture: ${what}. Choose a part of it`, on: { click: open } },
      dot, crop, make("bdi", { text: what })),
    make("button", { class: "remove", type: "button", "aria-label": "Remove the picture", on: { click: remove } }, icon("close")));
}

async function drawCrop(canvas, picture) {
  let source, width, height;
  if (picture.file) {
    source = await createImageBitmap(picture.file);
    [width, height] = [source.width, source.height];
  } else {
    source = new Image();
    source.src = picture.box ? largeUrl(picture.id) : thumbnailUrl(picture.id, 256);
    await source.decode();
    [width, height] = (picture.box && await sizeOf(picture.id)) || [source.naturalWidth, source.naturalHeight];
  }
  const [left, top, right, bottom] = picture.box ?? [0, 0, width, height];
  const x = (source.naturalWidth ?? source.width) / width, y = (source.naturalHeight ?? source.height) / height;
  const high = CROP, wide = Math.round(Math.min(2 * CROP, Math.max(CROP / 2, CROP * (right - left) / (bottom - top))));
  [canvas.width, canvas.height] = [wide, high];
  canvas.style.width = `${wide / 3}px`;
  const scale = Math.max(wide / (right - left), high / (bottom - top)); // all of the chip is filled
  const [w, h] = [wide / scale, high / scale];
  canvas.getContext("2d").drawImage(source, ((left + right - w) / 2) * x, ((top + bottom - h) / 2) * y, w * x, h * y, 0, 0, wide, high);
}

/** The dialog in which a part of the query picture is drawn and its weight set. */
export class PictureDialog {
  /** use: (picture, weight). */
  constructor(use) {
    this.use = use;
    this.dialog = byId("picture");
    this.frame = byId("picture-frame");
    this.image = byId("picture-image");
    this.weight = byId("picture-weight");
    this.part = new Part(this.frame, () => this.finish(), { label: "Search with this part" });
    byId("picture-start").addEventListener("click", () => this.part.start());
    byId("picture-use").addEventListener("click", () => this.finish());
    byId("picture-whole").addEventListener("click", () => {
      this.part.select(null);
      this.finish();
    });
    this.weight.addEventListener("input", () => { byId("picture-weight-shown").textContent = `× ${this.weight.value}`; });
    byId("picture-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("close", () => {
      if (this.url) URL.revokeObjectURL(this.url);
      this.image.removeAttribute("src");
    });
    addEventListener("resize", () => this.lay());
  }

  async open(picture, weight, withText) {
    this.picture = picture;
    this.size = null;
    this.frame.hidden = true;
    byId("picture-note").hidden = true;
    this.allow(false);
    byId("picture-weighing").hidden = !withText;
    this.weight.value = weight || 1;
    this.weight.dispatchEvent(new Event("input"));
    this.url = picture.file ? URL.createObjectURL(picture.file) : null;
    this.image.src = this.url ?? largeUrl(picture.id);
    this.part.clear();
    this.dialog.showModal();
    try {
      await this.image.decode();
      this.size = picture.file ? [this.image.naturalWidth, this.image.naturalHeight] : await sizeOf(picture.id);
    } catch {
      byId("picture-note").textContent = picture.file
        ? "This browser does not show that kind of picture. It is searched with as a whole." : "The photo did not load.";
      byId("picture-note").hidden = false;
      return;
    }
    this.frame.hidden = false;
    this.allow(true);
    this.part.setSize(...this.size);
    this.lay();
    this.part.select(picture.box);
  }

  /** Whether parts can be chosen: the picture is seen. */
  allow(on) {
    for (const id of ["picture-start", "picture-whole"]) byId(id).hidden = !on;
  }

  lay() {
    if (!this.dialog.open || !this.size) return;
    fit(this.frame, byId("picture-stage"), ...this.size);
    if (this.part.box) this.part.place();
  }

  finish() {
    const weight = Number(this.weight.value) === 1 ? "" : this.weight.value;
    const { box } = this.size ? this.part : this.picture;
    this.dialog.close();
    this.use({ ...this.picture, box }, weight);
  }
}
