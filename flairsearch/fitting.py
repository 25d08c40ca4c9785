"""Stored tokens -> fitted vectors: the scores of a bank of texts, for every view that has none yet (fit.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flairsearch.fit import fit
from flairsearch.fitted import Fitted
from flairsearch.reader import Reader
from flairsearch.settings import EXHAUSTIVE_VIEWS
from flairsearch.shortlist import last_places

SAMPLE_VIEWS = 2000  # that the axes are fitted to
_PIECE = 32  # views read at once
_ROWS = 512  # views a write


class Bank(Protocol):
    """Texts that score views (rerank_many.ManyTexts)."""

    vectors: NDArray[np.float32]  # [T, D]

    def score(self, tokens: NDArray[np.float16]) -> NDArray[np.float32]:
        """Tokens f16[n, P, D] -> f32[n, T]."""
        ...


MakeBank = Callable[[NDArray[np.float32] | None], Bank]  # of texts known by their vectors; None: of bank.texts()


def fit_views(reader: Reader, make_bank: MakeBank) -> Iterator[int]:
    """Every view of the index gets its vector, once there are too many to rank them all; yields how many are done.

    For the one writer of the index. What was done stays when the run is cut off. Raises OSError.
    """
    fitted, ids = Fitted(reader.folder, reader.dim), reader.views.id
    if len(ids) <= EXHAUSTIVE_VIEWS:
        return
    known, bank = fitted.fit(), None
    if known is None:
        bank, scores = make_bank(None), []
        chosen = ids[np.linspace(0, len(ids) - 1, min(SAMPLE_VIEWS, len(ids))).astype(np.int64)]
        for start in range(0, len(chosen), _PIECE):
            scores.append(bank.score(_tokens(reader, chosen[start : start + _PIECE])))
            yield 0
        known = fit(bank.vectors, np.concatenate(scores))
        fitted.start(known)
    missing = ids[last_places(fitted, known, fitted.rows(known, reader.generation), ids) < 0]
    if not len(missing):
        return
    bank = bank or make_bank(known.texts)
    for start in range(0, len(missing), _ROWS):
        some = missing[start : start + _ROWS]
        codes = []
        for first in range(0, len(some), _PIECE):
            codes.append(known.codes(bank.score(_tokens(reader, some[first : first + _PIECE]))))
            yield start + first
        fitted.append(known, some, np.concatenate(codes), reader.generation)


def _tokens(reader: Reader, views: NDArray[np.int64]) -> NDArray[np.float16]:
    return reader.encoded(views).tokens
