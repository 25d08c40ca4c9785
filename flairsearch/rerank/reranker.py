"""Stored rows + folded queries -> exact FLAIR scores, by the path that suits the device; on a CPU without torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flairsearch.codecs.codec import Codec
from flairsearch.core.types import EncodedText, PoolWeights
from flairsearch.rerank import numpy_backend

if TYPE_CHECKING:
    from torch import Tensor

    from flairsearch.rerank.torch_backend import TorchPool

F32 = NDArray[np.float32]
_FEW = 1000  # views times queries: rerank_numpy scores them while numba is loaded
_MIXED = 1 << 26  # float32 numbers that one call of the GPU's kernels gives: bounds the views of a call


def fused_on_gpu(device: str) -> bool:
    """Whether scores on this device come from rerank_triton."""
    return device.startswith("cuda") and find_spec("triton") is not None


def with_global(conditioned: F32, pooled: NDArray[np.float16], vectors: F32, share: float) -> F32:
    """Conditioned cosines f32[N, T], global tokens f16[N, D] of unit length, texts f32[T, D] -> what photos rank by.

    share: PoolWeights.global_share.
    """
    if not share:
        return conditioned
    texts = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    near = pooled.astype(np.float32) @ texts.T
    return np.asarray(np.float32(1 - share) * conditioned + np.float32(share) * near, np.float32)


class Reranker:
    """The same over a codec's rows as they are stored; queries come as the model folds them.

    Scores come from the path that is fused over the codec: rerank_cpu, or rerank_triton where there is CUDA and Triton.
    """

    def __init__(self, codec: Codec, weights: PoolWeights, device: str = "cpu") -> None:
        self._codec, self._device = codec, device
        self._weights = codec.fold_weights(weights)
        self._without_numba = 0  # views times queries that were scored so

    def score(self, rows: Iterable[NDArray[np.uint8]], queries: Sequence[EncodedText]) -> NDArray[np.float32]:
        """Pieces of rows u8[n, stride] -> exact conditioned scores f32[N, Q], N the sum of all n."""
        if not queries:
            return np.zeros((sum(map(len, rows)), 0), np.float32)
        if fused_on_gpu(self._device):
            from flairsearch.rerank import triton_backend

            return self.score_there(triton_backend.stream(rows, self._device), queries)
        folded = [self._codec.fold(query) for query in queries]
        if self._device == "cpu":
            return self._score_on_cpu(rows, folded)
        return self._reference.score_many((self._codec.decode(piece) for piece in rows), folded)

    @cached_property
    def _reference(self) -> TorchPool:
        from flairsearch.rerank.torch_backend import TorchPool

        return TorchPool(self._weights, self._device, spatial=self._codec.spatial)

    @cached_property
    def _projection(self) -> Any:
        from flairsearch.rerank import numba_backend

        return numba_backend.pack_projection(self._weights)

    def _score_on_cpu(self, rows: Iterable[NDArray[np.uint8]], folded: Sequence[EncodedText]) -> NDArray[np.float32]:
        u, c, text = (np.stack([getattr(query, name) for query in folded]) for name in ("u", "c", "vector"))
        parts = [self._score_piece(piece, u, c, text) for piece in rows]
        return np.concatenate([np.zeros((0, len(folded)), np.float32), *parts])

    def _score_piece(self, rows: NDArray[np.uint8], u: F32, c: F32, text: F32) -> F32:
        """Without numba until as much has been scored as takes the time of loading it: one query is often all."""
        self._without_numba += len(rows) * len(u)
        if self._without_numba <= _FEW and "numba" not in sys.modules:
            return numpy_backend.score(self._codec, rows, self._weights, u, c, text)
        from flairsearch.rerank import numba_backend

        return numba_backend.score(self._codec, rows, self._projection, u, c, text)

    def score_there(self, rows: Iterable[Tensor], queries: Sequence[EncodedText]) -> NDArray[np.float32]:
        """`score` by rerank_triton, of pieces of rows u8[n, stride] that are on the device already; one query at least.

        Nothing is waited for before the last piece, so that the next rows are read while the device works.
        """
        import torch

        from flairsearch.rerank import triton_backend

        folded = [self._codec.fold(query) for query in queries]
        columns = (np.stack([getattr(query, name) for query in folded]) for name in ("u", "c", "vector"))
        u, c, text = (torch.from_numpy(column).to(self._device) for column in columns)
        parts = [torch.zeros((0, len(folded)), device=self._device)]
        on_device = torch.cuda.device(self._device) if self._device.startswith("cuda") else nullcontext()
        with torch.inference_mode(), on_device:
            for piece in rows:
                for part in piece.split(max(1, _MIXED // u.numel())):
                    mixed, share = triton_backend.attend(self._codec, part, u, c)
                    parts.append(self._reference.project(mixed, share, text))
        return torch.cat(parts).cpu().numpy()
