"""What computes exact scores: chosen once by a rule, from the device, the amount of work and what is installed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

MAX_NUMPY_SCORES = 1000  # Numpy gives this number of scores in the time that loading numba takes.


@dataclass(frozen=True)
class Backend:
    """A library and the device it works on."""

    name: Literal["numpy", "numba", "torch", "triton"]
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.name} on {self.device}"

    @property
    def is_compiled(self) -> bool:
        """Whether loops on the CPU are compiled by numba: everywhere but where numpy does without loading it."""
        return self.name != "numpy"


def choose_backend(device: str, expected_scores: int) -> Backend:
    """The fastest backend for a device. expected_scores: of views times texts, in all that the process will search.

    On CUDA: Triton's kernels where triton is installed, else torch. On another GPU: torch. On a CPU: numba, but numpy
    where there is so little to do that it ends before numba is loaded.
    """
    if device.startswith("cuda") and find_spec("triton") is not None:
        return Backend("triton", device)
    if device != "cpu":
        return Backend("torch", device)
    return Backend("numpy" if expected_scores <= MAX_NUMPY_SCORES else "numba")
