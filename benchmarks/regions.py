"""Compare ways to make regions from maps, given the relevant view. Choose on training photos.

    python -m benchmarks.regions PHOTOS ANNOTATIONS [--count 300] [--photos 1200] [--boxes FILE]

PHOTOS is the folder that the paths of ANNOTATIONS (Flickr30k-style) start from; the first --photos photos are used.
FILE has lines of {image, size, boxes} and adds photos with boxes, whose labels are the queries. The measures are the
mean IoU of the hottest box with the true cell, pasted photo or box of the text, and the pointing game. Figures to
report, over a gallery and with controls, come from flairsearch eval ANNOTATIONS --photos PHOTOS --regions.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.types import EncodedText, EncodedViews
from flairsearch.evaluate import galleries
from flairsearch.evaluate.box_datasets import read_box_dataset
from flairsearch.evaluate.caption_datasets import CaptionDataset, read_caption_dataset
from flairsearch.evaluate.mosaics import MosaicPlan
from flairsearch.evaluate.region_metrics import best_iou, pointing_game
from flairsearch.model.encoder import TorchEncoder
from flairsearch.regions import boxes as boxes_module
from flairsearch.regions.locator import Locator

PatchMap = NDArray[np.float32]  # One value for each of P patches.
Threshold = Callable[[PatchMap], float | None]


class PairSet:
    """Pairs of a caption and a relevant view, with their maps and true boxes in view coordinates."""

    def __init__(self, name: str, gallery: galleries.BoxGallery, encoder: TorchEncoder) -> None:
        self.name, truth = name, gallery.truth
        pieces = list(gallery.encoded)
        frames = [frame for _, batch_frames in pieces for frame in batch_frames]
        encoded = galleries.concatenate(piece for piece, _ in pieces)
        texts = gallery.texts
        queries = [query for i in range(0, len(texts), 256) for query in encoder.encode_texts(texts[i : i + 256])]
        locator = Locator(encoder.pool_weights)
        self.attention, self.similarity, self.patches, self.truth = [], [], [], []
        for view, text in truth.annotated.tolist():
            encoded_view = encoded.only(view)
            self.attention.append(locator.attend(encoded_view, queries[text])[0])
            self.similarity.append(locator.patch_similarity(encoded_view, queries[text])[0])
            self.patches.append(pool_patches(locator, encoded_view, queries[text]))
            is_true = (truth.view == view) & (truth.label == truth.label_of_text[text])
            self.truth.append(np.array([frames[view].to_view(box) for box in truth.box[is_true].tolist()]))

    def __len__(self) -> int:
        return len(self.truth)


def pool_patches(locator: Locator, encoded: EncodedViews, query: EncodedText) -> PatchMap:
    """Return the reference's patch similarity: the cosine of each patch, pooled alone, with the text, at least 0."""
    patches = encoded.tokens.shape[1]
    return np.maximum(locator.score_parts(encoded.tokens[0], query, np.eye(patches, dtype=bool)), 0)


def measure(sets: list[PairSet], heat: Callable[[PairSet, int], PatchMap]) -> str:
    """Return the columns of a row: mean IoU and pointing game of each set, and the mean of the IoUs."""
    columns, means = [], []
    for pairs in sets:
        values = []
        for i in range(len(pairs)):
            found = heat(pairs, i)
            values.append(
                (
                    best_iou(np.array(boxes_module.find_boxes(found)[0]), pairs.truth[i]),
                    pointing_game(found, pairs.truth[i]),
                )
            )
        iou, pointed = np.mean(values, axis=0)
        columns.append(f"{iou:.3f} | {pointed:.1%}")
        means.append(iou)
    return " | ".join([*columns, f"{np.mean(means):.3f}"])


def above_deviations(count: float) -> Threshold:
    """Return a threshold at the mean plus `count` standard deviations."""
    return lambda values: float(values.mean() + count * values.std())


def of_maximum(share: float) -> Threshold:
    """Return a threshold at a share of the maximum."""
    return lambda values: float(share * values.max())


def load(dataset: CaptionDataset, encoder: TorchEncoder, count: int, boxes: Path | None) -> list[PairSet]:
    """Make the sets of mosaics, boxes and pasted photos."""
    encode, size = encoder.encode_images, encoder.config.image_size
    plans = [("2x2", MosaicPlan(count, 2, seed=5)), ("3x3", MosaicPlan(max(1, count * 4 // 9), 3, seed=5))]
    sets = [
        PairSet(name, galleries.mosaic_gallery(dataset, encode, "squash", size, plan), encoder) for name, plan in plans
    ]
    if boxes is not None:
        boxed = read_box_dataset(boxes, dataset.folder, "labelled", "{}")
        sets.append(PairSet("boxes", galleries.box_gallery(boxed, encode, "squash", size), encoder))
    return [
        *sets,
        PairSet("pasted", galleries.paste_gallery(dataset, encode, "squash", size, 4 * count, seed=5), encoder),
    ]


def print_rows(sets: list[PairSet]) -> None:
    """Print a row for each way to make regions."""

    def show(name: str, heat: Callable[[PairSet, int], PatchMap]) -> None:
        print(f"| {name} | {measure(sets, heat)} |", flush=True)

    def alone(name: str) -> Callable[[PairSet, int], PatchMap]:
        flat = np.zeros(len(sets[0].attention[0]), np.float32)
        return lambda pairs, i: boxes_module.find_heat(getattr(pairs, name)[i], flat)

    def both(pairs: PairSet, i: int) -> PatchMap:
        return boxes_module.find_heat(pairs.attention[i], pairs.similarity[i])

    show("as in a search", both)
    show("attention alone", alone("attention"))
    show("similarity alone", alone("similarity"))
    show("each patch pooled alone", alone("patches"))
    show(
        "attention times each patch pooled alone",
        lambda pairs, i: boxes_module.find_heat(pairs.attention[i] * pairs.patches[i], 0 * pairs.attention[i]),
    )
    for name, values in (
        ("SIMILARITY_WEIGHT", (0.25, 0.5, 1.0)),
        ("SMOOTHING_SIGMA", (0.5, 0.7, 1.5)),
        ("CELLS_PER_PATCH", (1, 4)),
    ):
        default = getattr(boxes_module, name)
        for value in values:
            setattr(boxes_module, name, value)
            _clear_caches()
            show(f"{name} {value}", both)
        setattr(boxes_module, name, default)
        _clear_caches()
    otsu = boxes_module._otsu
    others = {
        "0.2 of the maximum instead of Otsu's": of_maximum(0.2),
        "0.3 of the maximum": of_maximum(0.3),
        "0.4 of the maximum": of_maximum(0.4),
        "the mean and 0.25 deviations": above_deviations(0.25),
        "the mean and 0.5 deviations": above_deviations(0.5),
        "the mean and 0.75 deviations": above_deviations(0.75),
        "the mean and 1 deviation": above_deviations(1.0),
    }
    for name, threshold in others.items():
        boxes_module._otsu = threshold
        show(name, both)
    boxes_module._otsu = otsu


def _clear_caches() -> None:
    """Clear what regions/boxes.py has cached for the former constants."""
    boxes_module._smoothing_matrix.cache_clear()
    boxes_module._interpolation_matrix.cache_clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos_folder", metavar="PHOTOS", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("--model", default="flair-small")
    parser.add_argument("--photos", type=int, default=1200)
    parser.add_argument("--boxes", type=Path, help="file of more photos with boxes, with paths below PHOTOS")
    parser.add_argument(
        "--count", type=int, default=300, help="number of 2x2 mosaics; the other sets have as many captions"
    )
    args = parser.parse_args()
    dataset = first_photos(read_caption_dataset(args.annotations, args.photos_folder), args.photos)
    encoder = TorchEncoder(args.model, "cpu")
    sets = load(dataset, encoder, args.count, args.boxes)
    sizes = ", ".join(f"{pairs.name} {len(pairs):,}" for pairs in sets)
    print(f"{args.model}, {len(dataset.photos):,} photos; pairs: {sizes}")
    print("| | " + " | ".join(f"{pairs.name}: IoU | pointing" for pairs in sets) + " | mean IoU |")
    print("|---" * (2 + 2 * len(sets)) + "|")
    print_rows(sets)


def first_photos(dataset: CaptionDataset, count: int) -> CaptionDataset:
    """Keep the first photos and their captions."""
    kept = [i for i, photo in enumerate(dataset.photo_of_caption) if photo < count]
    captions, photo_of_caption = (
        tuple(column[i] for i in kept) for column in (dataset.captions, dataset.photo_of_caption)
    )
    return CaptionDataset(
        dataset.format, dataset.folder, dataset.photos[:count], captions, photo_of_caption, dataset.empty_captions
    )


if __name__ == "__main__":
    main()
