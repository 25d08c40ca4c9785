"""Measure what tiles gain and cost, on 3x3 mosaics at twice the model's size, through an index as a user makes it.

    python -m benchmarks.tiles PHOTOS ANNOTATIONS [--views tiles:4] [--mosaics 1000] [--texts 1000] [--best 1 2 3]
                              [--work FOLDER]

PHOTOS is the folder that the paths of ANNOTATIONS (Flickr30k-style) start from. Each mosaic is a PNG file, indexed as a
whole (squash) and with --views. Captions of cells are the queries, and all views are ranked (shortlist "all"). A hit
counts for BoxRecall when its first region reaches an IoU of 0.3 with a cell that shows the caption's photo, in any
mosaic.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flairsearch import Engine
from flairsearch.core.hits import Hit
from flairsearch.evaluate.caption_datasets import read_caption_dataset
from flairsearch.evaluate.galleries import load_pictures
from flairsearch.evaluate.mosaics import MosaicPlan, cell_boxes, make_mosaics, plan_mosaics
from flairsearch.evaluate.region_metrics import RECALL_KS, best_iou
from flairsearch.search import aggregation

CORRECT_IOU = 0.3  # A region counts as correct from this IoU.
HITS = max(RECALL_KS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("--views", default="tiles:4")
    parser.add_argument("--mosaics", type=int, default=1000)
    parser.add_argument("--side", type=int, default=3)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--size", type=int, default=448, help="side of the model's square, in pixels")
    parser.add_argument(
        "--best", type=int, nargs="+", help="measure --views with a photo's score as the mean of this many best views"
    )
    parser.add_argument("--work", type=Path, help="folder for mosaics and indexes; existing ones are used again")
    args = parser.parse_args()
    work = args.work or Path(tempfile.mkdtemp())
    dataset = read_caption_dataset(args.annotations, args.photos)
    captions_of_photo: list[list[int]] = [[] for _ in dataset.photos]
    for caption, photo in enumerate(dataset.photo_of_caption):
        captions_of_photo[photo].append(caption)
    plan = MosaicPlan(args.mosaics, args.side, 2)
    cells_of_mosaic, caption_numbers = plan_mosaics([len(numbers) for numbers in captions_of_photo], plan)
    folder = work / f"mosaics-{args.mosaics}-{args.side}"
    if not folder.exists():
        folder.mkdir(parents=True)
        pictures = load_pictures(dataset.folder, dataset.photos, "squash", args.size)
        for number, picture in enumerate(make_mosaics(pictures, cells_of_mosaic, plan.factor)):
            Image.fromarray(picture.pixels).save(folder / f"{number:05d}.png")
    cells = np.random.default_rng(0).permutation(cells_of_mosaic.size)[: args.texts]
    photos = cells_of_mosaic.ravel()[cells]
    captions = [
        dataset.captions[captions_of_photo[p][n]]
        for p, n in zip(photos.tolist(), caption_numbers.ravel()[cells].tolist(), strict=True)
    ]
    boxes = cell_boxes(plan.factor * args.size, args.side).astype(np.float64)
    print(
        f"{args.mosaics:,} mosaics {args.side}x{args.side} of {plan.factor * args.size} px, {len(captions):,} captions"
    )
    print("| views | R@1 / 5 / 10 | BoxRecall@1 / 5 / 10 | IoU, right hits | photos/s | bytes a photo | query |")
    print("|---|---|---|---|---|---|---|")
    recalls = []
    usual = aggregation.TOP_VIEWS_PER_IMAGE
    for views, best in (("squash", usual), *((args.views, best) for best in args.best or [usual])):
        aggregation.TOP_VIEWS_PER_IMAGE = best
        row, recall = measure(work, folder, views, captions, photos, cells_of_mosaic, boxes)
        print(f"{row} the {best} best views of a photo" if args.best else row, flush=True)
        recalls.append(recall)
    print(f"BoxRecall@{HITS} of {args.views} against squash: {recalls[-1] / recalls[0]:.2f}x")
    if args.work is None:
        shutil.rmtree(work)


def measure(
    work: Path,
    folder: Path,
    views: str,
    captions: list[str],
    photos: NDArray[np.int64],
    cells_of_mosaic: NDArray[np.int64],
    boxes: NDArray[np.float64],
) -> tuple[str, float]:
    """Index the mosaics and return a row of the table and BoxRecall@10."""
    index = work / f"{folder.name}-{views.replace(':', '')}.index"
    with Engine.open(index, views=views) as engine:
        began = time.perf_counter()
        added = engine.add(folder).added
        speed = f"{added / (time.perf_counter() - began):.0f}" if added else "-"
        engine.search(captions[0])
        times, found, placed, overlaps = [], np.zeros(len(RECALL_KS)), np.zeros(len(RECALL_KS)), []
        for caption, photo in zip(captions, photos.tolist(), strict=True):
            began = time.perf_counter()
            hits = engine.search(caption, HITS, shortlist="all")
            times.append(time.perf_counter() - began)
            right = [(hit, boxes[cells_of_mosaic[int(Path(hit.path).stem)] == photo]) for hit in hits]
            overlap = np.array([_overlap(hit, truth) for hit, truth in right])
            overlaps += [value for value, (_, truth) in zip(overlap.tolist(), right, strict=True) if len(truth)]
            found += [any(len(truth) for _, truth in right[:k]) for k in RECALL_KS]
            placed += [bool((overlap[:k] >= CORRECT_IOU).any()) for k in RECALL_KS]
        size = engine.status().bytes / engine.status().images
    shares = [" / ".join(f"{value / len(captions):.1%}" for value in row) for row in (found, placed)]
    query = f"{statistics.median(times) * 1000:.0f} ms"
    iou = float(np.mean(overlaps)) if overlaps else 0.0
    return f"| {views} | {shares[0]} | {shares[1]} | {iou:.3f} | {speed} | {size:,.0f} | {query} |", float(placed[-1])


def _overlap(hit: Hit, truth: NDArray[np.float64]) -> float:
    """Return the best IoU of the hit's first region with a true box; 0 without true boxes."""
    return best_iou(np.array(hit.regions[0].box, np.float64), truth) if len(truth) else 0.0


if __name__ == "__main__":
    main()
