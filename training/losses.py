"""The losses of the image side, over pairs of B images and T texts that are positive, negative or unknown."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_EXCLUDED = -1e4  # Logit of an excluded pair: its softmax is 0.


def sigmoid_loss(logits: Tensor, positive: Tensor, unknown: Tensor) -> Tensor:
    """Return the sum of -log sigmoid(s logit) over known pairs, divided by B; s is 1 if `positive`, else -1.

    positive, unknown: masks of pairs, bool[B, T]; unknown pairs are left out.
    Source: FLAIR's loss, arXiv 2412.03561, after SigLIP, arXiv 2303.15343.
    """
    losses = -F.logsigmoid(torch.where(positive, logits, -logits))
    return losses.masked_fill(unknown & ~positive, 0).sum() / len(logits)


def contrastive_loss(logits: Tensor, positive: Tensor, unknown: Tensor) -> Tensor:
    """Return InfoNCE in both directions: the mean of -log softmax over all positives of an image or text.

    An image or a text without a positive is only a negative of the others.
    """
    known = logits.masked_fill(unknown & ~positive, _EXCLUDED)
    return _one_way(known, positive) + _one_way(known.T, positive.T)


def box_loss(attention: Tensor, inside: Tensor) -> Tensor:
    """Return the mean of -log of the attention f[B, P] inside a mask f[B, P]; the zero key's part counts as outside."""
    return -((attention * inside).sum(-1) + 1e-6).log().mean()


def _one_way(logits: Tensor, positive: Tensor) -> Tensor:
    """Return the InfoNCE loss of the rows that have a positive."""
    count = positive.sum(1)
    has_positive = count > 0
    return -((logits.log_softmax(1) * positive).sum(1)[has_positive] / count[has_positive]).mean()
