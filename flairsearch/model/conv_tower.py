"""A small convolutional image tower: EfficientNet-Lite down to stride 32, then FLAIR's class and patch tokens.

Blocks: EfficientNet, arXiv 1905.11946, in its Lite form (ReLU6, no squeeze-and-excitation); batch norm is folded into
the convolutions. The classifier is kept: the softmax over its classes is part of every token, so that the projection
can place each class in the space of the texts (ConSE, arXiv 1312.5650).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flairsearch.model.architecture import STEM_CHANNELS

Stage = tuple[int, int, int, int, int]  # Expansion, kernel, channels, blocks, stride of the first block.


class SameConv(nn.Conv2d):
    """A convolution whose output has 1 / stride of the input's side.

    With stride 2 its windows are centred on the second pixel of each pair, as in TensorFlow; with `symmetric` padding
    they are centred on the first pixel, as in torch.
    """

    def __init__(
        self, into: int, out: int, kernel: int, stride: int = 1, groups: int = 1, symmetric: bool = False
    ) -> None:
        super().__init__(into, out, kernel, stride, padding=kernel // 2, groups=groups)
        self._shifts_windows = stride == 2 and not symmetric

    def forward(self, x: Tensor) -> Tensor:
        """Maps f[B, C, H, W] -> f[B, C', H', W']."""
        y: Tensor = self._conv_forward(x, self._shifted_weight(), self.bias)
        return y

    def relu6(self, x: Tensor) -> Tensor:
        """Return ReLU6 of `forward`; fused on a CPU, which saves a sixth of the tower's time."""
        if x.device.type != "cpu" or not torch.is_inference_mode_enabled() or not _can_fuse(x.dtype):
            return F.relu6(self.forward(x), inplace=True)
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
            *(x, self._shifted_weight(), self.bias, self.padding, self.stride, self.dilation, self.groups),
            *("hardtanh", [0.0, 6.0], ""),
        )
        return fused

    def _shifted_weight(self) -> Tensor:
        """Return the weights; a row and a column of zeros before them shift the windows without copying the input."""
        return F.pad(self.weight, (1, 0, 1, 0)) if self._shifts_windows else self.weight


@lru_cache
def _can_fuse(dtype: torch.dtype) -> bool:
    """Return whether oneDNN's convolution with fused activation, an operator of torch's own compiler, can be used.

    Unlike a plain convolution, it raises an error if the processor does not support the type.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32 or (dtype == torch.bfloat16 and supported)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 linear projection; the input is added if the shapes agree."""

    def __init__(self, channels: int, expansion: int, kernel: int, out: int, stride: int, symmetric: bool) -> None:
        super().__init__()
        hidden = channels * expansion
        self.expand = SameConv(channels, hidden, 1) if expansion > 1 else None
        self.depthwise = SameConv(hidden, hidden, kernel, stride, hidden, symmetric)
        self.project = SameConv(hidden, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps f[B, C, H, W] -> f[B, C', H', W'], with the input added if the shapes agree."""
        wide = x if self.expand is None else self.expand.relu6(x)
        y: Tensor = self.project(self.depthwise.relu6(wide))
        return x + y if x.shape == y.shape else y


class Unit(nn.Sequential):
    """A convolution followed by ReLU6: the first and the last unit of the trunk."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps f[B, C, H, W] -> f[B, C', H', W']."""
        convolution = self[0]
        assert isinstance(convolution, SameConv)
        return convolution.relu6(x)


def build_trunk(stages: tuple[Stage, ...], width: int) -> nn.Sequential:
    """Build the trunk: image f[B, 3, S, S] -> f[B, width, S/32, S/32].

    After the stem, the stages must halve the side four times. The last halving is centred on the first pixel of a
    pair, all others on the second: the windows' centres are then half a pixel off the middle of each 32-pixel patch.
    """
    units: list[nn.Module] = [Unit(SameConv(3, STEM_CHANNELS, 3, 2))]
    channels, halvings = STEM_CHANNELS, sum(stage[4] == 2 for stage in stages)
    for expansion, kernel, out, blocks, stride in stages:
        halvings -= stride == 2
        for i in range(blocks):
            step = stride if i == 0 else 1
            units.append(InvertedResidual(channels, expansion, kernel, out, step, symmetric=halvings == 0))
            channels = out
    return nn.Sequential(*units, Unit(SameConv(channels, width, 1)))


class ConvTower(nn.Module):
    """An image tower with the interface of OpenCLIP's: image f[B, 3, S, S] -> global f[B, D], patches f[B, P, W + C].

    W is the width of the trunk, C the number of classes. A token is the LayerNorm of the features, followed by the
    softmax over the classes. The global token is the token of the patches' mean, multiplied by `proj`.
    """

    def __init__(self, stages: tuple[Stage, ...], width: int, classes: int, dim: int, eps: float) -> None:
        super().__init__()
        self.trunk = build_trunk(stages, width)
        self.classifier = nn.Linear(width, classes)
        self.ln_post = nn.LayerNorm(width, eps=eps)
        self.proj = nn.Parameter(width**-0.5 * torch.randn(width + classes, dim))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Maps images f[B, 3, S, S] to global tokens f[B, D] and patch tokens f[B, P, W + C]."""
        return self.tokens(self.trunk(image).flatten(2).transpose(1, 2))

    def tokens(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Map the trunk's output f[B, P, W] to global tokens f[B, D] and patch tokens f[B, P, W + C]."""
        return self._token(patches.mean(1)) @ self.proj, self._token(patches)

    def _token(self, features: Tensor) -> Tensor:
        """Map features f[..., W] to tokens f[..., W + C]."""
        return torch.cat([self.ln_post(features), self.classifier(features).softmax(-1)], -1)
