"""Compute the codes that predict scores (shortlist/score_predictor.py) from stored tokens, for views without codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.arrays import chunks
from flairsearch.core.protocols import Encoder
from flairsearch.core.settings import MAX_EXHAUSTIVE_VIEWS
from flairsearch.shortlist.predictor_file import PredictorFile
from flairsearch.shortlist.score_predictor import ANCHOR_TEXTS, FIT_SAMPLE_VIEWS, ScorePredictor, fit
from flairsearch.shortlist.shortlist import drop_kept, last_places
from flairsearch.store.catalog import Catalog
from flairsearch.store.changeset import Changeset
from flairsearch.store.snapshot import Snapshot

if TYPE_CHECKING:
    from flairsearch.rerank.many_texts import TextBatchScorer


@dataclass(frozen=True)
class PredictorPolicy:
    """The thresholds of fitting a score predictor."""

    exhaustive_views: int = MAX_EXHAUSTIVE_VIEWS
    """An index of at most this number of views has no predictor."""
    sample_views: int = FIT_SAMPLE_VIEWS
    """The predictor is fitted to the scores of this number of evenly spaced views for all prompts."""
    anchor_texts: int = ANCHOR_TEXTS
    """The codes of a view are computed from its scores for this number of prompts, the anchors."""
    read_views: int = 32
    """The tokens of this number of views are in memory at once."""
    write_views: int = 512
    """The codes of this number of views are written at once."""


PREDICTOR_POLICY = PredictorPolicy()


def fit_views(snapshot: Snapshot, encoder: Encoder, policy: PredictorPolicy = PREDICTOR_POLICY) -> Iterator[int]:
    """Compute the missing codes of a large index; yield the number of views that have codes. A small index gets none.

    Damaged views get no codes, since wrong codes would stay after the views are repaired. Only the writer of the index
    may call this; an interrupted run keeps what it has done. Raises OSError.
    """
    if len(snapshot) > policy.exhaustive_views:
        with closing(Catalog(snapshot.folder)) as catalog:
            old_size = PredictorFile(snapshot.folder, snapshot.dim).size()
            yield from _fit_views(snapshot, catalog, encoder, policy)
            if PredictorFile(snapshot.folder, snapshot.dim).size() != old_size:
                catalog.commit(Changeset())  # An empty commit makes other processes open the index again.


def refit_views(
    snapshot: Snapshot, encoder: Encoder, policy: PredictorPolicy = PREDICTOR_POLICY
) -> Iterator[tuple[int, int]]:
    """Fit a new predictor and compute all codes again; yield (views done, views in all).

    Only the writer of the index may call this. Raises OSError.
    """
    PredictorFile(snapshot.folder, snapshot.dim).remove()
    for done in fit_views(snapshot, encoder, policy):
        yield done, len(snapshot)


def drop_lost(snapshot: Snapshot) -> None:
    """Remove codes of views that the catalogue does not have, for example after a backup of it was restored.

    The writer of the index must call this before it adds views, which may get the same ids. Raises OSError.
    """
    last = max((int(ids[-1]) for ids in (snapshot.views.id, snapshot.unreadable_views.id) if len(ids)), default=0)
    PredictorFile(snapshot.folder, snapshot.dim).drop_after(last, snapshot.generation)


def _fit_views(snapshot: Snapshot, catalog: Catalog, encoder: Encoder, policy: PredictorPolicy) -> Iterator[int]:
    file, ids = PredictorFile(snapshot.folder, snapshot.dim), snapshot.views.id
    predictor = file.load()
    if predictor is None:
        sample_ids = ids[np.linspace(0, len(ids) - 1, min(policy.sample_views, len(ids))).astype(np.int64)]
        scorer, parts = _prompt_scorer(encoder), []
        for piece in chunks(sample_ids, policy.read_views):
            parts.append(_score(snapshot, catalog, scorer, piece))
            yield 0
        sample_ids, sample = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        if not len(sample_ids):
            return
        predictor = fit(scorer.vectors, sample, anchors=policy.anchor_texts)
        drop_kept(snapshot, predictor)
        file.save(predictor)
        file.append(predictor, sample_ids, predictor.codes(sample[:, predictor.anchors]), snapshot.generation)
    missing = ids[last_places(file, predictor, file.rows(predictor, snapshot.generation), ids) < 0]
    if len(missing):
        drop_kept(snapshot, predictor)
        scorer, done = _anchor_scorer(encoder, predictor), len(ids) - len(missing)
        for rows in chunks(missing, policy.write_views):
            parts = []
            for piece in chunks(rows, policy.read_views):
                parts.append(_score(snapshot, catalog, scorer, piece))
                done += len(piece)
                yield done
            views, scores = (np.concatenate(columns) for columns in zip(*parts, strict=True))
            file.append(predictor, views, predictor.codes(scores), snapshot.generation)


def _prompt_scorer(encoder: Encoder) -> TextBatchScorer:
    """Return a scorer for all prompts."""
    from flairsearch.rerank.many_texts import TextBatchScorer  # Most commands do not need torch.

    return TextBatchScorer(encoder.encode_prompts(), encoder.pool_weights, encoder.device)


def _anchor_scorer(encoder: Encoder, predictor: ScorePredictor) -> TextBatchScorer:
    """Return a scorer for the anchors, the prompts that codes are computed from."""
    from flairsearch.rerank.many_texts import TextBatchScorer

    texts = encoder.fold(predictor.texts[predictor.anchors])
    return TextBatchScorer(texts, encoder.pool_weights, encoder.device)


def _score(
    snapshot: Snapshot, catalog: Catalog, scorer: TextBatchScorer, views: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the undamaged views i64[n] among view ids i64[K], and their scores f32[n, T]."""
    sums = catalog.checksums(views.tolist())
    views = views[~snapshot.damaged(views, np.array([sums[view] for view in views.tolist()], np.int64))]
    scores = scorer.score(snapshot.encoded(views))
    finite = np.isfinite(scores).all(1)
    return views[finite], scores[finite]
