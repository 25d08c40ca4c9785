"""MobileNetV2 from plain arrays: the frozen network whose features the student learns to predict.

53 convolutions with batch norm folded in: 0 stem, 1 depthwise, 2 linear pointwise, then 16 inverted-residual blocks of
(expand, depthwise, project), 51 the last 1x1. The student's trunk has the same widths at the blocks' ends, so that each
of its blocks learns from the teacher's input and output of that block.
The teacher's weights are training data: they are read here and never stored with the student.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_STRIDES = (2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)

WIDTH = 1280


class Teacher:
    """pictures f[B, 3, S, S] in [-1, 1] -> features f[B, 1280, S/32, S/32].

    The student has half the stride, so that it learns from the teacher's features of the picture at twice the size.
    Windows are centred as the student's: half a pixel off the middle of a patch; the original is half a patch off.
    """

    def __init__(self, path: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        self._dtype, self._device = dtype, device
        with np.load(path, allow_pickle=False) as arrays:
            self._weights = [
                (
                    torch.from_numpy(arrays[f"{i}.w"]).to(device, dtype).contiguous(memory_format=torch.channels_last),
                    torch.from_numpy(arrays[f"{i}.b"]).to(device, dtype),
                )
                for i in range(52)
            ]

    def _conv(self, x: Tensor, i: int, stride: int = 1, late: bool = False) -> Tensor:
        """`late`: windows centred on the second pixel of a pair, as the student's in its last halving."""
        weight, bias = self._weights[i]
        x = F.pad(x, (0, 1, 0, 1)) if late else x
        padding = 0 if late else weight.shape[-1] // 2
        return F.conv2d(x, weight, bias, stride, padding, groups=x.shape[1] // weight.shape[1])

    @torch.no_grad()
    def activations(self, pictures: Tensor, blocks: int = len(_STRIDES)) -> list[Tensor]:
        """The outputs of the stem's unit, of the first `blocks` blocks and, after all, of the last convolution."""
        last_halving = max(block for block in range(blocks) if _STRIDES[block] == 2)
        x = self._conv(pictures.to(self._device, self._dtype), 0, stride=2).clamp_(0, 6)
        x = self._conv(self._conv(x, 1).clamp_(0, 6), 2)
        ends = [x]
        for block, stride in enumerate(_STRIDES[:blocks]):
            i = 3 + 3 * block
            y = self._conv(x, i).clamp_(0, 6)
            y = self._conv(y, i + 1, stride, late=block == last_halving).clamp_(0, 6)
            y = self._conv(y, i + 2)
            x = x + y if y.shape == x.shape else y
            ends.append(x)
        if blocks == len(_STRIDES):
            ends.append(self._conv(x, 51).clamp_(0, 6))
        return ends

    def __call__(self, pictures: Tensor) -> Tensor:
        return self.activations(pictures)[-1]
