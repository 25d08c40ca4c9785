"""Scores of all pairs of views and texts, and what retrieval finds by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.arrays import chunks
from flairsearch.core.errors import FlairSearchError
from flairsearch.core.types import EncodedText, EncodedViews, PoolWeights
from flairsearch.evaluate.results import RetrievalRow
from flairsearch.evaluate.retrieval_metrics import measure, rerank_views, topk_texts
from flairsearch.rerank.many_texts import TextBatchScorer
from flairsearch.shortlist.score_predictor import ANCHOR_TEXTS, FIT_SAMPLE_VIEWS, ScorePredictor, fit

GLOBAL = "global"  # the prefilter that is the cosine with the global token
FITTED = "fitted"  # and that of an index: scores predicted from fitted vectors (shortlist/score_predictor.py)
GROUP = 2048  # texts folded at once
BATCH = 256  # texts through the text tower at once


class PairScores:
    """Scores of all pairs, gathered piece by piece: tokens of a piece are all that is needed at once.

    exact f32[N, T] and prefilters[name] f32[N, T] stay: 4 N T bytes each (5,000 photos, 25,014 captions: 0.5 GB).
    """

    def __init__(
        self,
        views: int,
        texts: Sequence[str],
        groups: Iterable[Sequence[EncodedText]],
        weights: PoolWeights,
        device: str,
        fitted: FittedVectors,
    ) -> None:
        """groups: queries of the texts, each once (`encode_in_groups`): the same text scores the same, bit by bit.

        fitted: what predicts the scores of the same views.
        """
        self._many: list[TextBatchScorer] = []
        numbers: dict[str, int] = {}
        for queries in groups:
            self._many.append(TextBatchScorer(queries, weights, device))
            for query in queries:
                numbers[query.text] = len(numbers)
        vectors = np.concatenate([many.vectors for many in self._many])
        self._unit = (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).T
        self._columns = [numbers[text] for text in texts]
        self.global_share = weights.global_share
        self._fitted = fitted
        self._done, shape = 0, (views, len(texts))
        self.exact = np.empty(shape, np.float32)
        self.prefilters = {name: np.empty(shape, np.float32) for name in (GLOBAL, FITTED)}

    def add(self, encoded: EncodedViews) -> None:
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


class FittedVectors:
    """Of views that come piece by piece; fitted to the first of them."""

    def __init__(
        self,
        bank: Sequence[EncodedText],
        weights: PoolWeights,
        device: str,
        views: int,
        sample_views: int = FIT_SAMPLE_VIEWS,
        asked_texts: int = ANCHOR_TEXTS,
    ) -> None:
        """bank: queries of Encoder.bank. views: how many will come; the first `sample_views` are scored for all of it.

        All others are scored for `asked_texts` of its texts.
        """
        self._bank, self._weights, self._device = bank, weights, device
        self._texts = TextBatchScorer(bank, weights, device)
        self._sample, self._wanted = [np.zeros((0, len(bank)), np.float32)], min(views, sample_views)
        self._asked_texts = asked_texts
        self._codes: list[NDArray[np.int8]] = []
        self._fit: ScorePredictor | None = None

    def add(self, encoded: EncodedViews) -> None:
        """The next views."""
        scores = self._texts.score(encoded)
        if self._fit is not None:
            self._codes.append(self._fit.codes(scores))
            return
        self._sample.append(scores)
        if sum(map(len, self._sample)) >= self._wanted:
            sample = np.concatenate(self._sample)
            self._fit = fit(self._texts.vectors, sample, anchors=self._asked_texts)
            self._codes.append(self._fit.codes(sample[:, self._fit.anchors]))
            self._texts = TextBatchScorer([self._bank[i] for i in self._fit.anchors], self._weights, self._device)

    def predict(self, texts: NDArray[np.float32]) -> NDArray[np.float32]:
        """Text vectors f32[T, D] -> f32[N, T]."""
        assert self._fit is not None
        features = np.stack([self._fit.features(text) for text in texts], 1)
        return np.concatenate([codes.astype(np.float32) @ features for codes in self._codes])


def encode_in_groups(
    encode: Callable[[Sequence[str]], list[EncodedText]], texts: Sequence[str], group: int = GROUP, batch: int = BATCH
) -> Iterator[list[EncodedText]]:
    """Texts -> queries, each text once, `group` at once; of them, a batch at once goes through the model."""
    once = list(dict.fromkeys(texts))
    for part in chunks(once, group):
        yield [query for some in chunks(part, batch) for query in encode(some)]


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
