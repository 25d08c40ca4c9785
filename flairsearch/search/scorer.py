"""View ids and texts -> exact scores, codec by codec; on a GPU from the segments that stay in its memory."""

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
    """Scores views of one snapshot, with one backend, for any thread."""

    def __init__(
        self, snapshot: Snapshot, weights: PoolWeights, backend: Backend, cache: GpuSegmentCache | None = None
    ) -> None:
        """cache: of segments on the device; without one, it is made when it is needed."""
        self._snapshot, self._weights, self._backend = snapshot, weights, backend
        self._given_cache = cache
        self._rerankers = {label: Reranker(codec, weights, backend) for label, codec in snapshot.codecs.items()}
        # On a GPU one thread at a time: buffers for copying, and the cache of segments, are shared.
        self._turn = nullcontext() if backend.device == "cpu" else Lock()

    def score(
        self, views: NDArray[np.int64], texts: Sequence[EncodedText], global_share: float | None = None
    ) -> NDArray[np.float32]:
        """View ids i64[K] -> exact scores f32[K, T].

        global_share: of the global token's cosine in the score; None: as the model says.
        """
        share = self._weights.global_share if global_share is None else global_share
        if share == 1 or not texts:  # Local tokens do not count.
            conditioned = np.zeros((len(views), len(texts)), np.float32)
        else:
            conditioned = self.condition(views, texts)
        if not share or not texts:
            return conditioned
        vectors = np.stack([text.vector for text in texts])
        return with_global(conditioned, self._snapshot.pooled(views), vectors, share)

    def condition(self, views: NDArray[np.int64], texts: Sequence[EncodedText]) -> NDArray[np.float32]:
        """View ids i64[K] -> exact conditioned cosines f32[K, T], without the global token."""
        scores = np.empty((len(views), len(texts)), np.float32)
        with self._turn:
            for label, places in self._snapshot.by_codec(views):
                reranker = self._rerankers[label]
                if self.segment_cache is None:
                    scores[places] = reranker.score(self._snapshot.rows(views[places]), texts)
                else:
                    order, rows = self._rows_on_device(views[places], self.segment_cache)
                    scores[places[order]] = reranker.score_on_device(rows, texts)
        return scores

    @cached_property
    def segment_cache(self) -> GpuSegmentCache | None:
        """The segments of all codecs that stay on the GPU as long as this snapshot is searched."""
        if self._given_cache is not None or self._backend.name != "triton":
            return self._given_cache
        from flairsearch.rerank.gpu_segment_cache import GpuSegmentCache

        return GpuSegmentCache(self._backend.device)

    def _rows_on_device(
        self, views: NDArray[np.int64], cache: GpuSegmentCache
    ) -> tuple[NDArray[np.int64], Iterator[Tensor]]:
        """View ids i64[K] of one codec -> an order of them i64[K], segment by segment, and their rows on the GPU in it.

        Segments that are on the GPU come first, before others take their room.
        """
        parts = sorted(self._snapshot.by_segment(views), key=lambda part: part[0] not in cache)
        pieces = (
            piece
            for number, segment, places, wanted in parts
            for piece in cache.rows(number, segment, wanted, self._snapshot.rows(views[places]))
        )
        return np.concatenate([places for _, _, places, _ in parts]), pieces
