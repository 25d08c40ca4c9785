"""Score all pairs of views and texts, and measure retrieval with these scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.arrays import chunks
from flairsearch.core.errors import FlairSearchError
from flairsearch.core.types import EncodedText, EncodedViews, PoolWeights
from flairsearch.evaluate.results import RetrievalRow
from flairsearch.evaluate.retrieval_metrics import measure_retrieval, rerank_views, topk_texts
from flairsearch.rerank.many_texts import TextBatchScorer
from flairsearch.shortlist.score_predictor import ANCHOR_TEXTS, FIT_SAMPLE_VIEWS, ScorePredictor, fit

GLOBAL = "global"  # Name of the prefilter that is the cosine with the global token.
FITTED = "fitted"  # Name of the prefilter that predicts scores from fitted vectors (shortlist/score_predictor.py).
GROUP_TEXTS = 2048  # Texts folded at once, to bound memory.
ENCODE_TEXTS = 256  # Texts that go through the text tower at once, to bound memory.


class PairScores:
    """Scores of all pairs of N views and T texts, computed batch by batch of the views.

    exact: f32[N, T]. prefilters: f32[N, T] by name. Each takes 4 N T bytes (5,000 photos and 25,014 captions: 0.5 GB);
    of the tokens only one batch is needed at once.
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
        """Prepare the scorers.

        groups: the encoded texts, each distinct text once (`encode_in_groups`), so that the same text always gets
        bit-identical scores. fitted: predicts the scores of the same views.
        """
        self._scorers: list[TextBatchScorer] = []
        numbers: dict[str, int] = {}
        for queries in groups:
            self._scorers.append(TextBatchScorer(queries, weights, device))
            for query in queries:
                numbers[query.text] = len(numbers)
        vectors = np.concatenate([scorer.vectors for scorer in self._scorers])
        self._unit_vectors = (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).T
        self._columns = [numbers[text] for text in texts]
        self.global_share = weights.global_share
        self._fitted = fitted
        self._scored, shape = 0, (views, len(texts))
        self.exact = np.empty(shape, np.float32)
        self.prefilters = {name: np.empty(shape, np.float32) for name in (GLOBAL, FITTED)}

    def add(self, encoded: EncodedViews) -> None:
        """Score the next views. Raises FlairSearchError when a score is not a finite number."""
        rows = slice(self._scored, self._scored + len(encoded.tokens))
        self.exact[rows] = np.concatenate([scorer.score(encoded) for scorer in self._scorers], 1)[:, self._columns]
        global_scores = self.prefilters[GLOBAL]
        global_scores[rows] = (encoded.pooled.astype(np.float32) @ self._unit_vectors)[:, self._columns]
        if not all(np.isfinite(scores[rows]).all() for scores in (self.exact, global_scores)):
            raise FlairSearchError(
                "scores are not finite numbers - the model's weights are damaged: take another --model"
            )
        self._fitted.add(encoded)
        self._scored = rows.stop
        if self._scored == len(self.exact):
            self.prefilters[FITTED][:] = self._fitted.predict(self._unit_vectors.T)[:, self._columns]


class FittedVectors:
    """Fitted vectors of views that arrive in batches. The score predictor is fitted to the first views."""

    def __init__(
        self,
        bank: Sequence[EncodedText],
        weights: PoolWeights,
        device: str,
        views: int,
        sample_views: int = FIT_SAMPLE_VIEWS,
        anchor_texts: int = ANCHOR_TEXTS,
    ) -> None:
        """Prepare the bank's scorer.

        bank: the encoded prompt bank. views: how many views will come. The first `sample_views` are scored for the
        whole bank, all others only for its `anchor_texts` anchors.
        """
        self._bank, self._weights, self._device = bank, weights, device
        self._scorer = TextBatchScorer(bank, weights, device)
        self._sample, self._sample_views = [np.zeros((0, len(bank)), np.float32)], min(views, sample_views)
        self._anchor_texts = anchor_texts
        self._codes: list[NDArray[np.int8]] = []
        self._predictor: ScorePredictor | None = None

    def add(self, encoded: EncodedViews) -> None:
        """Add the next views; fit the predictor once the sample is complete."""
        scores = self._scorer.score(encoded)
        if self._predictor is not None:
            self._codes.append(self._predictor.codes(scores))
            return
        self._sample.append(scores)
        if sum(map(len, self._sample)) >= self._sample_views:
            sample = np.concatenate(self._sample)
            self._predictor = fit(self._scorer.vectors, sample, anchors=self._anchor_texts)
            self._codes.append(self._predictor.codes(sample[:, self._predictor.anchors]))
            anchors = [self._bank[i] for i in self._predictor.anchors]
            self._scorer = TextBatchScorer(anchors, self._weights, self._device)

    def predict(self, texts: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predict the scores f32[N, T] of all views for text vectors f32[T, D]."""
        assert self._predictor is not None
        features = np.stack([self._predictor.features(text) for text in texts], 1)
        return np.concatenate([codes.astype(np.float32) @ features for codes in self._codes])


def encode_in_groups(
    encode: Callable[[Sequence[str]], list[EncodedText]],
    texts: Sequence[str],
    group: int = GROUP_TEXTS,
    batch: int = ENCODE_TEXTS,
) -> Iterator[list[EncodedText]]:
    """Encode each distinct text once, and yield the encoded texts in groups.

    group: texts per group. batch: texts that go through the model at once.
    """
    distinct = list(dict.fromkeys(texts))
    for part in chunks(distinct, group):
        yield [query for some_texts in chunks(part, batch) for query in encode(some_texts)]


def evaluate_retrieval(
    scores: PairScores, relevant: NDArray[np.bool_], rerank: int | None = None, topk: int | None = None
) -> Iterator[RetrievalRow]:
    """Measure the full and the global scores, their sum where the model ranks by it, and two optional bounded modes.

    relevant: bool[N, T], which views are relevant to which text. rerank: views per text that are ranked exactly. topk:
    texts per image of the reference's top-k mode. Full scores are cosines; exp(logit_scale) times them ranks alike.
    """
    global_scores = scores.prefilters[GLOBAL]
    share = scores.global_share
    if share:
        full = ((scores.exact - share * global_scores) / (1 - share)).astype(np.float32)
        yield from measure_retrieval("sum", scores.exact, relevant)
        yield from measure_retrieval("full", full, relevant)
    else:
        yield from measure_retrieval("full", scores.exact, relevant)
    yield from measure_retrieval("global", global_scores, relevant)
    if rerank:
        reranked = rerank_views(scores.exact, global_scores, rerank)
        yield from measure_retrieval(f"rerank {rerank:,} views a text", reranked, relevant)
    if topk:
        top = topk_texts(scores.exact, global_scores, topk)
        yield from measure_retrieval(f"top {topk:,} texts an image", top, relevant)
