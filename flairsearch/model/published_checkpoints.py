"""Read published checkpoints (.pt) without executing code that a pickle may hold.

Only tensors are unpickled, and the one numpy scalar in the published optimizer state.
"""

from __future__ import annotations

import pickle
import struct
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flairsearch.core.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor


# torch raises one of these on a damaged pickle.
_DAMAGE_ERRORS = (
    *(RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(struct.error, MemoryError, OverflowError),
)


def read_published(path: Path) -> dict[str, Tensor]:
    """Return the tensors of the state dict, by name without the prefix `module.`.

    A published file holds {epoch, name, state_dict, optimizer, scaler}; a bare state dict is accepted, too.
    Raises WeightsError when the file is damaged, or holds more than tensors.
    """
    import _codecs

    import torch

    allowed: list[Any] = [
        (import_module("numpy._core.multiarray").scalar, "numpy.core.multiarray.scalar"),
        np.dtype,
        type(np.dtype("float64")),
        _codecs.encode,
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path} holds more than tensors and was not opened - use the published file or a .safetensors"
        ) from None
    except _DAMAGE_ERRORS as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path} is damaged or no checkpoint ({first}) - download it again") from None
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise WeightsError(f"{path} holds no state_dict of tensors - use a published FLAIR checkpoint")
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}
