"""A small convolutional image tower: EfficientNet-Lite down to stride 32, then FLAIR's class and patch tokens.

Blocks: EfficientNet, arXiv 1905.11946, in its Lite form (ReLU6, no squeeze-and-excitation); batch norm is folded into
the convolutions. Its classifier stays: the softmax over its classes is a part of every token, so that the projection
can place each class in the space of the texts (ConSE, arXiv 1312.5650).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flairsearch.model.architecture import STEM

Stage = tuple[int, int, int, int, int]  # expansion, kernel, channels, blocks, stride of the first block


class SameConv(nn.Conv2d):
    """A convolution whose output has 1 / stride of the input's side.

    With stride 2 its windows are centred on the second pixel of each pair, as TensorFlow's; `early`: on the first.
    """

    def __init__(self, into: int, out: int, kernel: int, stride: int = 1, groups: int = 1, early: bool = False) -> None:
        super().__init__(into, out, kernel, stride, padding=kernel // 2, groups=groups)
        self._shifts = stride == 2 and not early

    def forward(self, x: Tensor) -> Tensor:
        """Maps f[B, C, H, W] -> f[B, C', H', W']."""
        y: Tensor = self._conv_forward(x, self._kernel(), self.bias)
        return y

    def relu6(self, x: Tensor) -> Tensor:
        """ReLU6 of `forward`, in one pass over the output on a CPU: a sixth of the whole tower's time."""
        if x.device.type != "cpu" or not torch.is_inference_mode_enabled() or not _can_fuse(x.dtype):
            return F.relu6(self.forward(x), inplace=True)
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
            *(x, self._kernel(), self.bias, self.padding, self.stride, self.dilation, self.groups),
            *("hardtanh", [0.0, 6.0], ""),
        )
        return fused

    def _kernel(self) -> Tensor:
        """The weights; a row and a column of zeros before them move the windows by a pixel, and no input is copied."""
        return F.pad(self.weight, (1, 0, 1, 0)) if self._shifts else self.weight


@lru_cache
def _can_fuse(dtype: torch.dtype) -> bool:
    """Whether this torch has oneDNN's convolution with an activation, an operator that its own compiler uses.

    Unlike a plain convolution, it raises an error where the processor lacks the type.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32 or (dtype == torch.bfloat16 and supported)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 linear projection; the input is added where the shapes agree."""

    def __init__(self, channels: int, expansion: int, kernel: int, out: int, stride: int, early: bool) -> None:
        super().__init__()
        hidden = channels * expansion
        self.expand = SameConv(channels, hidden, 1) if expansion > 1 else None
        self.depthwise = SameConv(hidden, hidden, kernel, stride, hidden, early)
        self.project = SameConv(hidden, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps f[B, C, H, W] -> f[B, C', H', W'], with the input added where the sizes agree."""
        wide = x if self.expand is None else self.expand.relu6(x)
        y: Tensor = self.project(self.depthwise.relu6(wide))
        return x + y if x.shape == y.shape else y


class Unit(nn.Sequential):
    """A convolution and ReLU6: the trunk's first and last unit."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps f[B, C, H, W] -> f[B, C', H', W'], with ReLU6 in one pass."""
        convolution = self[0]
        assert isinstance(convolution, SameConv)
        return convolution.relu6(x)


def build_trunk(stages: tuple[Stage, ...], width: int) -> nn.Sequential:
    """image f[B, 3, S, S] -> f[B, width, S/32, S/32] for stages that halve the side four times after the stem.

    The last halving is centred on the first pixel of a pair, all others on the second: together the windows' centres
    are half a pixel off the middle of each patch of 32 pixels.
    """
    units: list[nn.Module] = [Unit(SameConv(3, STEM, 3, 2))]
    channels, halvings = STEM, sum(stage[4] == 2 for stage in stages)
    for expansion, kernel, out, blocks, stride in stages:
        halvings -= stride == 2
        for i in range(blocks):
            step = stride if i == 0 else 1
            units.append(InvertedResidual(channels, expansion, kernel, out, step, early=halvings == 0))
            channels = out
    return nn.Sequential(*units, Unit(SameConv(channels, width, 1)))


class ConvTower(nn.Module):
    """image f[B, 3, S, S] -> global token f[B, D] and patch tokens f[B, P, W + C], as OpenCLIP's towers with tokens.

    W is the trunk's width, C the number of the classifier's classes. A token is LayerNorm of the features and, behind
    it, the softmax over the classes; the class token is the one of the patches' mean. All share `proj`.
    """

    def __init__(self, stages: tuple[Stage, ...], width: int, classes: int, dim: int, eps: float) -> None:
        super().__init__()
        self.trunk = build_trunk(stages, width)
        self.classifier = nn.Linear(width, classes)
        self.ln_post = nn.LayerNorm(width, eps=eps)
        self.proj = nn.Parameter(width**-0.5 * torch.randn(width + classes, dim))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Images f[B, 3, S, S] -> global token f[B, D], patch tokens f[B, P, W + C]."""
        return self.tokens(self.trunk(image).flatten(2).transpose(1, 2))

    def tokens(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """The trunk's output f[B, P, W] -> global token f[B, D], patch tokens f[B, P, W + C]."""
        return self._token(patches.mean(1)) @ self.proj, self._token(patches)

    def _token(self, features: Tensor) -> Tensor:
        """f[..., W] -> f[..., W + C]."""
        return torch.cat([self.ln_post(features), self.classifier(features).softmax(-1)], -1)
