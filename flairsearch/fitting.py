"""Stored tokens -> fitted vectors, for every view that has none yet: exact scores of a bank of texts (fit.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flairsearch.fit import Fit, fit
from flairsearch.fitted import Fitted
from flairsearch.reader import Reader
from flairsearch.settings import EXHAUSTIVE_VIEWS
from flairsearch.shortlist import last_places

SAMPLE_VIEWS = 2000  # that are asked for the whole bank
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
    known = fitted.fit()
    if known is None:
        chosen = ids[np.linspace(0, len(ids) - 1, min(SAMPLE_VIEWS, len(ids))).astype(np.int64)]
        bank, scores = make_bank(None), []
        for piece in _pieces(chosen, _PIECE):
            scores.append(bank.score(_tokens(reader, piece)))
            yield 0
        sample = np.concatenate(scores)
        known = fit(bank.vectors, sample)
        fitted.start(known)
        fitted.append(known, chosen, known.codes(sample[:, known.asked]), reader.generation)
    missing = ids[last_places(fitted, known, fitted.rows(known, reader.generation), ids) < 0]
    if len(missing):
        yield from _append(reader, fitted, known, make_bank(known.texts[known.asked]), missing)


def _append(reader: Reader, fitted: Fitted, known: Fit, bank: Bank, views: NDArray[np.int64]) -> Iterator[int]:
    """The codes of views i64[n]; yields how many are done of all."""
    done = len(reader) - len(views)
    for rows in _pieces(views, _ROWS):
        codes = []
        for piece in _pieces(rows, _PIECE):
            codes.append(known.codes(bank.score(_tokens(reader, piece))))
            done += len(piece)
            yield done
        fitted.append(known, rows, np.concatenate(codes), reader.generation)


def _tokens(reader: Reader, views: NDArray[np.int64]) -> NDArray[np.float16]:
    return reader.encoded(views).tokens


def _pieces(views: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    yield from (views[i : i + size] for i in range(0, len(views), size))
