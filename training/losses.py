"""The losses of FLAIR's training (arXiv 2412.03561) and of distillation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sigmoid_loss(logits: Tensor, positive: Tensor) -> Tensor:
    """Sum over (image, text) pairs of -log sigmoid(+-logit), plus where `positive` bool[B, T], divided by B.

    The sign of a pair is all that counts, so an image may have several positive texts (SigLIP, arXiv 2303.15343).
    """
    return -F.logsigmoid(torch.where(positive, logits, -logits)).sum() / len(logits)


def own_texts(images: int, each: int, device: torch.device) -> Tensor:
    """bool[B, B K]: the texts of image i are i K to i K + K - 1."""
    return torch.eye(images, dtype=torch.bool, device=device).repeat_interleave(each, 1)


def conditioned_texts(images: int, each: int, device: torch.device) -> Tensor:
    """Which texts condition each image, i64[B, K + B - 1]: its own K first, then a random one of every other image."""
    rows = torch.arange(images, device=device)
    own = rows[:, None] * each + torch.arange(each, device=device)
    others = torch.arange(images - 1, device=device).expand(images, -1)
    others = others + (others >= rows[:, None])  # leaves out the image itself
    drawn = torch.randint(each, others.shape, device=device)
    return torch.cat([own, others * each + drawn], 1)


def relative_error(features: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error over the teacher's variance, features and teacher f[B, C, ...]: 1 is the mean's error."""
    teacher = teacher.float()
    variance = teacher.transpose(0, 1).flatten(1).var(1).mean()
    return F.mse_loss(features.float(), teacher) / variance
