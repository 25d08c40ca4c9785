"""Fitted predictors of scores, and the codes that they give to views."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flairsearch.core.types import EncodedText, EncodedViews
from flairsearch.rerank.many_texts import TextBatchScorer
from flairsearch.shortlist.build import PredictorPolicy, fit_views
from flairsearch.shortlist.predictor_file import PredictorFile
from flairsearch.shortlist.score_predictor import ScorePredictor
from flairsearch.shortlist.shortlist import last_places
from tests.support.bank_encoder import BankEncoder, SumEncoder
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


class Counting(BankEncoder):
    """Counts the views that are scored, and the sets of texts that they are scored for."""

    def __init__(self) -> None:
        super().__init__()
        self.views, self.made = 0, 0

    def encode_prompts(self) -> list[EncodedText]:
        self.made += 1
        return super().fold(self._bank)

    def fold(self, vectors: np.ndarray) -> list[EncodedText]:
        self.made += 1
        return super().fold(vectors)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Within, scored views are counted."""
        score = TextBatchScorer.score

        def counted(scorer: TextBatchScorer, encoded: EncodedViews) -> Any:
            self.views += len(encoded.tokens)
            return score(scorer, encoded)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TextBatchScorer, "score", counted)
            yield


class SumCounting(Counting, SumEncoder):
    """Its photos rank by the mean of both cosines."""


def fit_all(index: Path, encoder: Counting | None = None, policy: PredictorPolicy = SMALL) -> list[int]:
    """Fit what has no codes yet; how many views had them after each step."""
    counting = encoder or Counting()
    with reading(index) as reader, counting.counting():
        return list(fit_views(reader, counting, policy))


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
