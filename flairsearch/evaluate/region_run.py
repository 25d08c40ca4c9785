"""Measure regions: relevant view and correct box over a gallery, and heat maps given the relevant view.

The controls stand beside the search's own regions, because a figure means nothing without them.
The views are scored in one pass, which writes their tokens to a temporary file (evaluate/spill_file.py) and keeps the
best views of each text. Only relevant views are then read again for their maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.errors import FlairSearchError
from flairsearch.core.types import EncodedText, EncodedViews, Frame, PoolWeights
from flairsearch.evaluate import region_metrics
from flairsearch.evaluate.galleries import BoxGallery
from flairsearch.evaluate.region_metrics import Boxes
from flairsearch.evaluate.results import GroundTruth, RegionRow
from flairsearch.evaluate.spill_file import SpillFile
from flairsearch.regions.boxes import find_boxes, find_heat
from flairsearch.regions.locator import Locator
from flairsearch.rerank.many_texts import TextBatchScorer

RANKED_VIEWS = region_metrics.PRECISION_K  # Views of each text whose rank is kept: all that the metrics look at.
_WHOLE_BOX = (0.0, 0.0, 1.0, 1.0)
_CENTRE_BOX = (0.25, 0.25, 0.75, 0.75)
_HALVES = ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0))
_QUADRANTS = ((0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 0.5), (0.0, 0.5, 0.5, 1.0), (0.5, 0.5, 1.0, 1.0))

HeatMap = NDArray[np.float32]
Prediction = tuple[HeatMap, Boxes]  # A map f32[G, G], not negative, and the first box [4] in view coordinates.
Predict = Callable[[EncodedViews, Frame, EncodedText], Prediction]


def region_to_prediction(locator: Locator, encoded: EncodedViews, frame: Frame, query: EncodedText) -> Prediction:
    """Locate a text in one view as a search does: its heat map, and the box of its best region."""
    heat, found = locator.find(encoded, frame, query)
    return np.maximum(heat, 0), np.array(frame.to_view(found[0].box))


def map_to_prediction(
    values_of: Callable[[EncodedViews, EncodedText], HeatMap], encoded: EncodedViews, _: Frame, query: EncodedText
) -> Prediction:
    """Control: use one map f32[1, P] alone and unchanged, with a box that is made as a search makes its boxes."""
    values = values_of(encoded, query)[0]
    grid = round(len(values) ** 0.5)
    box = find_boxes(find_heat(values, np.zeros_like(values)))[0]
    return np.maximum(values, 0).reshape(grid, grid), np.array(box, np.float64)


@dataclass(frozen=True)
class _Pairs:
    """Q pairs of a text and a relevant view that is among the text's first RANKED_VIEWS, or was annotated with it.

    view, text: i64[Q], numbers. rank: i64[Q], from 0; RANKED_VIEWS when the view ranks behind. annotated: bool[Q],
    whether the pair was annotated. truth: Q arrays f64[M, 4], true boxes in view coordinates.
    """

    view: NDArray[np.int64]
    text: NDArray[np.int64]
    rank: NDArray[np.int64]
    annotated: NDArray[np.bool_]
    truth: list[Boxes]


def evaluate_regions(
    gallery: BoxGallery,
    groups: Iterable[Sequence[EncodedText]],
    weights: PoolWeights,
    device: str = "cpu",
) -> Iterator[RegionRow]:
    """Yield the row of the search's regions, then the rows of the controls.

    groups: the encoded texts, each distinct text once (retrieval_run.encode_in_groups). The control with a wrong text
    takes a text that has no box in the view; it is left out when some view has no such text.
    Raises FlairSearchError when a score is not a finite number, or the disk has no room for the views.
    """
    query_groups = [list(group) for group in groups]
    queries = [query for group in query_groups for query in group]
    numbers = {query.text: number for number, query in enumerate(queries)}
    query_of_text = np.array([numbers[text] for text in gallery.texts])
    with SpillFile() as spill_file:
        scorers = [TextBatchScorer(group, weights, device) for group in query_groups]
        best, frames = _rank_views(gallery.encoded, scorers, spill_file)
        pairs = _relevant_pairs(gallery.truth, best[:, query_of_text], frames)
        locator = Locator(weights)
        predict = partial(_predict_pairs, spill_file, queries, frames, pairs.view)
        right, wrong = query_of_text[pairs.text], _wrong_texts(gallery.truth, pairs)
        measure = partial(_map_row, pairs, len(gallery.texts))
        yield measure("regions", predict(right, partial(region_to_prediction, locator)))
        if wrong is not None:
            yield measure("of a wrong text", predict(query_of_text[wrong], partial(region_to_prediction, locator)))
        yield measure("of attention alone", predict(right, partial(map_to_prediction, locator.attend)))
        yield measure("of patch cosine alone", predict(right, partial(map_to_prediction, locator.patch_similarity)))
        yield from _control_rows(pairs, len(gallery.texts), round(spill_file.patches**0.5))


def _rank_views(
    batches: Iterable[tuple[EncodedViews, list[Frame]]], scorers: Sequence[TextBatchScorer], spill_file: SpillFile
) -> tuple[NDArray[np.int64], list[Frame]]:
    """Write N views to the spill file; return each query's best views, i64[min(RANKED_VIEWS, N), U], and all frames.

    Views rank by exact score, ties by number.
    """
    frames: list[Frame] = []
    scores, views = np.zeros((0, 0), np.float32), np.zeros((0, 0), np.int64)
    for encoded, batch_frames in batches:
        new = np.concatenate([scorer.score(encoded) for scorer in scorers], 1)
        if not np.isfinite(new).all():
            raise FlairSearchError(
                "scores are not finite numbers - the model's weights are damaged: take another --model"
            )
        number = np.broadcast_to(np.arange(len(frames), len(frames) + len(new))[:, None], new.shape)
        if frames:
            new, number = np.concatenate([scores, new]), np.concatenate([views, number])
        order = np.argsort(-new, axis=0, kind="stable")[:RANKED_VIEWS]
        scores, views = np.take_along_axis(new, order, 0), np.take_along_axis(number, order, 0)
        frames += batch_frames
        spill_file.add(encoded)
    return views, frames


def _relevant_pairs(truth: GroundTruth, best: NDArray[np.int64], frames: Sequence[Frame]) -> _Pairs:
    """Return the relevant views among the best views i64[K, T] of each text, and all annotated pairs."""
    boxes: dict[tuple[int, int], list[Boxes]] = {}
    for view, label, box in zip(truth.view.tolist(), truth.label.tolist(), truth.box.tolist(), strict=True):
        boxes.setdefault((view, label), []).append(np.array(frames[view].to_view(box)))
    label_of_text = truth.label_of_text.tolist()
    ranks = dict.fromkeys(map(tuple, truth.annotated.tolist()), RANKED_VIEWS)
    annotated = set(ranks)
    for rank, views in enumerate(best.tolist()):
        for text, view in enumerate(views):
            if (view, label_of_text[text]) in boxes:
                ranks[view, text] = rank
    keys = sorted(ranks)
    return _Pairs(
        np.array([view for view, _ in keys]),
        np.array([text for _, text in keys]),
        np.array([ranks[key] for key in keys]),
        np.array([key in annotated for key in keys]),
        [np.stack(boxes[view, label_of_text[text]]) for view, text in keys],
    )


def _wrong_texts(truth: GroundTruth, pairs: _Pairs) -> NDArray[np.int64] | None:
    """Return for each pair a text without a box in the view, i64[Q]; None when a view has no such text.

    Candidates are tried in order, starting half of all texts away from the pair's own text.
    """
    labels_in_view: dict[int, set[int]] = {}
    for view, label in zip(truth.view.tolist(), truth.label.tolist(), strict=True):
        labels_in_view.setdefault(view, set()).add(label)
    label_of_text, texts = truth.label_of_text.tolist(), len(truth.label_of_text)
    wrong = []
    for view, text in zip(pairs.view.tolist(), pairs.text.tolist(), strict=True):
        candidates = ((text + texts // 2 + step) % texts for step in range(texts))
        other = next((other for other in candidates if label_of_text[other] not in labels_in_view[view]), None)
        if other is None:
            return None
        wrong.append(other)
    return np.array(wrong)


def _predict_pairs(
    spill_file: SpillFile,
    queries: Sequence[EncodedText],
    frames: Sequence[Frame],
    views: NDArray[np.int64],
    query_numbers: NDArray[np.int64],
    predict: Predict,
) -> list[Prediction]:
    """Return the prediction for each pair of a view i64[Q] and a query i64[Q]. Equal pairs are predicted once."""
    # Sorted keys bring the pairs of one view together, so that each view is read once.
    keys, number = np.unique(views * len(queries) + query_numbers, return_inverse=True)
    predictions: list[Prediction] = []
    last_view, encoded = -1, None
    for view, query in zip(*(part.tolist() for part in np.divmod(keys, len(queries))), strict=True):
        if view != last_view or encoded is None:
            last_view, encoded = view, spill_file.read(np.array([view]))
        predictions.append(predict(encoded, frames[view], queries[query]))
    return [predictions[i] for i in number.tolist()]


def _map_row(pairs: _Pairs, texts: int, source: str, predictions: Sequence[Prediction]) -> RegionRow:
    """Return the row of a source that has a map and a box for each of the Q pairs."""
    annotated = [(predictions[i][0], pairs.truth[i]) for i in np.flatnonzero(pairs.annotated).tolist()]
    pointing = float(np.mean([region_metrics.pointing_game(heat, truth) for heat, truth in annotated]))
    energy = float(np.mean([region_metrics.energy_inside(heat, truth) for heat, truth in annotated]))
    return _region_row(pairs, texts, source, [[box for _, box in predictions]], pointing, energy)


def _control_rows(pairs: _Pairs, texts: int, grid: int) -> Iterator[RegionRow]:
    """Yield the rows of fixed boxes that ignore the text, and of the best box of whole patches."""

    def repeat(*boxes: tuple[float, float, float, float]) -> list[list[Boxes]]:
        return [[np.array(box)] * len(pairs.truth) for box in boxes]

    annotated = [pairs.truth[i] for i in np.flatnonzero(pairs.annotated)]
    even = np.ones((grid, grid), np.float32)
    centre_hits = float(np.mean([region_metrics.view_centre_hit(truth) for truth in annotated]))
    pointing = float(np.mean([region_metrics.pointing_game(even, truth) for truth in annotated]))
    energy = float(np.mean([region_metrics.energy_inside(even, truth) for truth in annotated]))
    yield _region_row(pairs, texts, "centre", repeat(_CENTRE_BOX), centre_hits, None)
    yield _region_row(pairs, texts, "everything", repeat(_WHOLE_BOX), pointing, energy)
    yield _region_row(pairs, texts, "a half", repeat(*_HALVES), None, None)
    yield _region_row(pairs, texts, "a quadrant", repeat(*_QUADRANTS), None, None)
    best = [region_metrics.best_grid_box(truth, grid) for truth in pairs.truth]
    yield _region_row(pairs, texts, f"best of {grid} x {grid}", [best], None, None)


def _region_row(
    pairs: _Pairs,
    texts: int,
    source: str,
    box_sets: Sequence[Sequence[Boxes]],
    pointing: float | None,
    energy: float | None,
) -> RegionRow:
    """Return the row of a source. box_sets: one or more choices of a box [4] for each pair; the row is their mean."""
    overlaps = np.array(
        [
            [region_metrics.best_iou(box, truth) for box, truth in zip(boxes, pairs.truth, strict=True)]
            for boxes in box_sets
        ]
    )
    recalls = [region_metrics.box_recall(pairs.text, pairs.rank, overlap, texts) for overlap in overlaps]
    mean = {
        level: {k: float(np.mean([recall[level][k] for recall in recalls])) for k in ks}
        for level, ks in recalls[0].items()
    }
    annotated = overlaps[:, pairs.annotated]
    reached = {level: float((annotated >= level).mean()) for level in region_metrics.IOU_LEVELS}
    hits = np.flatnonzero(pairs.rank < region_metrics.PRECISION_K)
    centred = [
        region_metrics.box_centre_hit(boxes[hit], pairs.truth[hit]) for boxes in box_sets for hit in hits.tolist()
    ]
    return RegionRow(
        source,
        mean,
        float(annotated.mean()),
        reached,
        pointing,
        energy,
        precision=len(hits) / (texts * region_metrics.PRECISION_K),
        hits_reached=float((overlaps[:, hits] >= region_metrics.PRECISION_IOU).mean()) if len(hits) else 0.0,
        hits_centred=float(np.mean(centred)) if centred else 0.0,
    )
