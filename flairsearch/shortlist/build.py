"""Stored tokens -> fitted vectors, for every view that has none yet.

They are fitted to exact scores of a bank of texts (shortlist/score_predictor.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.arrays import chunks
from flairsearch.core.settings import EXHAUSTIVE_VIEWS
from flairsearch.core.types import EncodedViews
from flairsearch.shortlist.predictor_file import PredictorFile
from flairsearch.shortlist.score_predictor import ANCHOR_TEXTS, FIT_SAMPLE_VIEWS, fit
from flairsearch.shortlist.shortlist import drop_kept, last_places
from flairsearch.store.catalog import Catalog
from flairsearch.store.changeset import Changeset
from flairsearch.store.snapshot import Snapshot


@dataclass(frozen=True)
class PredictorPolicy:
    """The thresholds of making fitted vectors."""

    exhaustive_views: int = EXHAUSTIVE_VIEWS
    """An index of at most this number of views has no fitted vectors."""
    sample_views: int = FIT_SAMPLE_VIEWS
    """This number of views, evenly spaced, are scored for the whole bank."""
    asked_texts: int = ANCHOR_TEXTS
    """Every view is scored for this number of the bank's texts."""
    read_views: int = 32
    """The tokens of this number of views are in memory at once."""
    write_views: int = 512
    """The codes of this number of views are written at once."""


class Bank(Protocol):
    """Texts that score views (many_texts.ManyTexts)."""

    vectors: NDArray[np.float32]  # [T, D]

    def score(self, encoded: EncodedViews) -> NDArray[np.float32]:
        """n views -> f32[n, T]."""
        ...


class MakeBank(Protocol):
    """Makes banks, and says from how many views on they are wanted."""

    @property
    def policy(self) -> PredictorPolicy:
        """The thresholds of making fitted vectors."""
        ...

    def __call__(self, vectors: NDArray[np.float32] | None) -> Bank:
        """The bank of the texts with these vectors f32[T, D]; None: of all texts of model/prompts.py."""
        ...


def fit_views(reader: Snapshot, make_bank: MakeBank) -> Iterator[int]:
    """Every view of the index gets its vector, once there are too many to rank them all; yields how many are done.

    Damaged ones get none (flairsearch verify names them): their scores would stay when they are repaired.
    For the one writer of the index. What was done stays when the run is cut off. Raises OSError.
    """
    if len(reader) > make_bank.policy.exhaustive_views:
        with closing(Catalog(reader.folder)) as catalog:
            before = PredictorFile(reader.folder, reader.dim).size()
            yield from _fit_views(reader, catalog, make_bank)
            if PredictorFile(reader.folder, reader.dim).size() != before:
                catalog.commit(Changeset())  # who has this state open looks at the index again


def refit_views(reader: Snapshot, make_bank: MakeBank) -> Iterator[tuple[int, int]]:
    """Every view gets its vector anew; yields (views done, views in all). For the one writer. Raises OSError."""
    PredictorFile(reader.folder, reader.dim).remove()
    for done in fit_views(reader, make_bank):
        yield done, len(reader)


def drop_lost(reader: Snapshot) -> None:
    """Codes of views that the index does not have yet: they are of a future that a backup put back has not.

    For the one writer of the index, before it adds views: those get the ids again. Raises OSError.
    """
    last = max((int(ids[-1]) for ids in (reader.views.id, reader.lost.id) if len(ids)), default=0)
    PredictorFile(reader.folder, reader.dim).drop_after(last, reader.generation)


def _fit_views(reader: Snapshot, catalog: Catalog, make_bank: MakeBank) -> Iterator[int]:
    fitted, ids, policy = PredictorFile(reader.folder, reader.dim), reader.views.id, make_bank.policy
    known = fitted.load()
    if known is None:
        chosen = ids[np.linspace(0, len(ids) - 1, min(policy.sample_views, len(ids))).astype(np.int64)]
        bank, parts = make_bank(None), []
        for piece in chunks(chosen, policy.read_views):
            parts.append(_score(reader, catalog, bank, piece))
            yield 0
        chosen, sample = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        if not len(chosen):
            return
        known = fit(bank.vectors, sample, anchors=policy.asked_texts)
        drop_kept(reader, known)
        fitted.save(known)
        fitted.append(known, chosen, known.codes(sample[:, known.anchors]), reader.generation)
    missing = ids[last_places(fitted, known, fitted.rows(known, reader.generation), ids) < 0]
    if len(missing):
        drop_kept(reader, known)
        bank, done = make_bank(known.texts[known.anchors]), len(ids) - len(missing)
        for rows in chunks(missing, policy.write_views):
            parts = []
            for piece in chunks(rows, policy.read_views):
                parts.append(_score(reader, catalog, bank, piece))
                done += len(piece)
                yield done
            views, scores = (np.concatenate(columns) for columns in zip(*parts, strict=True))
            fitted.append(known, views, known.codes(scores), reader.generation)


def _score(
    reader: Snapshot, catalog: Catalog, bank: Bank, views: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """View ids i64[K] -> those that are whole i64[n], their scores f32[n, T]."""
    sums = catalog.checksums(views.tolist())
    views = views[~reader.damaged(views, np.array([sums[view] for view in views.tolist()], np.int64))]
    scores = bank.score(reader.encoded(views))
    finite = np.isfinite(scores).all(1)
    return views[finite], scores[finite]
