"""Measure recall on mosaics, and how often the attention is largest in the right cell.

    python -m benchmarks.cells --photos DIR --annotations val.json

Every photo is cell_photos in one cell, drawn with seed 0, and one of its captions is the query.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from benchmarks.flickr import FRAME, SIZE, Annotations, read_photos
from flairsearch.core.types import Picture
from flairsearch.evaluate.mosaics import MosaicPlan, cell_boxes, make_mosaics, plan_mosaics
from flairsearch.evaluate.retrieval_metrics import best_ranks
from flairsearch.model import checkpoints
from flairsearch.model.flair import FLAIR, IMAGE_MEAN, IMAGE_STD, load_model

_ENCODE_TEXTS = 256  # Texts that go through the text tower at once, to bound memory.


@torch.inference_mode()
def score_all(
    model: FLAIR, pictures: Iterable[Picture], texts: list[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return conditioned cosines f32[B, T], global cosines f32[B, T] and attention f32[B, T, P]."""
    vectors = torch.cat(
        [model.encode_text(model.tokenize(texts[i : i + _ENCODE_TEXTS])) for i in range(0, len(texts), _ENCODE_TEXTS)]
    )
    mean, std = (torch.tensor(value).mul(255) for value in (IMAGE_MEAN, IMAGE_STD))
    conditioned, whole, attention = [], [], []
    for picture in pictures:
        pixels = (torch.from_numpy(picture.pixels)[None].float() - mean) / std
        pooled, local = model.encode_image(pixels.permute(0, 3, 1, 2))
        found, shares = model.visual_proj(vectors, local)
        conditioned.append(F.cosine_similarity(found, vectors[None], dim=-1))
        whole.append(F.normalize(pooled, dim=-1) @ F.normalize(vectors, dim=-1).T)
        attention.append(shares)
    return torch.cat(conditioned).numpy(), torch.cat(whole).numpy(), torch.cat(attention).numpy()


def sum_in_cells(attention: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Sum attention f32[T, P] in each cell, f32[T, side^2]; a patch on an edge is split by area."""
    grid = round(attention.shape[-1] ** 0.5)
    edges = cell_boxes(SIZE, side) / SIZE * grid  # Boxes in patches: left, top, right, bottom.
    patches = np.arange(grid)
    x_share, y_share = (
        np.clip(np.minimum(patches + 1, edges[:, i + 2, None]) - np.maximum(patches, edges[:, i, None]), 0, 1)
        for i in (0, 1)
    )
    return np.einsum("cr,trp,cp->tc", y_share, attention.reshape(-1, grid, grid), x_share).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure recall on mosaics, and the cell with the largest attention.")
    parser.add_argument("--photos", type=Path, required=True, help="folder or tar file with the annotated photos")
    parser.add_argument("--annotations", type=Path, required=True, help="Flickr30k-style JSON")
    parser.add_argument("--model", default=checkpoints.BUNDLED)
    args = parser.parse_args()
    annotations, model = Annotations.read(args.annotations), load_model(args.model)
    photos = [Picture(pixels, FRAME) for pixels in read_photos(args.photos, annotations.names)]
    print("| | R@1 | R@5 | R@10 | attention largest in the right cell |\n|---|---|---|---|---|")
    for side in (2, 3):
        cells = side * side
        plan = MosaicPlan(len(photos) // cells, side)
        cell_photos, caption_numbers = plan_mosaics([len(captions) for captions in annotations.captions], plan)
        texts = [annotations.captions[i][j] for i, j in zip(cell_photos.ravel(), caption_numbers.ravel(), strict=True)]
        conditioned, whole, attention = score_all(model, make_mosaics(photos, cell_photos), texts)
        mosaic, cell = np.divmod(np.arange(len(texts)), cells)
        hit = sum_in_cells(attention[mosaic, np.arange(len(texts))], side).argmax(1) == cell
        relevant = mosaic[None] == np.arange(len(cell_photos))[:, None]
        for name, scores, shares in (("conditioned", conditioned, f"{hit.mean():.1%}"), ("global", whole, "")):
            ranks = best_ranks(scores, relevant)
            row = " | ".join(f"{(ranks < k).mean():.1%}" for k in (1, 5, 10))
            print(f"| mosaics {side}x{side}, {name} | {row} | {shares} |")


if __name__ == "__main__":
    main()
