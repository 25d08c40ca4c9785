"""Scores of all pairs of views and texts; and what a codec costs and loses.

Of a codec: bytes, recall, the exact top 10, boxes, speed - each against fp16. The rule for the default: the smallest
codec whose R@10 stays within 0.5 points of fp16's, on photos and on mosaics, and whose top 10 holds at least 95 % of
fp16's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flairsearch.basis import BASIS_SAMPLE_VIEWS, fit_basis
from flairsearch.codec import AVERAGE_BITS, Codec, make_codec
from flairsearch.errors import FlairSearchError
from flairsearch.fit import FIT_SAMPLE_VIEWS, Fit, fit
from flairsearch.localization import iou
from flairsearch.locate import Locator
from flairsearch.records import Encoded, Frame, PoolWeights, Query
from flairsearch.rerank import with_global
from flairsearch.rerank_many import ManyTexts
from flairsearch.rerank_torch import Reranker
from flairsearch.results import CodecRow, RetrievalRow
from flairsearch.retrieval import best_ranks, measure, rerank_views, topk_texts

GLOBAL = "global"  # the prefilter that is the cosine with the global token
FITTED = "fitted"  # and that of an index: scores predicted from fitted vectors (fit.py)
GROUP = 2048  # texts folded at once
CODECS = ("fp16", "int8", "q4", "q2", "q1")
TOP = 10
RESAMPLES = 2000  # of the bootstrap
_BATCH = 32
_ENCODED = 256  # texts through the text tower at once
_TEXTS = 64  # scored at once


class PairScores:
    """Scores of all pairs, gathered piece by piece: tokens of a piece are all that is needed at once.

    exact f32[N, T] and prefilters[name] f32[N, T] stay: 4 N T bytes each (5,000 photos, 25,014 captions: 0.5 GB).
    """

    def __init__(
        self,
        views: int,
        texts: Sequence[str],
        groups: Iterable[Sequence[Query]],
        weights: PoolWeights,
        device: str,
        bank: Sequence[Query],
    ) -> None:
        """groups: queries of the texts, each once (`encode_in_groups`): the same text scores the same, bit by bit.

        bank: those of Encoder.bank, that the fitted vectors are fitted to.
        """
        self._many: list[ManyTexts] = []
        numbers: dict[str, int] = {}
        for queries in groups:
            self._many.append(ManyTexts(queries, weights, device))
            for query in queries:
                numbers[query.text] = len(numbers)
        vectors = np.concatenate([many.vectors for many in self._many])
        self._unit = (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).T
        self._columns = [numbers[text] for text in texts]
        self.global_share = weights.global_share
        self._fitted = _FittedVectors(bank, weights, device, views)
        self._done, shape = 0, (views, len(texts))
        self.exact = np.empty(shape, np.float32)
        self.prefilters = {name: np.empty(shape, np.float32) for name in (GLOBAL, FITTED)}

    def add(self, encoded: Encoded) -> None:
        """The next views. Raises FlairSearchError where a score is no number."""
        here = slice(self._done, self._done + len(encoded.tokens))
        self.exact[here] = np.concatenate([many.score(encoded) for many in self._many], 1)[:, self._columns]
        near = self.prefilters[GLOBAL]
        near[here] = (encoded.pooled.astype(np.float32) @ self._unit)[:, self._columns]
        if not all(np.isfinite(scores[here]).all() for scores in (self.exact, near)):
            raise FlairSearchError("scores are no numbers - the model's weights are damaged: take another --model")
        self._fitted.add(encoded)
        self._done = here.stop
        if self._done == len(self.exact):
            self.prefilters[FITTED][:] = self._fitted.predict(self._unit.T)[:, self._columns]


class _FittedVectors:
    """Of views that come piece by piece; fitted to the first of them."""

    def __init__(self, bank: Sequence[Query], weights: PoolWeights, device: str, views: int) -> None:
        self._bank, self._weights, self._device = bank, weights, device
        self._texts = ManyTexts(bank, weights, device)
        self._sample, self._wanted = [np.zeros((0, len(bank)), np.float32)], min(views, FIT_SAMPLE_VIEWS)
        self._codes: list[NDArray[np.int8]] = []
        self._fit: Fit | None = None

    def add(self, encoded: Encoded) -> None:
        """The next views: of the sample, until that is whole and fitted to; then their codes are kept."""
        scores = self._texts.score(encoded)
        if self._fit is not None:
            self._codes.append(self._fit.codes(scores))
            return
        self._sample.append(scores)
        if sum(map(len, self._sample)) >= self._wanted:
            sample = np.concatenate(self._sample)
            self._fit = fit(self._texts.vectors, sample)
            self._codes.append(self._fit.codes(sample[:, self._fit.asked]))
            self._texts = ManyTexts([self._bank[i] for i in self._fit.asked], self._weights, self._device)

    def predict(self, texts: NDArray[np.float32]) -> NDArray[np.float32]:
        """Text vectors f32[T, D] -> f32[N, T]."""
        assert self._fit is not None
        features = np.stack([self._fit.features(text) for text in texts], 1)
        return np.concatenate([codes.astype(np.float32) @ features for codes in self._codes])


def encode_in_groups(encode: Callable[[Sequence[str]], list[Query]], texts: Sequence[str]) -> Iterator[list[Query]]:
    """Texts -> queries, each text once, GROUP at once; of them, a batch at once goes through the model."""
    once = list(dict.fromkeys(texts))
    for start in range(0, len(once), GROUP):
        group = once[start : start + GROUP]
        yield [query for i in range(0, len(group), _ENCODED) for query in encode(group[i : i + _ENCODED])]


def retrieval(
    scores: PairScores, right: NDArray[np.bool_], rerank: int | None = None, topk: int | None = None
) -> Iterator[RetrievalRow]:
    """The sum where photos are ranked by it, full and global mode; and, where asked for, two modes with a bound.

    rerank: so many views a text are ranked exactly; topk: the reference's mode of so many texts an image.
    right bool[N, T]: which views answer which text. Full scores are cosines; exp(logit_scale) times them ranks alike.
    """
    near = scores.prefilters[GLOBAL]
    share = scores.global_share
    if share:
        yield from measure("sum", scores.exact, right)
        yield from measure("full", ((scores.exact - share * near) / (1 - share)).astype(np.float32), right)
    else:
        yield from measure("full", scores.exact, right)
    yield from measure("global", near, right)
    if rerank:
        yield from measure(f"rerank {rerank:,} views a text", rerank_views(scores.exact, near, rerank), right)
    if topk:
        yield from measure(f"top {topk:,} texts an image", topk_texts(scores.exact, near, topk), right)


def compare_codecs(
    encoded: Encoded,
    queries: Sequence[Query],
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
    encoded: Encoded,
    queries: Sequence[Query],
    weights: PoolWeights,
    exact: _Ranked | None,
    device: str,
) -> _Ranked:
    rows = codec.encode(encoded)
    reranker = Reranker(codec.fold_weights(weights), device, spatial=codec.spatial)
    folded = [codec.fold(query) for query in queries]
    began = time.perf_counter()
    scores = np.concatenate(
        [_score(codec, reranker, rows[i : i + _BATCH], folded) for i in range(0, len(rows), _BATCH)]
    )
    texts = np.stack([query.vector for query in queries])
    scores = with_global(scores, encoded.pooled, texts, weights.global_share)
    speed = scores.size / (time.perf_counter() - began)
    top = np.argsort(-scores, axis=0, kind="stable")[:TOP]
    boxes, locator, frame = [], Locator(weights), Frame(1000, 1000, 0, 0, 1000, 1000)
    for query, views in zip(queries, (exact.top if exact else top).T, strict=True):
        kept = codec.restore_all(rows[views], encoded.pooled[views])
        boxes += [locator.find(kept.only(i), frame, query)[1][0].box for i in range(len(views))]
    return _Ranked(scores, top, boxes, speed)


def _score(codec: Codec, reranker: Reranker, rows: NDArray[np.uint8], queries: Sequence[Query]) -> NDArray[np.float32]:
    """Rows u8[n, stride] -> scores f32[n, T]; decoded once for all texts."""
    pieces = [codec.decode(rows)]
    parts = [reranker.score_many(pieces, queries[i : i + _TEXTS]) for i in range(0, len(queries), _TEXTS)]
    return np.concatenate(parts, axis=1)


def _interval(found: NDArray[np.bool_], exact: NDArray[np.bool_]) -> tuple[float, float]:
    """95 % interval of the mean of found - exact over the texts, paired bootstrap."""
    differences = found.astype(np.float64) - exact
    rng = np.random.default_rng(0)
    means = [differences[rng.integers(len(differences), size=len(differences))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)
