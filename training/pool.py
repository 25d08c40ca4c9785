"""Train the text-conditioned pool and the head with FLAIR's sigmoid loss and InfoNCE over local and global tokens.

Half of the steps use mosaics of 2 x 2 or 3 x 3 photos. Each text describes one cell, so the pool must attend to a part
of the picture, and a loss draws its attention into that cell. If a photo has boxes, another loss draws the attention of
a box's name into the box. The features of the frozen trunk are read from files; pixels are not needed.
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
from training.head import DIM, Average, Head, TrainingRows, warm_cosine
from training.losses import box_loss, contrastive_loss, sigmoid_loss

MOSAIC_SIDES = (1, 2, 1, 3)  # Photos along a mosaic's side, by the step modulo 4; 1 is a single photo.
_PHOTOS_PER_STEP = 96  # Photos in a step of single photos.
_MAX_CELLS = 288  # Photos in a step of mosaics.
_MAX_TEXTS = 192  # Texts in a step of mosaics.
_FLICKR_SHARE = 0.5  # Share of the photos that is from Flickr8k.
_NOISE = 0.15  # Noise of the texts, relative to the standard deviation of the captions.
_BOXED_PHOTOS = 24  # Photos with boxes in a step of single photos.
_CONTRASTIVE_WEIGHT = 2.0  # Weight of InfoNCE; the sigmoid loss has weight 1.
_CELL_WEIGHT = 4.0  # Weight of the loss of the attention inside a mosaic's cell.
_BOX_WEIGHT = 1.5  # Weight of the loss of the attention inside a box.
_GLOBAL_WEIGHT = 2.0  # Weight of the global token's InfoNCE.
_DROPOUT = 0.2  # Share of the features that is dropped.
_POOL_RATE = 1e-3  # Learning rate of the pool.
_HEAD_RATE = 5e-4  # Learning rate of the head.
_WEIGHT_DECAY = 0.02  # Weight decay of the pool's matrices.
_AVERAGE_DECAY = 0.995  # Decay of the moving average of the parameters.
_MAX_GRADIENT_NORM = 5.0  # Gradients are clipped to this norm.
_INITIAL_LOG_SCALE = 2.7  # Initial logarithm of the logits' scale.
_INITIAL_BIAS = -8.0  # Initial bias of the logits.
_INITIAL_NOISE = 0.002  # Standard deviation of the noise in the pool's initial weights.


class LocalFeatures:
    """The trunk's features of photos and mosaics, computed from the files of training.features."""

    def __init__(self, folder: Path, last_unit: nn.Module) -> None:
        self._narrow = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("photos", "mosaics")}
        self._scale = torch.from_numpy(np.load(folder / "scale.npy"))
        convolution = last_unit[0]
        self._weight = convolution.weight.detach().flatten(1).bfloat16(), convolution.bias.detach().bfloat16()

    @torch.no_grad()
    def get(self, name: str, rows: NDArray[np.int64]) -> Tensor:
        """Return the features of some `photos` or `mosaics`, bf16[B, P, W], by their numbers."""
        narrow = torch.from_numpy(self._narrow[name][rows]).flatten(1, 2)
        return F.linear((narrow * self._scale).bfloat16(), *self._weight).clamp_(0, 6)


def local_tokens(head: Head, features: Tensor, dropout: float) -> Tensor:
    """Map features bf16[B, P, W] to local tokens f32[B, P, D] with a head, after dropout of the features."""
    with torch.no_grad():
        probabilities = F.linear(features, head.weight.bfloat16(), head.bias.bfloat16()).float().softmax(-1)
        normal = F.dropout(head.ln(features.float()), dropout).bfloat16()
    return (normal @ head.features.bfloat16() + probabilities.bfloat16() @ head.classes.bfloat16()).float()


def initial_pool(heads: int) -> TextConditionedPool:
    """Make a pool that attends to tokens similar to the text and returns their mean, in the global head's space."""
    pool, identity = TextConditionedPool(DIM, heads), torch.eye(DIM)
    with torch.no_grad():
        pool.attn.in_proj_weight.copy_(
            torch.cat([identity, identity, identity]) + _INITIAL_NOISE * torch.randn(3 * DIM, DIM)
        )
        pool.attn.out_proj.weight.copy_(identity + _INITIAL_NOISE * torch.randn(DIM, DIM))
    return pool


def cell_masks(side: int) -> Tensor:
    """Return the share of each patch that lies in each cell, f32[side^2, P], cells row by row."""
    edges, patches = np.arange(side + 1) * GRID / side, np.arange(GRID)
    shares = np.clip(np.minimum(patches + 1, edges[1:, None]) - np.maximum(patches, edges[:-1, None]), 0, 1)
    return torch.from_numpy(np.einsum("rp,cq->rcpq", shares, shares).reshape(side**2, -1).astype(np.float32))


def box_masks(examples: Examples, rows: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw a name with boxes for each photo; return its vector f32[B, 1, D] and a mask of its boxes f32[B, 1, P]."""
    texts, masks = [], []
    centres = (np.arange(GRID) + 0.5) / GRID
    for row in rows.tolist():
        boxes = examples.photos[row].boxes
        name = boxes[rng.integers(len(boxes))][0]
        mask = np.zeros((GRID, GRID), bool)
        for other, (left, top, right, bottom) in boxes:
            if other == name:
                mask |= np.outer(_patches_between(centres, top, bottom), _patches_between(centres, left, right))
        texts.append(examples.named[0, examples.number[name]])
        masks.append(torch.from_numpy(mask.ravel()))
    return torch.stack(texts)[:, None], torch.stack(masks)[:, None].float()


def _patches_between(centres: NDArray[np.float64], low: float, high: float) -> NDArray[np.bool_]:
    """Return which patches have their centre in [low, high), or else the nearest patch, as a mask bool[GRID]."""
    inside = (centres >= low) & (centres < high)
    inside[np.abs(centres - (low + high) / 2).argmin()] = True
    return inside


class PoolTrainer:
    """Trains the pool, the scale and bias of the logits, and the image side of a head together."""

    def __init__(
        self,
        head: Head,
        examples: Examples,
        features: LocalFeatures,
        mosaics: NDArray[np.int64],
        rows: TrainingRows,
        heads: int,
        seed: int,
    ) -> None:
        """Take the head, the data and the photos to train on.

        mosaics: the photos of each mosaic, padded with -1, i64[M, 9]; only mosaics of `rows` alone are used.
        """
        torch.manual_seed(seed)
        self.head, self._examples, self._features, self._rows = head, examples, features, rows
        self._rng = np.random.default_rng(seed)
        self.pool = initial_pool(heads)
        self.scale = nn.Parameter(torch.tensor(_INITIAL_LOG_SCALE))
        self.bias = nn.Parameter(torch.tensor(_INITIAL_BIAS))
        used = np.isin(mosaics, [*rows.flickr, *rows.broad, -1]).all(1)
        self._sides = np.sqrt((mosaics >= 0).sum(1)).astype(int) * used
        self._cells = mosaics
        self._boxed = np.array([row for row in rows.broad.tolist() if examples.photos[row].boxes], np.int64)

    def fit(self, steps: int) -> Iterator[dict[str, float]]:
        """Train in place; yield a line for the log every 100 steps."""
        projections = [self.head.features, self.head.classes]
        for parameter in projections:
            parameter.requires_grad_(True)
        matrices = [p for p in self.pool.parameters() if p.ndim > 1]
        biases = [p for p in self.pool.parameters() if p.ndim < 2]
        groups = [
            {"params": matrices, "lr": _POOL_RATE, "weight_decay": _WEIGHT_DECAY},
            {"params": projections, "lr": _HEAD_RATE, "weight_decay": 0},
            {"params": biases, "lr": _POOL_RATE, "weight_decay": 0},
            {"params": [self.scale, self.bias], "lr": 5 * _POOL_RATE, "weight_decay": 0},
        ]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, steps, warm=60))
        average, began = Average(matrices + biases + projections), time.time()
        sums: dict[str, list[float]] = {}
        for step in range(steps):
            side = MOSAIC_SIDES[step % len(MOSAIC_SIDES)]
            parts = self._losses(side if side in self._sides else 1)
            optimizer.zero_grad()
            torch.stack(list(parts.values())).sum().backward()
            nn.utils.clip_grad_norm_([*matrices, *biases, *projections], _MAX_GRADIENT_NORM)
            optimizer.step()
            schedule.step()
            average.step(step, _AVERAGE_DECAY)
            for name, value in parts.items():
                sums.setdefault(name, []).append(float(value.detach()))
            if (step + 1) % 100 == 0 or step + 1 == steps:
                row = {name: round(float(np.mean(values)), 4) for name, values in sums.items()}
                yield {"step": step + 1, "seconds": round(time.time() - began, 1), **row}
                sums = {}
        average.copy_to_parameters()

    def _losses(self, side: int) -> dict[str, Tensor]:
        """Compute the weighted losses of one step, by name."""
        features, vectors, pairs, cells = self._draw_photos() if side == 1 else self._draw_mosaics(side)
        texts = self.head.words(self._examples.add_noise(vectors, _NOISE)).detach()
        pooled, attention = self.pool(texts, local_tokens(self.head, features, _DROPOUT))
        logits = self.scale.exp() * F.cosine_similarity(pooled, texts.expand_as(pooled), dim=-1) + self.bias
        whole = self.head.image(features.mean(1).float(), _DROPOUT)
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
            rows = self._rng.choice(self._boxed, min(_BOXED_PHOTOS, len(self._boxed)), False)
            names, inside = box_masks(self._examples, rows, self._rng)
            local = local_tokens(self.head, self._features.get("photos", rows), _DROPOUT)
            _, attention = self.pool(self.head.words(names).detach(), local)
            losses["boxes"] = _BOX_WEIGHT * box_loss(attention, inside)
        return losses

    def _draw_photos(self) -> tuple[Tensor, Tensor, Pairs, NDArray[np.int64]]:
        """Draw single photos; return their features, a text vector for each, the pairs, and the photo of each text."""
        rows = self._rows.draw(self._rng, _PHOTOS_PER_STEP, _FLICKR_SHARE)
        local = self._features.get("photos", rows)
        drawn = self._examples.draw(self._rng, rows)
        own = np.arange(len(rows))
        return local, drawn.vectors, self._examples.pairs(rows, drawn, own), own

    def _draw_mosaics(self, side: int) -> tuple[Tensor, Tensor, Pairs, NDArray[np.int64]]:
        """Draw mosaics; return the same with the cell of each text. A text is positive if it is true of any cell."""
        cells = side * side
        of_side = np.flatnonzero(self._sides == side)
        chosen = self._rng.choice(of_side, min(_MAX_CELLS // cells, len(of_side)), False)
        rows = self._cells[chosen, :cells].ravel()
        text_cells = self._rng.permutation(len(rows))[:_MAX_TEXTS]
        drawn = self._examples.draw(self._rng, rows[text_cells])
        positive, unknown = self._examples.pairs(rows, drawn, text_cells)
        pairs = positive.unflatten(0, (-1, cells)).any(1), unknown.unflatten(0, (-1, cells)).any(1)
        return self._features.get("mosaics", chosen), drawn.vectors, pairs, text_cells
