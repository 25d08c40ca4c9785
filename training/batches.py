"""Batches of single photos and of 2x2 mosaics, with captions and the teacher's targets.

A mosaic shows four photos; each of their captions speaks of one cell, so that the pool has a reason to look at a
place. Both kinds carry a matrix that says which caption belongs to which picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from training.data import Annotations, cut

CAPTIONS = 2  # per photo in a batch of single photos


@dataclass(frozen=True)
class Batch:
    pictures: Tensor  # u8[B, S, S, 3]
    text: Tensor  # i64[T, n], cut after the longest
    positive: Tensor  # bool[B, T]
    targets: Tensor  # f32[B, G, G, C], the teacher's features on the student's grid


class Batches:
    """An endless, seeded stream of batches; step number n is always the same batch."""

    def __init__(self, cache: Path, annotations: Path, tokens: NDArray[np.int64], size: int, grid: int, seed: int):
        self._photos = np.load(cache / "photos.npy", mmap_mode="r")
        self._boxes = np.load(cache / "crops.npy")
        self._targets = np.load(cache / "targets.npy", mmap_mode="r")
        self._count = len(Annotations.read(annotations).names)
        self._tokens = tokens  # i64[N, 5, 77]
        self._size, self._grid, self._seed = size, grid, seed

    def stream(self, start: int, steps: int, pictures: int) -> Iterator[Batch]:
        """Even steps: `pictures` single photos; odd steps: as many 2x2 mosaics of four times the photos."""
        for step in range(start, steps):
            rng = np.random.default_rng((self._seed, step))
            mosaic = step % 2 == 1
            chosen = rng.choice(self._count, pictures * (4 if mosaic else 1), replace=False)
            yield self._mosaics(rng, chosen) if mosaic else self._singles(rng, chosen)

    def _photo(self, rng: np.random.Generator, i: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        crop = int(rng.integers(self._boxes.shape[1]))
        picture = cut(self._photos[i], self._boxes[i, crop], size)
        target = self._targets[i, crop].astype(np.float32)
        if rng.random() < 0.5:
            picture, target = picture[:, ::-1], target[:, ::-1]
        return _jitter(rng, picture), target

    def _singles(self, rng: np.random.Generator, chosen: NDArray[np.int64]) -> Batch:
        pairs = [self._photo(rng, i, self._size) for i in chosen]
        owner = np.repeat(np.arange(len(chosen)), CAPTIONS)
        targets = torch.from_numpy(np.stack([target for _, target in pairs]))
        return self._batch(rng, np.stack([p for p, _ in pairs]), targets, chosen, owner, CAPTIONS)

    def _mosaics(self, rng: np.random.Generator, chosen: NDArray[np.int64]) -> Batch:
        half = self._size // 2
        pairs = [self._photo(rng, i, half) for i in chosen]
        pictures = _tile(np.stack([p for p, _ in pairs]))
        targets = torch.from_numpy(np.stack([target for _, target in pairs]))
        cells = F.avg_pool2d(targets.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        owner = np.arange(len(chosen)) // 4
        return self._batch(rng, pictures, torch.from_numpy(_tile(cells.numpy())), chosen, owner, 1)

    def _batch(
        self,
        rng: np.random.Generator,
        pictures: NDArray[np.uint8],
        targets: Tensor,
        chosen: NDArray[np.int64],
        owner: NDArray[np.int64],
        captions: int,
    ) -> Batch:
        picks = np.stack([rng.permutation(self._tokens.shape[1])[:captions] for _ in chosen])
        text = torch.from_numpy(self._tokens[chosen[:, None], picks].reshape(len(owner), -1))
        text = text[:, : int(text.argmax(-1).max()) + 1]
        if targets.shape[1] != self._grid:
            resized = F.interpolate(targets.permute(0, 3, 1, 2), (self._grid, self._grid), mode="bilinear")
            targets = resized.permute(0, 2, 3, 1)
        positive = torch.from_numpy(owner[None] == np.arange(len(pictures))[:, None])
        return Batch(torch.from_numpy(np.ascontiguousarray(pictures)), text, positive, targets)


def _tile(cells: NDArray) -> NDArray:
    """[4 B, s, s, C] -> [B, 2 s, 2 s, C], row by row."""
    count, side, _, channels = cells.shape
    grid = cells.reshape(count // 4, 2, 2, side, side, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(count // 4, 2 * side, 2 * side, channels)


def _jitter(rng: np.random.Generator, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Brightness, contrast and colour balance by up to 30 %; one in ten becomes grey."""
    values = picture.astype(np.float32)
    if rng.random() < 0.1:
        values = np.repeat(values.mean(-1, keepdims=True), 3, -1)
    gain = rng.uniform(0.7, 1.3) * rng.uniform(0.9, 1.1, 3).astype(np.float32)
    mean = values.mean()
    return np.clip((values - mean) * rng.uniform(0.7, 1.3) + mean * gain, 0, 255).astype(np.uint8)
