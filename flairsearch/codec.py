"""Tokens <-> bytes. A codec turns one view's tokens, shifts and scales into a row of fixed length, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flairsearch.errors import StoreError
from flairsearch.records import Encoded


@dataclass(frozen=True)
class Fp16:
    """x, then r, then s, all float16, little-endian: 2 P D + 4 P bytes a view."""

    patches: int
    dim: int
    name: str = "fp16"

    @property
    def stride(self) -> int:
        """Bytes of one view."""
        return 2 * self.patches * self.dim + 4 * self.patches

    def encode(self, encoded: Encoded) -> NDArray[np.uint8]:
        """N views -> u8[N, stride]."""
        count = len(encoded.tokens)
        parts = (encoded.tokens.reshape(count, -1), encoded.shift, encoded.scale)
        row = np.concatenate([part.astype("<f2", copy=False) for part in parts], axis=1)
        return np.ascontiguousarray(row).view(np.uint8)

    def decode(self, rows: NDArray[np.uint8]) -> NDArray[np.float16]:
        """u8[K, stride] -> tokens x f16[K, P, D], a view of the same memory."""
        values: NDArray[np.float16] = rows.view("<f2")[:, : self.patches * self.dim]
        return values.reshape(len(rows), self.patches, self.dim)

    def decode_moments(self, rows: NDArray[np.uint8]) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """u8[K, stride] -> r f16[K, P], s f16[K, P]: the local token is s (x + r)."""
        values = rows.view("<f2")[:, self.patches * self.dim :]
        return values[:, : self.patches], values[:, self.patches :]


def make_codec(name: str, patches: int, dim: int) -> Fp16:
    """Raises StoreError when there is no codec of that name."""
    if name != "fp16":
        raise StoreError(f"no token codec named {name!r} - this flairsearch reads fp16; update it")
    return Fp16(patches, dim)
