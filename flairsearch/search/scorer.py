"""Compute exact scores of views, codec by codec; on a GPU from segments that stay in its memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.types import EncodedText, PoolWeights
from flairsearch.rerank.backend import Backend
from flairsearch.rerank.reranker import Reranker, with_global
from flairsearch.store.snapshot import Snapshot

if TYPE_CHECKING:
    from torch import Tensor

    from flairsearch.rerank.gpu_segment_cache import GpuSegmentCache


class Scorer:
    """Scores views of one snapshot with one backend; threads may share it."""

    def __init__(
        self, snapshot: Snapshot, weights: PoolWeights, backend: Backend, cache: GpuSegmentCache | None = None
    ) -> None:
        """cache: segments on the GPU; if None, a cache is made when it is needed."""
        self._snapshot, self._weights, self._backend = snapshot, weights, backend
        self._given_cache = cache
        self._rerankers = {label: Reranker(codec, weights, backend) for label, codec in snapshot.codecs.items()}
        # On a GPU one thread scores at a time, since the copy buffers and the segment cache are shared.
        self._gpu_lock = nullcontext() if backend.device == "cpu" else Lock()

    def score(
        self, views: NDArray[np.int64], texts: Sequence[EncodedText], global_share: float | None = None
    ) -> NDArray[np.float32]:
        """Return exact scores f32[K, T] of views i64[K].

        global_share: the share of the global token's cosine in the score; None: the model's default.
        """
        share = self._weights.global_share if global_share is None else global_share
        if share == 1 or not texts:  # The local tokens are not needed.
            conditioned = np.zeros((len(views), len(texts)), np.float32)
        else:
            conditioned = self.condition(views, texts)
        if not share or not texts:
            return conditioned
        vectors = np.stack([text.vector for text in texts])
        return with_global(conditioned, self._snapshot.pooled(views), vectors, share)

    def condition(self, views: NDArray[np.int64], texts: Sequence[EncodedText]) -> NDArray[np.float32]:
        """Return exact conditioned cosines f32[K, T] of views i64[K], without the global token's share."""
        scores = np.empty((len(views), len(texts)), np.float32)
        with self._gpu_lock:
            for label, positions in self._snapshot.by_codec(views):
                reranker = self._rerankers[label]
                if self.segment_cache is None:
                    scores[positions] = reranker.score(self._snapshot.rows(views[positions]), texts)
                else:
                    order, rows = self._rows_on_device(views[positions], self.segment_cache)
                    scores[positions[order]] = reranker.score_on_device(rows, texts)
        return scores

    @cached_property
    def segment_cache(self) -> GpuSegmentCache | None:
        """The cache of segments on the GPU, for as long as this snapshot is searched; None if the backend has none."""
        if self._given_cache is not None or self._backend.name != "triton":
            return self._given_cache
        from flairsearch.rerank.gpu_segment_cache import GpuSegmentCache

        return GpuSegmentCache(self._backend.device)

    def _rows_on_device(
        self, views: NDArray[np.int64], cache: GpuSegmentCache
    ) -> tuple[NDArray[np.int64], Iterator[Tensor]]:
        """Return an order i64[K] of views i64[K] of one codec, by segment, and their rows on the GPU in this order.

        Segments that are already on the GPU come first, before others replace them in its memory.
        """
        parts = sorted(self._snapshot.by_segment(views), key=lambda part: part[0] not in cache)
        pieces = (
            piece
            for number, segment, positions, rows in parts
            for piece in cache.rows(number, segment, rows, self._snapshot.rows(views[positions]))
        )
        return np.concatenate([positions for _, _, positions, _ in parts]), pieces
