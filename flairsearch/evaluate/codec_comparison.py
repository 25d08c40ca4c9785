"""What a codec costs and loses: bytes, recall, the exact top 10, boxes, speed - each against fp16.

The rule for the default: the smallest codec whose R@10 stays within 0.5 points of fp16's, on photos and on mosaics, and
whose top 10 holds at least 95 % of fp16's.
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
from flairsearch.evaluate.retrieval_metrics import best_ranks
from flairsearch.regions.locator import Locator
from flairsearch.rerank.reranker import with_global
from flairsearch.rerank.torch_backend import TorchPool

CODECS = ("fp16", "int8", "q4", "q2", "q1")


TOP = 10  # views of each text's ranking that are compared


RESAMPLES = 2000  # samples of the bootstrap


_BATCH = 32  # views decoded and scored at once


_TEXTS = 64  # texts scored at once


def compare_codecs(
    encoded: EncodedViews,
    queries: Sequence[EncodedText],
    right: NDArray[np.bool_] | None,
    weights: PoolWeights,
    metric: NDArray[np.float32],
    device: str = "cpu",
) -> Iterator[CodecRow]:
    """Every codec on these views, fp16 first. `right` bool[N, T]: which views answer which text; None: nobody knows."""
    count, patches, dim = encoded.tokens.shape
    sample = encoded.tokens[:: max(1, count // BASIS_SAMPLE_VIEWS)][:BASIS_SAMPLE_VIEWS]
    exact: _Ranked | None = None
    for name in CODECS:
        basis = fit_basis(sample, metric, AVERAGE_BITS[name]) if name in AVERAGE_BITS else None
        codec = make_codec(name, patches, dim, basis)
        found = _rank(codec, encoded, queries, weights, exact, device)
        exact = exact or found
        hits = exact_hits = None
        if right is not None:
            hits, exact_hits = best_ranks(found.scores, right), best_ranks(exact.scores, right)
        overlap = np.mean([len(np.intersect1d(a, b)) for a, b in zip(found.top.T, exact.top.T, strict=True)])
        yield CodecRow(
            name,
            codec.stride,
            None if hits is None else {k: float((hits < k).mean()) for k in (1, 5, 10)},
            None if hits is None or exact_hits is None else _interval(hits < TOP, exact_hits < TOP),
            float(overlap) / len(exact.top),
            float(iou(np.array(found.boxes, float), np.array(exact.boxes, float)).mean()),
            found.speed,
        )


@dataclass(frozen=True)
class _Ranked:
    scores: NDArray[np.float32]  # [N, T]
    top: NDArray[np.int64]  # [10, T]
    boxes: list[tuple[int, int, int, int]]  # of fp16's top 10 of every text
    speed: float


def _rank(
    codec: Codec,
    encoded: EncodedViews,
    queries: Sequence[EncodedText],
    weights: PoolWeights,
    exact: _Ranked | None,
    device: str,
) -> _Ranked:
    rows = codec.encode(encoded)
    reranker = TorchPool(codec.fold_weights(weights), device, spatial=codec.spatial)
    folded = [codec.fold(query) for query in queries]
    began = time.perf_counter()
    scores = np.concatenate([_score(codec, reranker, some, folded) for some in chunks(rows, _BATCH)])
    texts = np.stack([query.vector for query in queries])
    scores = with_global(scores, encoded.pooled, texts, weights.global_share)
    speed = scores.size / (time.perf_counter() - began)
    top = np.argsort(-scores, axis=0, kind="stable")[:TOP]
    boxes, locator, frame = [], Locator(weights), Frame(1000, 1000, 0, 0, 1000, 1000)
    for query, views in zip(queries, (exact.top if exact else top).T, strict=True):
        kept = codec.restore_all(rows[views], encoded.pooled[views])
        boxes += [locator.find(kept.only(i), frame, query)[1][0].box for i in range(len(views))]
    return _Ranked(scores, top, boxes, speed)


def _score(
    codec: Codec, reranker: TorchPool, rows: NDArray[np.uint8], queries: Sequence[EncodedText]
) -> NDArray[np.float32]:
    """Rows u8[n, stride] -> scores f32[n, T]; decoded once for all texts."""
    pieces = [codec.decode(rows)]
    parts = [reranker.score_many(pieces, some) for some in chunks(queries, _TEXTS)]
    return np.concatenate(parts, axis=1)


def _interval(found: NDArray[np.bool_], exact: NDArray[np.bool_]) -> tuple[float, float]:
    """95 % interval of the mean of found - exact over the texts, paired bootstrap."""
    differences = found.astype(np.float64) - exact
    rng = np.random.default_rng(0)
    means = [differences[rng.integers(len(differences), size=len(differences))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)
