"""Stored rows + folded queries -> exact FLAIR scores, by the chosen backend; on a CPU without torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flairsearch.codecs.codec import Codec
from flairsearch.core.types import EncodedText, PoolWeights
from flairsearch.rerank import numpy_backend
from flairsearch.rerank.backend import Backend

if TYPE_CHECKING:
    from torch import Tensor

    from flairsearch.rerank.numba_kernels import Projection
    from flairsearch.rerank.torch_backend import TorchPool

F32 = NDArray[np.float32]
MAX_MIXED_FLOATS = 1 << 26  # One call of the GPU's kernels gives at most this many float32 numbers, 256 MiB.


def with_global(conditioned: F32, pooled: NDArray[np.float16], vectors: F32, share: float) -> F32:
    """Conditioned cosines and cosines of the global token -> the scores that photos rank by, f32[N, T].

    conditioned f32[N, T]; pooled f16[N, D]: global tokens of unit length; vectors f32[T, D]: texts, not normalised;
    share: PoolWeights.global_share.
    """
    if not share:
        return conditioned
    texts = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    near = pooled.astype(np.float32) @ texts.T
    return np.asarray(np.float32(1 - share) * conditioned + np.float32(share) * near, np.float32)


class Reranker:
    """Scores rows of one codec as they are stored; queries come as the model folds them."""

    def __init__(self, codec: Codec, weights: PoolWeights, backend: Backend) -> None:
        self._codec, self._backend = codec, backend
        self._weights = codec.fold_weights(weights)

    def score(self, rows: Iterable[NDArray[np.uint8]], texts: Sequence[EncodedText]) -> F32:
        """Pieces of rows u8[n, stride] -> exact conditioned scores f32[N, T], N the sum of all n."""
        if not texts:
            return np.zeros((sum(map(len, rows)), 0), np.float32)
        if self._backend.name == "triton":
            from flairsearch.rerank import triton_backend

            return self.score_on_device(triton_backend.stream(rows, self._backend.device), texts)
        folded = [self._codec.fold(text) for text in texts]
        if self._backend.name == "torch":
            return self._torch_pool.score_many((self._codec.decode(piece) for piece in rows), folded)
        u, c, vectors = (np.stack([getattr(text, name) for text in folded]) for name in ("u", "c", "vector"))
        parts = [self._score_on_cpu(piece, u, c, vectors) for piece in rows]
        return np.concatenate([np.zeros((0, len(folded)), np.float32), *parts])

    def _score_on_cpu(self, rows: NDArray[np.uint8], u: F32, c: F32, vectors: F32) -> F32:
        if self._backend.name == "numpy":
            return numpy_backend.score(self._codec, rows, self._weights, u, c, vectors)
        from flairsearch.rerank import numba_backend

        return numba_backend.score(self._codec, rows, self._projection, u, c, vectors)

    def score_on_device(self, rows: Iterable[Tensor], texts: Sequence[EncodedText]) -> F32:
        """`score` by Triton's kernels of pieces of rows u8[n, stride] that are on the device; at least one text.

        The host waits for nothing before the last piece, so that the next rows are read while the device works.
        """
        import torch

        from flairsearch.rerank import triton_backend

        device = self._backend.device
        folded = [self._codec.fold(text) for text in texts]
        columns = (np.stack([getattr(text, name) for text in folded]) for name in ("u", "c", "vector"))
        u, c, vectors = (torch.from_numpy(column).to(device) for column in columns)
        parts = [torch.zeros((0, len(folded)), device=device)]
        on_device = torch.cuda.device(device) if device.startswith("cuda") else nullcontext()
        with torch.inference_mode(), on_device:
            for piece in rows:
                for part in piece.split(max(1, MAX_MIXED_FLOATS // u.numel())):
                    mixed, share = triton_backend.attend(self._codec, part, u, c)
                    parts.append(self._torch_pool.project(mixed, share, vectors))
        return torch.cat(parts).cpu().numpy()

    @cached_property
    def _torch_pool(self) -> TorchPool:
        from flairsearch.rerank.torch_backend import TorchPool

        return TorchPool(self._weights, self._backend.device, spatial=self._codec.spatial)

    @cached_property
    def _projection(self) -> Projection:
        from flairsearch.rerank import numba_backend

        return numba_backend.pack_projection(self._weights)
