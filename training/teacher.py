"""MobileNetV2 from plain arrays: the frozen network whose patch features the student learns to predict.

Layout of the arrays (53 convolutions with batch norm folded in) as its README states it: 0 stem, 1 depthwise,
2 linear pointwise, then 16 inverted-residual blocks of (expand, depthwise, project), 51 the last 1x1.
Its weights are training data: they are read here and never stored with the student.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_STRIDES = (2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)


class Teacher:
    """pictures -> feature maps of 1,280 channels at stride 32."""

    def __init__(self, path: Path, dtype: torch.dtype = torch.float32) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            self._weights = [
                (
                    torch.from_numpy(arrays[f"{i}.w"]).to(dtype).contiguous(memory_format=torch.channels_last),
                    torch.from_numpy(arrays[f"{i}.b"]).to(dtype),
                )
                for i in range(52)
            ]
        self._dtype = dtype

    def _conv(self, x: Tensor, i: int, stride: int = 1, linear: bool = False) -> Tensor:
        weight, bias = self._weights[i]
        groups = x.shape[1] // weight.shape[1]
        if weight.shape[-1] == 3 and stride == 2:  # TensorFlow's SAME: pad right and bottom only
            x = F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, bias, stride=2, groups=groups)
        else:
            x = F.conv2d(x, weight, bias, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        return x if linear else x.clamp_(0, 6)

    @torch.inference_mode()
    def __call__(self, pictures: Tensor) -> Tensor:
        """uint8[B, S, S, 3] -> f32[B, S/32, S/32, 1280]."""
        x = pictures.permute(0, 3, 1, 2).to(self._dtype).div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
        x = self._conv(self._conv(self._conv(x, 0, stride=2), 1), 2, linear=True)
        for block, stride in enumerate(_STRIDES):
            i = 3 + 3 * block
            y = self._conv(self._conv(self._conv(x, i), i + 1, stride=stride), i + 2, linear=True)
            x = x + y if stride == 1 and y.shape == x.shape else y
        return self._conv(x, 51).permute(0, 2, 3, 1).float()
