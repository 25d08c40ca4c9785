"""The text-conditioned pool, and the head with it, by FLAIR's sigmoid loss and InfoNCE over local and global tokens.

Half of the steps show mosaics of 2 x 2 or 3 x 3 photos: each text speaks of one cell, so that the pool has a reason to
look at a place, and its attention is to lie in that cell. Where a photo has boxes, the attention of a box's name is to
lie inside. Features of the frozen trunk are read from files: no pixels are.
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

from flairsearch.model.flair import TextConditionedPool
from training.examples import Examples, Pairs
from training.features import GRID
from training.head import DIM, Average, Head, Rows, warm_cosine
from training.losses import box_loss, contrastive_loss, sigmoid_loss

SIDES = (1, 2, 1, 3)  # photos along a mosaic's side, step modulo 4
_PHOTOS = 96  # single photos a step; mosaics show up to MOST_CELLS
_MOST_CELLS, _MOST_TEXTS = 288, 192
_FLICKR, _NOISE, _BOXED = 0.5, 0.15, 24
_CONTRASTIVE_WEIGHT = 2.0  # beside the sigmoid loss
_CELL_WEIGHT, _BOX_WEIGHT = 4.0, 1.5  # of the attention inside a mosaic's cell, inside a box
_GLOBAL_WEIGHT, _DROPPED = 2.0, 0.2  # of the global token's InfoNCE; share of the features that is left out
_RATE, _HEAD_RATE, _DECAY, _AVERAGE, _CLIP = 1e-3, 5e-4, 0.02, 0.995, 5.0
_SCALE, _BIAS = 2.7, -8.0  # of the logits at the start: log of the factor, and what is added
_NEAR = 0.002  # noise beside the pool's first weights


class LocalFeatures:
    """The trunk's features bf16[B, P, W] of photos or mosaics, by number, from the files of training.features."""

    def __init__(self, folder: Path, last_unit: nn.Module) -> None:
        self._narrow = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("photos", "mosaics")}
        self._unit = torch.from_numpy(np.load(folder / "scale.npy"))
        convolution = last_unit[0]
        self._weight = convolution.weight.detach().flatten(1).bfloat16(), convolution.bias.detach().bfloat16()

    @torch.no_grad()
    def get(self, name: str, rows: NDArray[np.int64]) -> Tensor:
        narrow = torch.from_numpy(self._narrow[name][rows]).flatten(1, 2)
        return F.linear((narrow * self._unit).bfloat16(), *self._weight).clamp_(0, 6)


def local_tokens(head: Head, features: Tensor, dropped: float) -> Tensor:
    """Features bf16[B, P, W] -> local tokens f32[B, P, D] by a head; a share of the features is left out."""
    with torch.no_grad():
        chances = F.linear(features, head.weight.bfloat16(), head.bias.bfloat16()).float().softmax(-1)
        normal = F.dropout(head.ln(features.float()), dropped).bfloat16()
    return (normal @ head.features.bfloat16() + chances.bfloat16() @ head.classes.bfloat16()).float()


def first_pool(heads: int) -> TextConditionedPool:
    """One that attends where tokens are like the text, and returns their mean: the global head's own space."""
    pool, one = TextConditionedPool(DIM, heads), torch.eye(DIM)
    with torch.no_grad():
        pool.attn.in_proj_weight.copy_(torch.cat([one, one, one]) + _NEAR * torch.randn(3 * DIM, DIM))
        pool.attn.out_proj.weight.copy_(one + _NEAR * torch.randn(DIM, DIM))
    return pool


def cell_masks(side: int) -> Tensor:
    """f32[side^2, P]: the share of each patch that lies in each cell, row by row."""
    edges, patches = np.arange(side + 1) * GRID / side, np.arange(GRID)
    shares = np.clip(np.minimum(patches + 1, edges[1:, None]) - np.maximum(patches, edges[:-1, None]), 0, 1)
    return torch.from_numpy(np.einsum("rp,cq->rcpq", shares, shares).reshape(side**2, -1).astype(np.float32))


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
    """The pool with the logits' scale and bias, and the image side of a head, trained together."""

    def __init__(
        self,
        head: Head,
        examples: Examples,
        features: LocalFeatures,
        mosaics: NDArray[np.int64],
        rows: Rows,
        heads: int,
        seed: int,
    ) -> None:
        """mosaics i64[M, 9]: the photos of each, -1 where there are fewer; only those of `rows` are trained on."""
        torch.manual_seed(seed)
        self.head, self._examples, self._features, self._rows = head, examples, features, rows
        self._rng = np.random.default_rng(seed)
        self.pool = first_pool(heads)
        self.scale, self.bias = nn.Parameter(torch.tensor(_SCALE)), nn.Parameter(torch.tensor(_BIAS))
        used = np.isin(mosaics, [*rows.flickr, *rows.broad, -1]).all(1)
        self._sides = np.sqrt((mosaics >= 0).sum(1)).astype(int) * used
        self._cells = mosaics
        self._boxed = np.array([row for row in rows.broad.tolist() if examples.photos[row].boxes], np.int64)

    def fit(self, steps: int) -> Iterator[dict[str, float]]:
        """Train in place; yields a line of the log now and then."""
        projections = [self.head.features, self.head.classes]
        for parameter in projections:
            parameter.requires_grad_(True)
        matrices = [p for p in self.pool.parameters() if p.ndim > 1]
        plain = [p for p in self.pool.parameters() if p.ndim < 2]
        groups = [
            {"params": matrices, "lr": _RATE, "weight_decay": _DECAY},
            {"params": projections, "lr": _HEAD_RATE, "weight_decay": 0},
            {"params": plain, "lr": _RATE, "weight_decay": 0},
            {"params": [self.scale, self.bias], "lr": 5 * _RATE, "weight_decay": 0},
        ]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, steps, warm=60))
        average, began = Average(matrices + plain + projections), time.time()
        sums: dict[str, list[float]] = {}
        for step in range(steps):
            side = SIDES[step % len(SIDES)]
            parts = self._losses(side if side in self._sides else 1)
            optimizer.zero_grad()
            torch.stack(list(parts.values())).sum().backward()
            nn.utils.clip_grad_norm_([*matrices, *plain, *projections], _CLIP)
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
        features, vectors, pairs, cells = self._photos() if side == 1 else self._mosaics(side)
        texts = self.head.words(self._examples.noisy(vectors, _NOISE)).detach()
        pooled, attention = self.pool(texts, local_tokens(self.head, features, _DROPPED))
        logits = self.scale.exp() * F.cosine_similarity(pooled, texts.expand_as(pooled), dim=-1) + self.bias
        whole = self.head.image(features.mean(1).float(), _DROPPED)
        cosines = F.normalize(whole, dim=-1) @ F.normalize(texts, dim=-1).T
        losses = {
            f"conditioned_{side}": sigmoid_loss(logits, *pairs),
            f"contrastive_{side}": _CONTRASTIVE_WEIGHT * contrastive_loss(logits, *pairs),
            f"global_{side}": _GLOBAL_WEIGHT * contrastive_loss(self.head.scale.exp() * cosines, *pairs),
        }
        if side > 1:
            own = attention[torch.from_numpy(cells // side**2), torch.arange(len(cells))]
            losses[f"cells_{side}"] = _CELL_WEIGHT * box_loss(own, cell_masks(side)[cells % side**2])
        if side == 1 and len(self._boxed):
            rows = self._rng.choice(self._boxed, min(_BOXED, len(self._boxed)), False)
            names, inside = inside_boxes(self._examples, rows, self._rng)
            local = local_tokens(self.head, self._features.get("photos", rows), _DROPPED)
            _, attention = self.pool(self.head.words(names).detach(), local)
            losses["boxes"] = _BOX_WEIGHT * box_loss(attention, inside)
        return losses

    def _photos(self) -> tuple[Tensor, Tensor, Pairs, NDArray[np.int64]]:
        """Features of single photos, a text of each, which pairs are right, and the photo of each text."""
        rows = self._rows.draw(self._rng, _PHOTOS, _FLICKR)
        local = self._features.get("photos", rows)
        drawn = self._examples.draw(self._rng, rows)
        own = np.arange(len(rows))
        return local, drawn.vectors, self._examples.pairs(rows, drawn, own), own

    def _mosaics(self, side: int) -> tuple[Tensor, Tensor, Pairs, NDArray[np.int64]]:
        """The same of mosaics, with the cell of each text: a text is right where it is true of any cell."""
        cells = side * side
        of_side = np.flatnonzero(self._sides == side)
        chosen = self._rng.choice(of_side, min(_MOST_CELLS // cells, len(of_side)), False)
        rows = self._cells[chosen, :cells].ravel()
        asked = self._rng.permutation(len(rows))[:_MOST_TEXTS]
        drawn = self._examples.draw(self._rng, rows[asked])
        positive, unknown = self._examples.pairs(rows, drawn, asked)
        pairs = positive.unflatten(0, (-1, cells)).any(1), unknown.unflatten(0, (-1, cells)).any(1)
        return self._features.get("mosaics", chosen), drawn.vectors, pairs, asked
