"""The losses of the image side: of pairs of B images and T texts, of which each is right, wrong or unknown."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_NEVER = -1e4  # logit of a pair that takes no part


def sigmoid_loss(logits: Tensor, positive: Tensor, unknown: Tensor) -> Tensor:
    """Sum over the known pairs of -log sigmoid(+-logit), plus where `positive` bool[B, T], divided by B.

    FLAIR's loss, arXiv 2412.03561, after SigLIP, arXiv 2303.15343. Pairs `unknown` bool[B, T] are left out.
    """
    losses = -F.logsigmoid(torch.where(positive, logits, -logits))
    return losses.masked_fill(unknown & ~positive, 0).sum() / len(logits)


def contrastive_loss(logits: Tensor, positive: Tensor, unknown: Tensor) -> Tensor:
    """InfoNCE both ways, where an image or a text may have several positives: the mean over them of -log softmax.

    An image or a text without a positive counts only among the negatives of the others.
    """
    known = logits.masked_fill(unknown & ~positive, _NEVER)
    return _one_way(known, positive) + _one_way(known.T, positive.T)


def box_loss(attention: Tensor, inside: Tensor) -> Tensor:
    """-log of the share of the attention f[B, P], zero key's part included in the whole, that is `inside` f[B, P]."""
    return -((attention * inside).sum(-1) + 1e-6).log().mean()


def _one_way(logits: Tensor, positive: Tensor) -> Tensor:
    count = positive.sum(1)
    asked = count > 0
    return -((logits.log_softmax(1) * positive).sum(1)[asked] / count[asked]).mean()
