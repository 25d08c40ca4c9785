"""View ids and queries -> exact scores, codec by codec, by way of the GPU where segments stay there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.types import EncodedText, PoolWeights
from flairsearch.rerank.reranker import Reranker, fused_on_gpu, with_global
from flairsearch.store.snapshot import Snapshot

if TYPE_CHECKING:
    from torch import Tensor

    from flairsearch.rerank.gpu_segment_cache import GpuSegmentCache


class Scorer:
    """Scores views of one committed state of the index."""

    def __init__(
        self, reader: Snapshot, weights: PoolWeights, device: str, resident: GpuSegmentCache | None = None
    ) -> None:
        """resident: the cache of segments on the device; without one, it is made when it is needed."""
        self._reader, self._weights, self._device = reader, weights, device
        self._given_resident = resident
        self._rerankers = {label: Reranker(codec, weights, device) for label, codec in reader.codecs.items()}

    def score(self, views: NDArray[np.int64], queries: Sequence[EncodedText]) -> NDArray[np.float32]:
        """View ids i64[K] -> exact scores f32[K, Q], with the global token's share in them."""
        conditioned, share = self.condition(views, queries), self._weights.global_share
        if not share or not queries:
            return conditioned
        vectors = np.stack([query.vector for query in queries])
        return with_global(conditioned, self._reader.pooled(views), vectors, share)

    def condition(self, views: NDArray[np.int64], queries: Sequence[EncodedText]) -> NDArray[np.float32]:
        """View ids i64[K] -> exact conditioned cosines f32[K, Q], without the global token."""
        scores = np.empty((len(views), len(queries)), np.float32)
        for label, here in self._reader.by_codec(views):
            reranker = self._rerankers[label]
            if self.resident is None:
                scores[here] = reranker.score(self._reader.rows(views[here]), queries)
            else:
                order, rows = self._rows_on_device(views[here], self.resident)
                scores[here[order]] = reranker.score_there(rows, queries)
        return scores

    @cached_property
    def resident(self) -> GpuSegmentCache | None:
        """The segments of all codecs that stay on the GPU; gone with this state of the index."""
        if self._given_resident is not None or not fused_on_gpu(self._device):
            return self._given_resident
        from flairsearch.rerank.gpu_segment_cache import GpuSegmentCache

        return GpuSegmentCache(self._device)

    def _rows_on_device(
        self, views: NDArray[np.int64], resident: GpuSegmentCache
    ) -> tuple[NDArray[np.int64], Iterator[Tensor]]:
        """View ids i64[K] of one codec -> an order of them i64[K], segment by segment, and so their rows on the GPU.

        Segments that are there already come first, before others take their room.
        """
        parts = sorted(self._reader.by_segment(views), key=lambda part: part[0] not in resident)
        pieces = (
            piece
            for number, segment, places, wanted in parts
            for piece in resident.rows(number, segment, wanted, self._reader.rows(views[places]))
        )
        return np.concatenate([places for _, _, places, _ in parts]), pieces
