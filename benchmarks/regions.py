"""How regions are made, chosen on training photos: which map, how smooth, how fine; given the right view.

    python -m benchmarks.regions PHOTOS ANNOTATIONS [--count 300] [--photos 1200] [--boxes FILE]

PHOTOS is the folder that the paths of ANNOTATIONS (Flickr30k-style) start from; the first --photos of them are used.
FILE, lines of {image, size, boxes}, adds photos with boxes of their own, whose label is the query.
Mean IoU of the box with the most heat with the cell, paste or box that a text speaks of, and the pointing game. The
figures to report, over a gallery and with controls: flairsearch eval ANNOTATIONS --photos PHOTOS --regions.
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

Maps = NDArray[np.float32]  # [P]
Threshold = Callable[[Maps], float | None]


class Set:
    """Right pairs of views and captions, with their maps and true boxes."""

    def __init__(self, name: str, found: galleries.BoxGallery, encoder: TorchEncoder) -> None:
        self.name, truth = name, found.truth
        pieces = list(found.encoded)
        frames = [frame for _, some in pieces for frame in some]
        encoded = galleries.concatenate(piece for piece, _ in pieces)
        texts = found.texts
        queries = [query for i in range(0, len(texts), 256) for query in encoder.encode_texts(texts[i : i + 256])]
        locator = Locator(encoder.pool_weights)
        self.attention, self.similarity, self.patches, self.truth = [], [], [], []
        for view, text in truth.annotated.tolist():
            one = encoded.only(view)
            self.attention.append(locator.attend(one, queries[text])[0])
            self.similarity.append(locator.patch_similarity(one, queries[text])[0])
            self.patches.append(pool_alone(locator, one, queries[text]))
            here = (truth.view == view) & (truth.label == truth.label_of_text[text])
            self.truth.append(np.array([frames[view].to_view(box) for box in truth.box[here].tolist()]))

    def __len__(self) -> int:
        return len(self.truth)


def pool_alone(locator: Locator, encoded: EncodedViews, query: EncodedText) -> Maps:
    """The reference's patch similarity: pool each patch alone, cosine with the text, not below 0."""
    patches = encoded.tokens.shape[1]
    return np.maximum(locator.score_parts(encoded.tokens[0], query, np.eye(patches, dtype=bool)), 0)


def measure(sets: list[Set], heat: Callable[[Set, int], Maps]) -> str:
    """Columns of a row: mean IoU and pointing of each set."""
    columns, means = [], []
    for one in sets:
        values = []
        for i in range(len(one)):
            found = heat(one, i)
            values.append(
                (
                    best_iou(np.array(boxes_module.find_boxes(found)[0]), one.truth[i]),
                    pointing_game(found, one.truth[i]),
                )
            )
        iou, pointed = np.mean(values, axis=0)
        columns.append(f"{iou:.3f} | {pointed:.1%}")
        means.append(iou)
    return " | ".join([*columns, f"{np.mean(means):.3f}"])


def above_deviations(count: float) -> Threshold:
    return lambda values: float(values.mean() + count * values.std())


def of_maximum(share: float) -> Threshold:
    return lambda values: float(share * values.max())


def load(dataset: CaptionDataset, encoder: TorchEncoder, count: int, boxes: Path | None) -> list[Set]:
    encode, size = encoder.encode_images, encoder.config.image_size
    plans = [("2x2", MosaicPlan(count, 2, seed=5)), ("3x3", MosaicPlan(max(1, count * 4 // 9), 3, seed=5))]
    sets = [Set(name, galleries.mosaic_gallery(dataset, encode, "squash", size, plan), encoder) for name, plan in plans]
    if boxes is not None:
        boxed = read_box_dataset(boxes, dataset.folder, "labelled", "{}")
        sets.append(Set("boxes", galleries.box_gallery(boxed, encode, "squash", size), encoder))
    return [*sets, Set("paste", galleries.paste_gallery(dataset, encode, "squash", size, 4 * count, seed=5), encoder)]


def print_rows(sets: list[Set]) -> None:
    def show(name: str, heat: Callable[[Set, int], Maps]) -> None:
        print(f"| {name} | {measure(sets, heat)} |", flush=True)

    def alone(name: str) -> Callable[[Set, int], Maps]:
        flat = np.zeros(len(sets[0].attention[0]), np.float32)
        return lambda one, i: boxes_module.find_heat(getattr(one, name)[i], flat)

    def both(one: Set, i: int) -> Maps:
        return boxes_module.find_heat(one.attention[i], one.similarity[i])

    show("as it is", both)
    show("attention alone", alone("attention"))
    show("similarity alone", alone("similarity"))
    show("each patch pooled alone", alone("patches"))
    show(
        "attention times each patch pooled alone",
        lambda one, i: boxes_module.find_heat(one.attention[i] * one.patches[i], 0 * one.attention[i]),
    )
    for name, values in (
        ("SIMILARITY_WEIGHT", (0.25, 0.5, 1.0)),
        ("SMOOTHING_SIGMA", (0.5, 0.7, 1.5)),
        ("CELLS_PER_PATCH", (1, 4)),
    ):
        usual = getattr(boxes_module, name)
        for value in values:
            setattr(boxes_module, name, value)
            _forget_bands()
            show(f"{name} {value}", both)
        setattr(boxes_module, name, usual)
        _forget_bands()
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


def _forget_bands() -> None:
    """Clear the matrices that regions/boxes.py cached for the old constants."""
    boxes_module._smoothing_matrix.cache_clear()
    boxes_module._interpolation_matrix.cache_clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos_folder", metavar="PHOTOS", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("--model", default="flair-small")
    parser.add_argument("--photos", type=int, default=1200)
    parser.add_argument("--boxes", type=Path, help="photos with boxes, their paths from PHOTOS on, too")
    parser.add_argument("--count", type=int, default=300, help="2x2 mosaics; as many captions in the other sets")
    args = parser.parse_args()
    dataset = first(read_caption_dataset(args.annotations, args.photos_folder), args.photos)
    encoder = TorchEncoder(args.model, "cpu")
    sets = load(dataset, encoder, args.count, args.boxes)
    print(
        f"{args.model}, {len(dataset.photos):,} photos; pairs: {', '.join(f'{one.name} {len(one):,}' for one in sets)}"
    )
    print("| | " + " | ".join(f"{one.name}: IoU | pointing" for one in sets) + " | mean IoU |")
    print("|---" * (2 + 2 * len(sets)) + "|")
    print_rows(sets)


def first(dataset: CaptionDataset, count: int) -> CaptionDataset:
    """The first photos with their captions."""
    kept = [i for i, photo in enumerate(dataset.photo_of_caption) if photo < count]
    captions, owner = (tuple(column[i] for i in kept) for column in (dataset.captions, dataset.photo_of_caption))
    return CaptionDataset(
        dataset.format, dataset.folder, dataset.photos[:count], captions, owner, dataset.empty_captions
    )


if __name__ == "__main__":
    main()
