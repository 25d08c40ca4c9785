"""Stored tokens -> codes that predict scores (shortlist/score_predictor.py), for every view that has none yet."""

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
    """This number of views, evenly spaced, are scored for all prompts."""
    anchor_texts: int = ANCHOR_TEXTS
    """Every view is scored for this number of the prompts."""
    read_views: int = 32
    """The tokens of this number of views are in memory at once."""
    write_views: int = 512
    """The codes of this number of views are written at once."""


PREDICTOR_POLICY = PredictorPolicy()


def fit_views(snapshot: Snapshot, encoder: Encoder, policy: PredictorPolicy = PREDICTOR_POLICY) -> Iterator[int]:
    """Every view of a large index gets its codes; yields how many views have some. A small index gets none.

    Damaged views get none (flairsearch verify names them): wrong codes would stay when the views are repaired.
    For the one writer of the index. What was done stays when the run is cut off. Raises OSError.
    """
    if len(snapshot) > policy.exhaustive_views:
        with closing(Catalog(snapshot.folder)) as catalog:
            before = PredictorFile(snapshot.folder, snapshot.dim).size()
            yield from _fit_views(snapshot, catalog, encoder, policy)
            if PredictorFile(snapshot.folder, snapshot.dim).size() != before:
                catalog.commit(Changeset())  # Processes that have this state open look at the index again.


def refit_views(
    snapshot: Snapshot, encoder: Encoder, policy: PredictorPolicy = PREDICTOR_POLICY
) -> Iterator[tuple[int, int]]:
    """Every view gets new codes of a new predictor; yields (views done, views in all). For the one writer.

    Raises OSError.
    """
    PredictorFile(snapshot.folder, snapshot.dim).remove()
    for done in fit_views(snapshot, encoder, policy):
        yield done, len(snapshot)


def drop_lost(snapshot: Snapshot) -> None:
    """Remove codes of views that the catalogue does not have: an older catalogue may have been put back.

    For the one writer of the index, before it adds views: these may get the same ids. Raises OSError.
    """
    last = max((int(ids[-1]) for ids in (snapshot.views.id, snapshot.unreadable_views.id) if len(ids)), default=0)
    PredictorFile(snapshot.folder, snapshot.dim).drop_after(last, snapshot.generation)


def _fit_views(snapshot: Snapshot, catalog: Catalog, encoder: Encoder, policy: PredictorPolicy) -> Iterator[int]:
    file, ids = PredictorFile(snapshot.folder, snapshot.dim), snapshot.views.id
    predictor = file.load()
    if predictor is None:
        chosen = ids[np.linspace(0, len(ids) - 1, min(policy.sample_views, len(ids))).astype(np.int64)]
        scorer, parts = _prompt_scorer(encoder), []
        for piece in chunks(chosen, policy.read_views):
            parts.append(_score(snapshot, catalog, scorer, piece))
            yield 0
        chosen, sample = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        if not len(chosen):
            return
        predictor = fit(scorer.vectors, sample, anchors=policy.anchor_texts)
        drop_kept(snapshot, predictor)
        file.save(predictor)
        file.append(predictor, chosen, predictor.codes(sample[:, predictor.anchors]), snapshot.generation)
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
    """Scores views for all prompts."""
    from flairsearch.rerank.many_texts import TextBatchScorer  # Most commands do without torch.

    return TextBatchScorer(encoder.encode_prompts(), encoder.pool_weights, encoder.device)


def _anchor_scorer(encoder: Encoder, predictor: ScorePredictor) -> TextBatchScorer:
    """Scores views for the prompts that the codes are made from."""
    from flairsearch.rerank.many_texts import TextBatchScorer

    texts = encoder.fold(predictor.texts[predictor.anchors])
    return TextBatchScorer(texts, encoder.pool_weights, encoder.device)


def _score(
    snapshot: Snapshot, catalog: Catalog, scorer: TextBatchScorer, views: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """View ids i64[K] -> the ids of undamaged views i64[n], their scores f32[n, T]."""
    sums = catalog.checksums(views.tolist())
    views = views[~snapshot.damaged(views, np.array([sums[view] for view in views.tolist()], np.int64))]
    scores = scorer.score(snapshot.encoded(views))
    finite = np.isfinite(scores).all(1)
    return views[finite], scores[finite]
