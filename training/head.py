"""Train the global head with InfoNCE: it maps mean features of the frozen trunk to the space of the texts.

A photo's vector is LayerNorm of its features times `features`, plus the softmax over the classifier's classes times
`classes`. `classes` starts as the vectors of the class names (ConSE, arXiv 1312.5650), so the classifier's knowledge is
there before training. The two are the parts of FLAIR's `image_post.proj`; `text` multiplies `text_post.proj`.
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

WIDTH = 1280  # Channels of the trunk's features.
DIM = 256  # Dimensions of the embedding.
FLICKR_SHARE = 0.6  # Share of a batch that is from Flickr8k.
HYPERNYM_WEIGHT = 0.3  # Weight of the mean of a class's nearest hypernyms; its own name has weight 1.
HYPERNYM_COUNT = 5  # At most this many hypernyms of a class are averaged.
_DROPOUT = 0.3  # Share of the features that is dropped.
_NOISE = 0.2  # Noise of the texts, relative to the standard deviation of the captions.
_WEIGHT_DECAY = 0.02  # Weight decay of the features' projection; all else has none.
_MAX_LOG_SCALE = 4.6  # The logarithm of the logits' scale is clamped to this.
_AVERAGE_DECAY = 0.99  # Decay of the moving average of the parameters.
_RATES = {"features": 2e-3, "classes": 5e-4, "text": 1e-4}  # Learning rates; others have that of `features`.

# This maps photos i64[B] to mean features f32[B, WIDTH].
Means = Callable[[np.random.Generator, NDArray[np.int64]], Tensor]


class Head(nn.Module):
    """Maps W features of a photo to D dimensions; the classifier of C classes is frozen."""

    def __init__(self, classifier: tuple[Tensor, Tensor], classes: Tensor) -> None:
        """Take the classifier's weight f32[C, W] and bias f32[C], and a vector for each class's name, f32[C, D]."""
        super().__init__()
        self.ln = nn.LayerNorm(classifier[0].shape[1])
        self.features = nn.Parameter(0.3 * WIDTH**-0.5 * torch.randn(classifier[0].shape[1], classes.shape[1]))
        self.classes = nn.Parameter(classes / classes.norm(dim=1).mean())
        self.text = nn.Parameter(torch.eye(classes.shape[1]))
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.register_buffer("weight", classifier[0])
        self.register_buffer("bias", classifier[1])

    def image(self, features: Tensor, dropout: float = 0.0) -> Tensor:
        """Map features f32[..., W] to image vectors f32[..., D]."""
        probabilities = F.linear(features, self.weight, self.bias).softmax(-1)
        return F.dropout(self.ln(features), dropout, self.training) @ self.features + probabilities @ self.classes

    def words(self, vectors: Tensor) -> Tensor:
        """Map the text tower's vectors f32[T, D] to the shared space f32[T, D]."""
        return vectors @ self.text


def class_vectors(classes: Sequence[Sequence[str]], examples: Examples) -> Tensor:
    """Return a vector for each class, f32[C, D], from its names: its own first, then those of its hypernyms."""
    rows = []
    for words in classes:
        own, *hypernyms = (examples.named[0, examples.number[word]] for word in words[: HYPERNYM_COUNT + 1])
        rows.append(own + HYPERNYM_WEIGHT * torch.stack(hypernyms).mean(0) if hypernyms else own)
    return torch.stack(rows)


@dataclass(frozen=True)
class TrainingRows:
    """The numbers of the photos to train on: those of Flickr8k, and all others."""

    flickr: NDArray[np.int64]
    broad: NDArray[np.int64]

    def draw(self, rng: np.random.Generator, count: int, flickr_share: float) -> NDArray[np.int64]:
        """Draw `count` different photos in random order; `flickr_share` of them are from Flickr8k."""
        first = min(round(count * flickr_share), len(self.flickr))
        parts = (
            rng.choice(self.flickr, first, False),
            rng.choice(self.broad, min(count - first, len(self.broad)), False),
        )
        return rng.permutation(np.concatenate(parts))


def fit_head(
    head: Head, examples: Examples, rows: TrainingRows, means: Means, steps: int, size: int, seed: int
) -> Iterator[dict[str, float]]:
    """Train a head in place, on `size` photos a step; yield a line for the log every 100 steps."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    groups = [
        {
            "params": [p],
            "lr": _RATES.get(name, _RATES["features"]),
            "weight_decay": _WEIGHT_DECAY if name == "features" else 0,
        }
        for name, p in head.named_parameters()
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, steps, warm=50))
    average = Average(head.parameters())
    losses, began = [], time.time()
    for step in range(steps):
        chosen = rows.draw(rng, size, FLICKR_SHARE)
        drawn = examples.draw(rng, chosen)
        pairs = examples.pairs(chosen, drawn, np.arange(len(chosen)))
        images = F.normalize(head.image(means(rng, chosen), _DROPOUT), dim=-1)
        texts = F.normalize(head.words(examples.add_noise(drawn.vectors, _NOISE)), dim=-1)
        loss = contrastive_loss(head.scale.exp() * images @ texts.T, *pairs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        head.scale.data.clamp_(max=_MAX_LOG_SCALE)
        average.step(step, _AVERAGE_DECAY)
        losses.append(float(loss.detach()))
        if (step + 1) % 100 == 0 or step + 1 == steps:
            yield {"step": step + 1, "seconds": round(time.time() - began, 1), "contrastive": float(np.mean(losses))}
            losses = []
    average.copy_to_parameters()


def warm_cosine(step: int, steps: int, warm: int) -> float:
    """Return the factor of the learning rate: a linear warm-up, then half a cosine down to 2 %."""
    return min(1.0, (step + 1) / warm) * (0.02 + 0.98 * 0.5 * (1 + float(np.cos(np.pi * step / steps))))


class Average:
    """An exponential moving average of parameters."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._averages = [p.detach().clone() for p in self._parameters]

    def step(self, number: int, max_decay: float) -> None:
        """Update the average after step `number`; the decay grows to `max_decay`."""
        decay = min(max_decay, (1 + number) / (10 + number))
        torch._foreach_lerp_(self._averages, [p.detach() for p in self._parameters], 1 - decay)

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        """Replace the parameters with their averages."""
        torch._foreach_copy_(self._parameters, self._averages)
