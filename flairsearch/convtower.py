"""A small convolutional image tower: inverted residual blocks down to stride 16, then FLAIR's class and patch tokens.

For models trained on few photos, from which a vision transformer learns little. Blocks: MobileNetV2, arXiv 1801.04381;
those that halve the side are fused (one dense 3x3 instead of 1x1 and depthwise), EfficientNetV2, arXiv 2104.00298: a
depthwise convolution of stride 2 is slow to train on a CPU. No normalisation layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flairsearch.architecture import CLASS_HIDDEN, STEM

Stage = tuple[int, int, int, int]  # expansion, channels, blocks, stride of the first block


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 linear projection; the input is added where the shapes agree."""

    def __init__(self, channels: int, hidden: int, out: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.project = nn.Conv2d(hidden, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(F.relu6(self.depthwise(F.relu6(self.expand(x)))))
        return x + y if x.shape[1] == y.shape[1] else y


class FusedHalving(nn.Module):
    """Dense 3x3 of stride 2, 1x1 linear projection. `late`: windows centred on the second pixel of each pair."""

    def __init__(self, channels: int, hidden: int, out: int, late: bool) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, hidden, 3, 2, padding=0 if late else 1)
        self.project = nn.Conv2d(hidden, out, 1)
        self._late = late

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(F.relu6(self.expand(F.pad(x, (0, 1, 0, 1)) if self._late else x)))
        return y


def build_trunk(stages: tuple[Stage, ...], width: int) -> nn.Sequential:
    """image f[B, 3, S, S] -> f[B, width, S/16, S/16] for stages that halve the side three times after the stem.

    All halvings but the last are centred on the first pixel of a pair: the windows' centres are at 16 i + 8 pixels,
    half a pixel off the middle of patch i.
    """
    units: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, STEM, 3, 2, 1), nn.ReLU6())]
    channels, halvings = STEM, sum(stage[3] == 2 for stage in stages)
    for expansion, out, blocks, stride in stages:
        for i in range(blocks):
            if i == 0 and stride == 2:
                halvings -= 1
                units.append(FusedHalving(channels, channels * expansion, out, late=halvings == 0))
            else:
                units.append(InvertedResidual(channels, channels * expansion, out))
            channels = out
    units.append(nn.Sequential(nn.Conv2d(channels, width, 1), nn.ReLU6()))
    return nn.Sequential(*units)


class ConvTower(nn.Module):
    """image f[B, 3, S, S] -> global token f[B, D] and patch tokens f[B, P, W], as OpenCLIP's towers with tokens.

    The class token is the patches' mean and a small residual MLP of it; class and patches share `ln_post` and `proj`.
    """

    def __init__(self, stages: tuple[Stage, ...], width: int, dim: int, eps: float) -> None:
        super().__init__()
        self.trunk = build_trunk(stages, width)
        self.class_fc = nn.Linear(width, CLASS_HIDDEN)
        self.class_proj = nn.Linear(CLASS_HIDDEN, width)
        self.ln_post = nn.LayerNorm(width, eps=eps)
        self.proj = nn.Parameter(width**-0.5 * torch.randn(width, dim))
        nn.init.zeros_(self.class_proj.weight)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.tokens(self.trunk(image).flatten(2).transpose(1, 2))

    def tokens(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """The trunk's output f[B, P, W] -> global token f[B, D], patch tokens f[B, P, W] after `ln_post`."""
        mean = patches.mean(1)
        first = mean + self.class_proj(F.gelu(self.class_fc(mean)))
        return self.ln_post(first) @ self.proj, self.ln_post(patches)
