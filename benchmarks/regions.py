"""How well boxes fit: mean IoU with the cell a caption speaks of, in mosaics, by smoothing and threshold.

    python -m benchmarks.regions --archive images.tar --annotations train.json [--side 2] [--photos 400]

Choose on training photos. `whole` is the best a box that ignores the text can do.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from flairsearch import region
from flairsearch.model import load_model
from flairsearch.records import Frame
from training.data import Annotations, read_photos
from training.evaluate import mosaics, score_all

Box = tuple[float, float, float, float]


def iou(a: Box, b: Box) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0) * max(high, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def main() -> None:
    parser = argparse.ArgumentParser(description="IoU of boxes with mosaic cells.")
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--model", default="flair-tiny")
    parser.add_argument("--photos", type=int, default=400)
    parser.add_argument("--side", type=int, default=2)
    args = parser.parse_args()
    annotations = Annotations.read(args.annotations)
    photos = read_photos(args.archive, annotations.names[: args.photos])
    model = load_model(args.model)
    pictures, captions, places = mosaics(photos, annotations.captions, args.side, seed=5)
    _, _, attention = score_all(model, pictures, captions)
    size, grid = model.config.image_size, model.config.grid
    maps = attention.numpy()[places[:, 0], np.arange(len(places))].reshape(-1, grid, grid)
    edges = np.round(np.arange(args.side + 1) * size / args.side)
    rows, columns = np.divmod(places[:, 1], args.side)
    truth = np.stack([edges[columns], edges[rows], edges[columns + 1], edges[rows + 1]], 1).tolist()
    frame = Frame(size, size, 0, 0, size, size)

    print(f"{args.model}, {len(pictures)} mosaics {args.side}x{args.side}, {len(maps)} captions")
    print("| smoothing, patches | threshold | mean IoU | IoU >= 0.3 |\n|---|---|---|---|")
    values = np.array([iou((0, 0, size, size), t) for t in truth])
    print(f"| whole | | {values.mean():.3f} | {(values >= 0.3).mean():.1%} |")
    for smoothing in (0.01, 0.7, 1.0, 1.5):
        for threshold in (0.3, 0.4, 0.5):
            region.SMOOTHING, region.THRESHOLD = smoothing, threshold
            values = np.array([iou(region.find_regions(m, frame)[0].box, t) for m, t in zip(maps, truth, strict=True)])
            print(f"| {smoothing} | {threshold} | {values.mean():.3f} | {(values >= 0.3).mean():.1%} |")


if __name__ == "__main__":
    main()
