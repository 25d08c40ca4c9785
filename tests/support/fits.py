"""Fitted predictors of scores, and the codes that they give to views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flairsearch.core.types import EncodedViews
from flairsearch.rerank.many_texts import TextBatchScorer
from flairsearch.shortlist.build import PredictorPolicy, fit_views
from flairsearch.shortlist.predictor_file import PredictorFile
from flairsearch.shortlist.score_predictor import ScorePredictor
from flairsearch.shortlist.shortlist import last_places
from tests.support.bank_encoder import BankEncoder
from tests.support.fake import DIM
from tests.support.indexes import reading

SMALL = PredictorPolicy(exhaustive_views=10, sample_views=20, read_views=7, write_views=14)
Codes = dict[int, list[int]]


def a_fit(seed: int, width: int, dim: int) -> ScorePredictor:
    """A fit of random numbers: codes of `width` for vectors of `dim`."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Any:
        return rng.normal(size=shape).astype(np.float32)

    return ScorePredictor(
        draw(8, dim), np.arange(8), draw(8, width), draw(width), draw(8, width - 1), np.abs(draw(width))
    )


class Counting:
    """The real bank with small thresholds, and how many views were asked."""

    def __init__(self, encoder: BankEncoder | None = None, policy: PredictorPolicy = SMALL) -> None:
        self.policy = policy
        self._encoder, self.views, self.made = encoder or BankEncoder(), 0, 0

    def __call__(self, vectors: np.ndarray | None) -> Any:
        queries = self._encoder.bank() if vectors is None else self._encoder.fold(vectors)
        self._many, self.vectors = (
            TextBatchScorer(queries, self._encoder.pool_weights),
            np.stack([q.vector for q in queries]),
        )
        self.made += 1
        return self

    def score(self, encoded: EncodedViews) -> Any:
        self.views += len(encoded.tokens)
        return self._many.score(encoded)


def fit_all(index: Path, bank: Any = None) -> list[int]:
    """Fit what has no codes yet; how many views had them after each step."""
    with reading(index) as reader:
        return list(fit_views(reader, bank or Counting()))


def codes(index: Path) -> Codes:
    """Of each view that the index has, as a reader finds them."""
    with reading(index) as reader:
        fitted, ids = PredictorFile(index, DIM), reader.views.id
        fit = fitted.load()
        if fit is None:
            return {}
        rows = fitted.rows(fit, reader.generation)
        places = last_places(fitted, fit, rows, ids)
        return {int(view): rows["codes"][at].tolist() for view, at in zip(ids, places, strict=True) if at >= 0}
