"""Compare codecs with fp16: bytes, recall, overlap of the top 10, boxes and speed.

The rule for the default codec: the smallest one whose R@10 stays within 0.5 points of fp16's, on photos and on mosaics,
and whose top 10 holds at least 95 % of fp16's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flairsearch.codecs.codec import AVERAGE_BITS, Codec, make_codec
from flairsearch.codecs.transform import BASIS_SAMPLE_VIEWS, fit_basis
from flairsearch.core.arrays import chunks
from flairsearch.core.types import EncodedText, EncodedViews, Frame, PoolWeights
from flairsearch.evaluate.region_metrics import iou
from flairsearch.evaluate.results import CodecRow
from flairsearch.evaluate.retrieval_metrics import RECALL_KS, best_ranks
from flairsearch.regions.locator import Locator
from flairsearch.rerank.reranker import with_global
from flairsearch.rerank.torch_backend import TorchPool

CODECS = ("fp16", "int8", "q4", "q2", "q1")
TOP_VIEWS = 10  # The first ten views of each text are compared.
BOOTSTRAP_SAMPLES = 2000  # Resamples of the paired bootstrap behind the 95 % interval.
_DECODE_VIEWS = 32  # Views decoded and scored at once, to bound memory.
_SCORE_TEXTS = 64  # Texts scored at once, to bound memory.


def compare_codecs(
    encoded: EncodedViews,
    queries: Sequence[EncodedText],
    relevant: NDArray[np.bool_] | None,
    weights: PoolWeights,
    metric: NDArray[np.float32],
    device: str = "cpu",
) -> Iterator[CodecRow]:
    """Measure every codec on N views and T queries, fp16 first.

    relevant: bool[N, T], which views are relevant to which text, or None when unknown. metric: f32[D, D], the token
    metric of the transform codecs.
    """
    count, patches, dim = encoded.tokens.shape
    sample = encoded.tokens[:: max(1, count // BASIS_SAMPLE_VIEWS)][:BASIS_SAMPLE_VIEWS]
    reference: _Ranking | None = None
    for name in CODECS:
        basis = fit_basis(sample, metric, AVERAGE_BITS[name]) if name in AVERAGE_BITS else None
        codec = make_codec(name, patches, dim, basis)
        ranking = _rank(codec, encoded, queries, weights, reference, device)
        reference = reference or ranking
        recall = interval = None
        if relevant is not None:
            ranks, reference_ranks = best_ranks(ranking.scores, relevant), best_ranks(reference.scores, relevant)
            recall = {k: float((ranks < k).mean()) for k in RECALL_KS}
            interval = _interval(ranks < TOP_VIEWS, reference_ranks < TOP_VIEWS)
        overlap = np.mean([len(np.intersect1d(a, b)) for a, b in zip(ranking.top.T, reference.top.T, strict=True)])
        yield CodecRow(
            name,
            codec.stride,
            recall,
            interval,
            float(overlap) / len(reference.top),
            float(iou(np.array(ranking.boxes, float), np.array(reference.boxes, float)).mean()),
            ranking.views_per_second,
        )


@dataclass(frozen=True)
class _Ranking:
    """What one codec finds on N views and T texts.

    scores: f32[N, T]. top: i64[TOP_VIEWS, T], the best views of each text. boxes: best region in each of fp16's best
    views of each text. views_per_second: speed of re-ranking.
    """

    scores: NDArray[np.float32]
    top: NDArray[np.int64]
    boxes: list[tuple[int, int, int, int]]
    views_per_second: float


def _rank(
    codec: Codec,
    encoded: EncodedViews,
    queries: Sequence[EncodedText],
    weights: PoolWeights,
    reference: _Ranking | None,
    device: str,
) -> _Ranking:
    rows = codec.encode(encoded)
    pool = TorchPool(codec.fold_weights(weights), device, spatial=codec.spatial)
    folded = [codec.fold(query) for query in queries]
    start = time.perf_counter()
    scores = np.concatenate([_score(codec, pool, part, folded) for part in chunks(rows, _DECODE_VIEWS)])
    texts = np.stack([query.vector for query in queries])
    scores = with_global(scores, encoded.pooled, texts, weights.global_share)
    views_per_second = scores.size / (time.perf_counter() - start)
    top = np.argsort(-scores, axis=0, kind="stable")[:TOP_VIEWS]
    boxes, locator, frame = [], Locator(weights), Frame(1000, 1000, 0, 0, 1000, 1000)
    for query, views in zip(queries, (reference.top if reference else top).T, strict=True):
        restored = codec.restore_all(rows[views], encoded.pooled[views])
        boxes += [locator.find(restored.only(i), frame, query)[1][0].box for i in range(len(views))]
    return _Ranking(scores, top, boxes, views_per_second)


def _score(
    codec: Codec, pool: TorchPool, rows: NDArray[np.uint8], queries: Sequence[EncodedText]
) -> NDArray[np.float32]:
    """Score rows u8[n, stride] for T queries, f32[n, T]. The rows are decoded once for all queries."""
    pieces = [codec.decode(rows)]
    parts = [pool.score_many(pieces, part) for part in chunks(queries, _SCORE_TEXTS)]
    return np.concatenate(parts, axis=1)


def _interval(found: NDArray[np.bool_], reference: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of found - reference over the texts, by a paired bootstrap."""
    differences = found.astype(np.float64) - reference
    rng = np.random.default_rng(0)
    means = [
        differences[rng.integers(len(differences), size=len(differences))].mean() for _ in range(BOOTSTRAP_SAMPLES)
    ]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)
