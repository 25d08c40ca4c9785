"""Batches of single photos and of mosaics, with captions and the teacher's features.

A mosaic shows g x g photos; each of its captions speaks of one cell, so that the pool has a reason to look at a place.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from training.data import GRID, PHOTO_SIZE, cut, random_crops

CAPTIONS = 3  # per photo in a batch of single photos
LOST_WORDS = 0.1  # share of the tokens left out of a caption
MOSAICS = {1: 2, 3: 2, 5: 3}  # step modulo 6 -> photos along a mosaic's side; the even steps show single photos
SMALLER = 0.6  # pictures in a batch of 3 x 3 mosaics, as a share: each holds nine photos


@dataclass(frozen=True)
class Batch:
    pictures: Tensor  # u8[B, S, S, 3]; empty where only features were asked for
    targets: Tensor  # f[B, G, G, C], what the teacher makes of it; on the student's grid where there are pictures
    mean: Tensor  # f32[B, 1280], the teacher's features, averaged over the picture
    text: Tensor  # i64[B K, n], K of every picture in the order of the pictures, cut after the longest

    def to(self, device: str) -> Batch:
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


class Batches:
    """An endless, seeded stream of batches; step number n is always the same batch, on every machine.

    `targets`: "features" are the teacher's, "coarse" the same on half the grid and without pictures, "tokens" the local
    tokens made of them.
    """

    def __init__(
        self, cache: Path, captions: NDArray[np.int64], size: int, grid: int, seed: int, targets: str = "features"
    ) -> None:
        self._photos, self._coarse, self._targets = (
            np.load(cache / f"{name}.npy", mmap_mode="r") for name in ("photos", "coarse", targets)
        )
        self._captions = captions  # i64[N, captions, 77]
        self._size, self._grid, self._seed, self._pixels = size, grid, seed, targets != "coarse"

    def stream(self, start: int, steps: int, pictures: int) -> Iterator[Batch]:
        """Batches number `start` to `steps` - 1; the next one is made while one is used."""
        with ThreadPoolExecutor(1) as worker:
            ahead = worker.submit(self.batch, start, pictures)
            for step in range(start, steps):
                ready = ahead.result()
                ahead = worker.submit(self.batch, step + 1, pictures)
                yield ready

    def batch(self, step: int, pictures: int) -> Batch:
        rng = np.random.default_rng((self._seed, step))
        side = MOSAICS.get(step % 6, 1)
        if side**2 > len(self._photos):
            raise ValueError(f"{len(self._photos)} photos are too few for mosaics of {side} x {side}")
        count = int(pictures * SMALLER) if side == 3 else pictures
        count = min(count, len(self._photos) // side**2)
        chosen = rng.choice(len(self._photos), count * side**2, replace=False)
        boxes = random_crops(rng, (len(chosen),))
        flips = rng.random(len(chosen)) < 0.5
        if self._pixels:
            shown = _jitter(rng, torch.from_numpy(self._tile_pictures(chosen, boxes, flips, side)))
        else:
            shown = torch.empty(0, dtype=torch.uint8)
        maps = torch.from_numpy(self._targets[chosen]).float().permute(0, 3, 1, 2)
        if side > 1 and maps.shape[-1] == GRID:
            maps = F.avg_pool2d(maps, 2)
        targets = self._on_grid(_tile(_crop(maps, boxes, torch.from_numpy(flips)), side))
        means = _crop_means(torch.from_numpy(self._coarse[chosen]), boxes)
        texts = self._texts(rng, chosen, CAPTIONS if side == 1 else 1)
        return Batch(shown, targets, means.unflatten(0, (-1, side**2)).mean(1), texts)

    def _tile_pictures(
        self, chosen: NDArray[np.int64], boxes: NDArray[np.float32], flips: NDArray[np.bool_], side: int
    ) -> NDArray[np.uint8]:
        size = self._size
        edges = np.round(np.arange(side + 1) * size / side).astype(int)
        pictures = np.empty((len(chosen) // side**2, size, size, 3), np.uint8)
        for n, (i, box, flip) in enumerate(zip(chosen, boxes, flips, strict=True)):
            row, column = divmod(n % side**2, side)
            top, bottom, left, right = edges[row], edges[row + 1], edges[column], edges[column + 1]
            cell = cut(self._photos[i], box, int(right - left), int(bottom - top))
            pictures[n // side**2, top:bottom, left:right] = cell[:, ::-1] if flip else cell
        return pictures

    def _on_grid(self, features: Tensor) -> Tensor:
        """f[B, g, g, C] -> f[B, G, G, C]."""
        if not self._pixels or features.shape[1] == self._grid:
            return features
        channels = features.permute(0, 3, 1, 2)
        shrinks = channels.shape[-1] > self._grid
        resized = F.interpolate(channels, (self._grid, self._grid), mode="bilinear", antialias=shrinks)
        return resized.permute(0, 2, 3, 1)

    def _texts(self, rng: np.random.Generator, chosen: NDArray[np.int64], captions: int) -> Tensor:
        """i64[len(chosen) * captions, n]: different captions of each photo, some of their words left out."""
        picks = np.stack([rng.permutation(self._captions.shape[1])[:captions] for _ in chosen])
        rows = self._captions[chosen[:, None], picks].reshape(-1, self._captions.shape[2])
        result = np.zeros_like(rows)
        for i, row in enumerate(rows):
            end = int(row.argmax())  # EOT is the largest id
            keep = rng.random(end + 1) >= LOST_WORDS
            keep[[0, end]] = True
            result[i, : keep.sum()] = row[: end + 1][keep]
        return torch.from_numpy(result[:, : int(result.argmax(1).max()) + 1])


def _crop(maps: Tensor, boxes: NDArray[np.float32], flips: Tensor) -> Tensor:
    """Maps f32[N, C, g, g] of whole photos -> f32[N, g, g, C] of crops of them, mirrored where `flips`."""
    side = maps.shape[-1]
    numbered = torch.from_numpy(np.concatenate([np.arange(len(boxes), dtype=np.float32)[:, None], boxes], 1))
    cropped = roi_align(maps, numbered, side, side / PHOTO_SIZE, sampling_ratio=1, aligned=True)
    return torch.where(flips[:, None, None, None], cropped.flip(3), cropped).permute(0, 2, 3, 1)


def _crop_means(maps: Tensor, boxes: NDArray[np.float32]) -> Tensor:
    """Maps f16[N, g, g, C] of whole photos -> f32[N, C], averaged over each crop."""
    side = maps.shape[1]
    edges = torch.arange(side + 1) * (PHOTO_SIZE / side)
    left, top, right, bottom = torch.from_numpy(boxes).T[:, :, None]
    rows, columns = (
        torch.minimum(edges[1:], high).sub(torch.maximum(edges[:-1], low)).clamp(min=0)
        for low, high in ((top, bottom), (left, right))
    )
    weights = (rows[:, :, None] * columns[:, None, :]).flatten(1)
    weights = weights / weights.sum(1, keepdim=True)
    return torch.bmm(weights[:, None].half(), maps.flatten(1, 2))[:, 0].float()


def _tile(cells: Tensor, side: int) -> Tensor:
    """[B side^2, s, s, C] -> [B, side s, side s, C], row by row."""
    count, s, _, channels = cells.shape
    grid = cells.reshape(count // side**2, side, side, s, s, channels)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(count // side**2, side * s, side * s, channels)


def _jitter(rng: np.random.Generator, pictures: Tensor) -> Tensor:
    """u8[B, S, S, 3]: brightness, contrast and colour balance by up to 30 %; one picture in ten becomes grey."""
    shape = (len(pictures), 1, 1, 1)
    grey = torch.from_numpy(rng.random(shape) < 0.1)
    gain = torch.from_numpy((rng.uniform(0.7, 1.3, shape) * rng.uniform(0.9, 1.1, (*shape[:3], 3))).astype(np.float32))
    contrast = torch.from_numpy(rng.uniform(0.7, 1.3, shape).astype(np.float32))
    values = pictures.float()
    values = torch.where(grey, values.mean(-1, keepdim=True), values)
    mean = values.mean((1, 2, 3), keepdim=True)
    return ((values - mean) * contrast + mean * gain).clamp_(0, 255).byte()
