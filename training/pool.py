"""The text-conditioned pool over local tokens of a trained head, by FLAIR's sigmoid loss and InfoNCE.

Half of the steps show mosaics of 2 x 2 or 3 x 3 photos, put together from the features of their cells: each text speaks
of one cell, so that the pool has a reason to look at a place, and its attention is to lie in that cell. Where a photo
has boxes, the attention of a box's name is to lie inside. Local tokens are made once, as int8: no pixels are read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from flairsearch.model import TextConditionedPool
from training.examples import Examples, Pairs
from training.features import GRID
from training.head import DIM, Average, Head, Rows, warm_cosine
from training.losses import box_loss, contrastive_loss, sigmoid_loss

SIDES = (1, 2, 1, 3)  # photos along a mosaic's side, step modulo 4
_PHOTOS = 96  # single photos a step; mosaics show up to MOST_CELLS
_MOST_CELLS, _MOST_TEXTS = 288, 192
_FLICKR, _NOISE, _BOXED = 0.5, 0.15, 24
_CONTRASTIVE_WEIGHT = 2.0  # beside the sigmoid loss
_CELL_WEIGHT, _BOX_WEIGHT = 2.5, 1.5  # of the attention inside a mosaic's cell, inside a box
_RATE, _DECAY, _AVERAGE, _CLIP = 1e-3, 0.02, 0.995, 5.0
_SCALE, _BIAS = 2.7, -8.0  # of the logits at the start: log of the factor, and what is added
_SPREADS, _NEAR = 6.0, 0.002  # standard deviations that int8 spans; noise beside the pool's first weights


class LocalTokens:
    """Tokens f32[B, P, D] of photos, by number, from the files that `write_tokens` made."""

    def __init__(self, folder: Path) -> None:
        names = ("photos", "cells")
        self._codes = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
        self._scales = {name: torch.from_numpy(np.load(folder / f"{name}.scale.npy")) for name in names}

    def get(self, name: str, rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self._codes[name][rows]).float() * self._scales[name]


@torch.inference_mode()
def write_tokens(head: Head, last_unit: nn.Module, features: Path, name: str, folder: Path) -> None:
    """features/NAME.npy i8[N, G, G, 320] -> folder/NAME.npy i8[N, G G, D] and NAME.scale.npy f32[D]."""
    narrow = np.load(features / f"{name}.npy", mmap_mode="r")
    unit = torch.from_numpy(np.load(features / "scale.npy"))
    convolution = last_unit[0]
    weight, bias = (p.detach().bfloat16() for p in (convolution.weight.flatten(1), convolution.bias))
    classifier = head.weight.bfloat16(), head.bias.bfloat16()
    projections = head.features.bfloat16(), head.classes.bfloat16()
    shape = (len(narrow), narrow.shape[1] * narrow.shape[2], DIM)
    codes = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.int8, shape)
    scale = None
    for start in range(0, len(narrow), 32):
        x = (torch.tensor(narrow[start : start + 32]).float() * unit).bfloat16().flatten(0, 2)
        wide = F.linear(x, weight, bias).clamp_(0, 6)
        chances = F.linear(wide, *classifier).float().softmax(-1).bfloat16()
        tokens = (head.ln(wide.float()).bfloat16() @ projections[0] + chances @ projections[1]).float()
        if scale is None:
            scale = tokens.std(0) * _SPREADS / 127
        codes[start : start + 32] = (tokens / scale).round_().clamp_(-127, 127).to(torch.int8).view(-1, *shape[1:])
    codes.flush()
    assert scale is not None
    np.save(folder / f"{name}.scale.npy", scale.numpy())


def first_pool(heads: int) -> TextConditionedPool:
    """One that attends where tokens are like the text, and returns their mean: the global head's own space."""
    pool, one = TextConditionedPool(DIM, heads), torch.eye(DIM)
    with torch.no_grad():
        pool.attn.in_proj_weight.copy_(torch.cat([one, one, one]) + _NEAR * torch.randn(3 * DIM, DIM))
        pool.attn.out_proj.weight.copy_(one + _NEAR * torch.randn(DIM, DIM))
    return pool


def mosaic_tokens(cells: Tensor, side: int) -> Tensor:
    """Cells f[B side^2, 49, D] -> mosaics f[B, P, D]; where 7 patches do not fit a cell, they are averaged to fewer."""
    edges = np.round(np.arange(side + 1) * GRID / side).astype(int)
    sizes = np.diff(edges).tolist()
    grid = cells.unflatten(1, (GRID // 2, GRID // 2)).permute(0, 3, 1, 2).unflatten(0, (-1, side, side))
    rows = [
        torch.cat([F.adaptive_avg_pool2d(grid[:, r, c], (sizes[r], sizes[c])) for c in range(side)], -1)
        for r in range(side)
    ]
    return torch.cat(rows, -2).flatten(2).transpose(1, 2)


def cell_masks(side: int) -> Tensor:
    """f32[side^2, P]: 1 for the patches of each cell, row by row."""
    cell = np.searchsorted(np.round(np.arange(1, side) * GRID / side), np.arange(GRID), side="right")
    number = cell[:, None] * side + cell
    return torch.from_numpy((number.ravel() == np.arange(side**2)[:, None]).astype(np.float32))


def inside_boxes(examples: Examples, rows: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Photos with boxes -> the text of one box's name each f32[B, 1, D], the patches in its boxes f32[B, 1, P]."""
    texts, masks = [], []
    centres = (np.arange(GRID) + 0.5) / GRID
    for row in rows.tolist():
        boxes = examples.photos[row].boxes
        name = boxes[rng.integers(len(boxes))][0]
        mask = np.zeros((GRID, GRID), bool)
        for other, (left, top, right, bottom) in boxes:
            if other == name:
                mask |= np.outer(_near(centres, top, bottom), _near(centres, left, right))
        texts.append(examples.named[0, examples.number[name]])
        masks.append(torch.from_numpy(mask.ravel()))
    return torch.stack(texts)[:, None], torch.stack(masks)[:, None].float()


def _near(centres: NDArray[np.float64], low: float, high: float) -> NDArray[np.bool_]:
    """Patches whose centre lies between, or the nearest one: no box is without a patch."""
    held = (centres >= low) & (centres < high)
    held[np.abs(centres - (low + high) / 2).argmin()] = True
    return held


class PoolTrainer:
    """The pool with the logits' scale and bias, trained over the tokens of a frozen head."""

    def __init__(self, head: Head, examples: Examples, tokens: LocalTokens, rows: Rows, heads: int, seed: int) -> None:
        torch.manual_seed(seed)
        self._head, self._examples, self._tokens, self._rows = head, examples, tokens, rows
        self._rng = np.random.default_rng(seed)
        self.pool = first_pool(heads)
        self.scale, self.bias = nn.Parameter(torch.tensor(_SCALE)), nn.Parameter(torch.tensor(_BIAS))
        self._boxed = np.array([row for row in rows.broad.tolist() if examples.photos[row].boxes], np.int64)

    def fit(self, steps: int) -> Iterator[dict[str, float]]:
        """Train in place; yields a line of the log now and then."""
        matrices = [p for p in self.pool.parameters() if p.ndim > 1]
        plain = [p for p in self.pool.parameters() if p.ndim < 2]
        groups = [
            {"params": matrices, "lr": _RATE, "weight_decay": _DECAY},
            {"params": plain, "lr": _RATE, "weight_decay": 0},
            {"params": [self.scale, self.bias], "lr": 5 * _RATE, "weight_decay": 0},
        ]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, steps, warm=60))
        average, began = Average(self.pool), time.time()
        sums: dict[str, list[float]] = {}
        for step in range(steps):
            parts = self._losses(SIDES[step % len(SIDES)])
            optimizer.zero_grad()
            torch.stack(list(parts.values())).sum().backward()
            nn.utils.clip_grad_norm_(self.pool.parameters(), _CLIP)
            optimizer.step()
            schedule.step()
            average.step(step, _AVERAGE)
            for name, value in parts.items():
                sums.setdefault(name, []).append(float(value.detach()))
            if (step + 1) % 100 == 0 or step + 1 == steps:
                row = {name: round(float(np.mean(values)), 4) for name, values in sums.items()}
                yield {"step": step + 1, "seconds": round(time.time() - began, 1), **row}
                sums = {}
        average.show()

    def _losses(self, side: int) -> dict[str, Tensor]:
        local, vectors, pairs, cells = self._photos() if side == 1 else self._mosaics(side)
        texts = self._head.words(self._examples.noisy(vectors, _NOISE)).detach()
        pooled, attention = self.pool(texts, local)
        logits = self.scale.exp() * F.cosine_similarity(pooled, texts.expand_as(pooled), dim=-1) + self.bias
        losses = {
            f"conditioned_{side}": sigmoid_loss(logits, *pairs),
            f"contrastive_{side}": _CONTRASTIVE_WEIGHT * contrastive_loss(logits, *pairs),
        }
        if side > 1:
            own = attention[torch.from_numpy(cells // side**2), torch.arange(len(cells))]
            losses[f"cells_{side}"] = _CELL_WEIGHT * box_loss(own, cell_masks(side)[cells % side**2])
        if side == 1 and len(self._boxed):
            rows = self._rng.choice(self._boxed, min(_BOXED, len(self._boxed)), False)
            names, inside = inside_boxes(self._examples, rows, self._rng)
            _, attention = self.pool(self._head.words(names).detach(), self._tokens.get("photos", rows))
            losses["boxes"] = _BOX_WEIGHT * box_loss(attention, inside)
        return losses

    def _photos(self) -> tuple[Tensor, Tensor, Pairs, NDArray[np.int64]]:
        """Local tokens of single photos, a text of each, which pairs are right, and the photo of each text."""
        rows = self._rows.draw(self._rng, _PHOTOS, _FLICKR)
        local = self._tokens.get("photos", rows)
        drawn = self._examples.draw(self._rng, rows)
        own = np.arange(len(rows))
        return local, drawn.vectors, self._examples.pairs(rows, drawn, own), own

    def _mosaics(self, side: int) -> tuple[Tensor, Tensor, Pairs, NDArray[np.int64]]:
        """The same of mosaics, with the cell of each text: a text is right where it is true of any cell."""
        cells = side * side
        rows = self._rows.draw(self._rng, _MOST_CELLS // cells * cells, _FLICKR)
        rows = rows[: len(rows) // cells * cells]
        asked = self._rng.permutation(len(rows))[:_MOST_TEXTS]
        drawn = self._examples.draw(self._rng, rows[asked])
        positive, unknown = self._examples.pairs(rows, drawn, asked)
        pairs = positive.unflatten(0, (-1, cells)).any(1), unknown.unflatten(0, (-1, cells)).any(1)
        return mosaic_tokens(self._tokens.get("cells", rows), side), drawn.vectors, pairs, asked
