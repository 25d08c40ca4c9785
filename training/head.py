"""The global head: mean features of the frozen trunk -> the space of the texts, by InfoNCE.

A photo's vector is LayerNorm of its features times `features`, plus the softmax over the classifier's classes times
`classes`, which starts as the classes' own names (ConSE, arXiv 1312.5650): what the classifier knows is there before
anything is learned. Both are the two parts of FLAIR's `image_post.proj`; `text` multiplies `text_post.proj`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training.examples import Examples
from training.losses import contrastive_loss

WIDTH, DIM = 1280, 256
FLICKR = 0.6  # share of a batch
HYPERNYMS, NEAREST = 0.3, 5  # weight of the mean of a class's nearest hypernyms beside its name, and how many
_DROPPED, _NOISE = 0.3, 0.2  # of the features; of the texts, as a share of the captions' spread
_DECAY, _LARGEST_SCALE, _AVERAGE = 0.02, 4.6, 0.99
_RATES = {"features": 2e-3, "classes": 5e-4, "text": 1e-4}  # of AdamW; of all other parameters that of the first

Means = Callable[[np.random.Generator, NDArray[np.int64]], Tensor]  # photos i64[B] -> mean features f32[B, WIDTH]


class Head(nn.Module):
    """D numbers of a photo from W features, with a frozen classifier of C classes."""

    def __init__(self, classifier: tuple[Tensor, Tensor], classes: Tensor) -> None:
        """classifier: weight f32[C, W], bias f32[C]; classes f32[C, D]: a vector for each class's name."""
        super().__init__()
        self.ln = nn.LayerNorm(classifier[0].shape[1])
        self.features = nn.Parameter(0.3 * WIDTH**-0.5 * torch.randn(classifier[0].shape[1], classes.shape[1]))
        self.classes = nn.Parameter(classes / classes.norm(dim=1).mean())
        self.text = nn.Parameter(torch.eye(classes.shape[1]))
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.register_buffer("weight", classifier[0])
        self.register_buffer("bias", classifier[1])

    def image(self, features: Tensor, dropped: float = 0.0) -> Tensor:
        """f32[..., W] -> f32[..., D]."""
        chances = F.linear(features, self.weight, self.bias).softmax(-1)
        return F.dropout(self.ln(features), dropped, self.training) @ self.features + chances @ self.classes

    def words(self, vectors: Tensor) -> Tensor:
        """Texts of the text tower f32[T, D] -> f32[T, D]."""
        return vectors @ self.text


def class_vectors(classes: Sequence[Sequence[str]], examples: Examples) -> Tensor:
    """Names of each class, its own first and then its hypernyms' -> f32[C, D]."""
    rows = []
    for words in classes:
        own, *kinds = (examples.named[0, examples.number[word]] for word in words[: NEAREST + 1])
        rows.append(own + HYPERNYMS * torch.stack(kinds).mean(0) if kinds else own)
    return torch.stack(rows)


@dataclass(frozen=True)
class Rows:
    """Photos that are trained on: numbers of those of Flickr8k and of the others."""

    flickr: NDArray[np.int64]
    broad: NDArray[np.int64]

    def draw(self, rng: np.random.Generator, count: int, flickr: float) -> NDArray[np.int64]:
        """`count` different photos, that share of them Flickr8k's, in random order."""
        first = min(round(count * flickr), len(self.flickr))
        parts = (
            rng.choice(self.flickr, first, False),
            rng.choice(self.broad, min(count - first, len(self.broad)), False),
        )
        return rng.permutation(np.concatenate(parts))


def fit_head(
    head: Head, examples: Examples, rows: Rows, means: Means, steps: int, size: int, seed: int
) -> Iterator[dict[str, float]]:
    """Train a head in place, on `size` photos a step; yields a line of the log now and then."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    groups = [
        {"params": [p], "lr": _RATES.get(name, _RATES["features"]), "weight_decay": _DECAY if name == "features" else 0}
        for name, p in head.named_parameters()
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, steps, warm=50))
    average = Average(head.parameters())
    losses, began = [], time.time()
    for step in range(steps):
        chosen = rows.draw(rng, size, FLICKR)
        drawn = examples.draw(rng, chosen)
        pairs = examples.pairs(chosen, drawn, np.arange(len(chosen)))
        images = F.normalize(head.image(means(rng, chosen), _DROPPED), dim=-1)
        texts = F.normalize(head.words(examples.noisy(drawn.vectors, _NOISE)), dim=-1)
        loss = contrastive_loss(head.scale.exp() * images @ texts.T, *pairs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        head.scale.data.clamp_(max=_LARGEST_SCALE)
        average.step(step, _AVERAGE)
        losses.append(float(loss.detach()))
        if (step + 1) % 100 == 0 or step + 1 == steps:
            yield {"step": step + 1, "seconds": round(time.time() - began, 1), "contrastive": float(np.mean(losses))}
            losses = []
    average.show()


def warm_cosine(step: int, steps: int, warm: int) -> float:
    """The share of the rate: a linear start, then half a cosine down to 2 %."""
    return min(1.0, (step + 1) / warm) * (0.02 + 0.98 * 0.5 * (1 + float(np.cos(np.pi * step / steps))))


class Average:
    """A moving average of parameters."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._live = list(parameters)
        self._kept = [p.detach().clone() for p in self._live]

    def step(self, number: int, most: float) -> None:
        keep = min(most, (1 + number) / (10 + number))
        torch._foreach_lerp_(self._kept, [p.detach() for p in self._live], 1 - keep)

    @torch.no_grad()
    def show(self) -> None:
        """Give it to them."""
        torch._foreach_copy_(self._live, self._kept)
