"""The card's mosaics: text-to-image recall, and how often the attention is largest in the right cell.

`python -m benchmarks.cells --photos DIR --annotations val.json`. Every photo once, one caption of each, by seed 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from benchmarks.flickr import Annotations, read_photos
from flairsearch import weights
from flairsearch.model import FLAIR, IMAGE_MEAN, IMAGE_STD, load_model

KS = (1, 5, 10)


@torch.inference_mode()
def score_all(model: FLAIR, photos: NDArray[np.uint8], captions: list[str]) -> tuple[torch.Tensor, ...]:
    """photos u8[B, S, S, 3], T captions -> full f32[B, T], global f32[B, T], attention f32[B, T, P]."""
    text = torch.cat([model.encode_text(model.tokenize(captions[i : i + 256])) for i in range(0, len(captions), 256)])
    mean, std = (torch.tensor(value).mul(255) for value in (IMAGE_MEAN, IMAGE_STD))
    full, whole, attention = [], [], []
    for start in range(0, len(photos), 8):
        pixels = (torch.from_numpy(photos[start : start + 8]).float() - mean) / std
        pooled, local = model.encode_image(pixels.permute(0, 3, 1, 2))
        conditioned, shares = model.visual_proj(text, local)
        full.append(F.cosine_similarity(conditioned, text[None], dim=-1))
        whole.append(F.normalize(pooled, dim=-1) @ F.normalize(text, dim=-1).T)
        attention.append(shares)
    return torch.cat(full), torch.cat(whole), torch.cat(attention)


def recall(scores: NDArray[np.float32], right: NDArray[np.bool_]) -> dict[str, float]:
    """Text to image: scores [B, T], right [B, T] -> the share of texts with a right image among the k best, in %."""
    best = np.where(right, scores, -np.inf).max(0)
    rank = (scores > best).sum(0)
    return {f"R@{k}": round(float((rank < k).mean()) * 100, 1) for k in KS}


def mosaics(
    photos: NDArray[np.uint8], names: list[list[str]], side: int, seed: int
) -> tuple[NDArray[np.uint8], list[str], NDArray[np.int64]]:
    """All photos once, in side x side mosaics: pictures, captions, (mosaic, cell) of each caption."""
    rng = np.random.default_rng(seed)
    size, cells = photos.shape[1], side * side
    order = rng.permutation(len(photos))[: len(photos) // cells * cells]
    edges = np.round(np.arange(side + 1) * size / side).astype(int)
    pictures = np.zeros((len(order) // cells, size, size, 3), np.uint8)
    captions, places = [], []
    for i, photo in enumerate(order):
        mosaic, cell = divmod(i, cells)
        row, column = divmod(cell, side)
        top, bottom, left, right = edges[row], edges[row + 1], edges[column], edges[column + 1]
        small = F.interpolate(
            torch.from_numpy(photos[photo]).permute(2, 0, 1)[None].float(),
            (int(bottom - top), int(right - left)),
            mode="bilinear",
            antialias=True,
        )
        pictures[mosaic, top:bottom, left:right] = small[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
        captions.append(names[photo][int(rng.integers(len(names[photo])))])
        places.append((mosaic, cell))
    return pictures, captions, np.array(places)


def right_cell(attention: NDArray[np.float32], places: NDArray[np.int64], side: int) -> float:
    """Share of captions whose attention is largest in the cell they speak of, in %; cut patches are split by area."""
    grid = round(attention.shape[-1] ** 0.5)
    edges = np.round(np.arange(side + 1) * 32 * grid / side) / 32
    patches = np.arange(grid)
    share = np.clip(np.minimum(patches + 1, edges[1:, None]) - np.maximum(patches, edges[:-1, None]), 0, 1)
    own = attention[places[:, 0], np.arange(len(places))].reshape(-1, grid, grid)
    mass = np.einsum("ri,tij,cj->trc", share, own, share).reshape(len(own), -1)
    return round(float((mass.argmax(1) == places[:, 1]).mean()) * 100, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Recall on mosaics, and the attention's cell.")
    parser.add_argument("--photos", type=Path, required=True, help="folder or tar with the annotated photos")
    parser.add_argument("--annotations", type=Path, required=True, help="Flickr30k-style JSON")
    parser.add_argument("--model", default=weights.BUNDLED)
    args = parser.parse_args()
    annotations, model = Annotations.read(args.annotations), load_model(args.model)
    photos = read_photos(args.photos, annotations.names)
    print("| | R@1 | R@5 | R@10 | attention largest in the right cell |\n|---|---|---|---|---|")
    for side in (2, 3):
        pictures, texts, places = mosaics(photos, annotations.captions, side, seed=0)
        conditioned, whole, attention = score_all(model, pictures, texts)
        right = places[:, 0][None] == np.arange(len(pictures))[:, None]
        cell = f"{right_cell(attention.numpy(), places, side)} %"
        for name, scores, shown in (("conditioned", conditioned, cell), ("global", whole, "")):
            row = " | ".join(f"{value} %" for value in recall(scores.numpy(), right).values())
            print(f"| mosaics {side}x{side}, {name} | {row} | {shown} |")


if __name__ == "__main__":
    main()
