"""How well regions are found: the right view and the right box over a gallery, and maps given the right view.

Beside what regions are made from stand the controls: without them no figure says anything.

One pass over the views: their tokens go to a temporary file (evaluate/spill_file.py) while each text's best views are
kept; then only views that are right are read again, for their maps.
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
from flairsearch.evaluate.galleries import PlacedGallery
from flairsearch.evaluate.region_metrics import Boxes
from flairsearch.evaluate.results import RegionRow, Truth
from flairsearch.evaluate.spill_file import SpillFile
from flairsearch.regions.boxes import find_boxes, find_heat
from flairsearch.regions.locator import Locator
from flairsearch.rerank.many_texts import TextBatchScorer

TOP = region_metrics.PAGE  # views of a text whose rank is kept
_WHOLE = (0.0, 0.0, 1.0, 1.0)
_CENTRE = (0.25, 0.25, 0.75, 0.75)
_HALVES = ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0))
_QUADRANTS = ((0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 0.5), (0.0, 0.5, 0.5, 1.0), (0.5, 0.5, 1.0, 1.0))

Heat = NDArray[np.float32]
Placed = tuple[Heat, Boxes]  # map f32[G, G], none below 0; the first box [4], in view coordinates
Place = Callable[[EncodedViews, Frame, EncodedText], Placed]


def place(locator: Locator, encoded: EncodedViews, frame: Frame, query: EncodedText) -> Placed:
    """Where a search says that a text is, in one view: its heat, and its best region's box."""
    heat, found = locator.find(encoded, frame, query)
    return np.maximum(heat, 0), np.array(frame.to_view(found[0].box))


def place_by(
    values_of: Callable[[EncodedViews, EncodedText], Heat], encoded: EncodedViews, _: Frame, query: EncodedText
) -> Placed:
    """Control: one map alone, as it is, f32[1, P]; its box is made as a search makes its boxes."""
    values = values_of(encoded, query)[0]
    grid = round(len(values) ** 0.5)
    box = find_boxes(find_heat(values, np.zeros_like(values)))[0]
    return np.maximum(values, 0).reshape(grid, grid), np.array(box, np.float64)


@dataclass(frozen=True)
class _Pairs:
    """Q right pairs of a view and a text: among the text's first TOP, or given."""

    view: NDArray[np.int64]  # [Q]
    text: NDArray[np.int64]  # [Q]
    rank: NDArray[np.int64]  # [Q] from 0; TOP: further back
    given: NDArray[np.bool_]  # [Q]
    truth: list[Boxes]  # [Q] of [M, 4] each, in view coordinates


def regions(
    found: PlacedGallery,
    groups: Iterable[Sequence[EncodedText]],
    weights: PoolWeights,
    device: str = "cpu",
) -> Iterator[RegionRow]:
    """The regions' row, then the controls'.

    groups: queries of the texts, each text once (retrieval_run.encode_in_groups). A wrong text is another that
    speaks of nothing in the view; where there is none, that control is left out. Raises FlairSearchError where a
    score is no number, or there is no room for the views.
    """
    each = [list(group) for group in groups]
    queries = [query for group in each for query in group]
    numbers = {query.text: number for number, query in enumerate(queries)}
    asks = np.array([numbers[text] for text in found.texts])  # the query of each text
    with SpillFile() as shelf:
        best, frames = _rank(found.encoded, [TextBatchScorer(group, weights, device) for group in each], shelf)
        pairs = _pair(found.truth, best[:, asks], frames)
        locator = Locator(weights)
        look = partial(_look, shelf, queries, frames, pairs.view)
        right, wrong = asks[pairs.text], _wrong_texts(found.truth, pairs)
        measure = partial(_measure, pairs, len(found.texts))
        yield measure("regions", look(right, partial(place, locator)))
        if wrong is not None:
            yield measure("of a wrong text", look(asks[wrong], partial(place, locator)))
        yield measure("of attention alone", look(right, partial(place_by, locator.attend)))
        yield measure("of patch cosine alone", look(right, partial(place_by, locator.patch_similarity)))
        yield from _controls(pairs, len(found.texts), round(shelf.patches**0.5))


def _rank(
    pieces: Iterable[tuple[EncodedViews, list[Frame]]], texts: Sequence[TextBatchScorer], shelf: SpillFile
) -> tuple[NDArray[np.int64], list[Frame]]:
    """Views on the shelf, and each query's best of them, i64[TOP or N, U], by exact score, then by number."""
    frames: list[Frame] = []
    scores, views = np.zeros((0, 0), np.float32), np.zeros((0, 0), np.int64)
    for encoded, some in pieces:
        new = np.concatenate([many.score(encoded) for many in texts], 1)
        if not np.isfinite(new).all():
            raise FlairSearchError("scores are no numbers - the model's weights are damaged: take another --model")
        number = np.broadcast_to(np.arange(len(frames), len(frames) + len(new))[:, None], new.shape)
        if frames:
            new, number = np.concatenate([scores, new]), np.concatenate([views, number])
        order = np.argsort(-new, axis=0, kind="stable")[:TOP]
        scores, views = np.take_along_axis(new, order, 0), np.take_along_axis(number, order, 0)
        frames += some
        shelf.add(encoded)
    return views, frames


def _pair(truth: Truth, best: NDArray[np.int64], frames: Sequence[Frame]) -> _Pairs:
    """best i64[K, T]: the first views of each text -> the right ones of them, and the given ones."""
    places: dict[tuple[int, int], list[Boxes]] = {}
    for view, thing, box in zip(truth.view.tolist(), truth.thing.tolist(), truth.box.tolist(), strict=True):
        places.setdefault((view, thing), []).append(np.array(frames[view].to_view(box)))
    asked = truth.asked.tolist()
    ranks = dict.fromkeys(map(tuple, truth.given.tolist()), TOP)
    given = set(ranks)
    for rank, views in enumerate(best.tolist()):
        for text, view in enumerate(views):
            if (view, asked[text]) in places:
                ranks[view, text] = rank
    keys = sorted(ranks)
    return _Pairs(
        np.array([view for view, _ in keys]),
        np.array([text for _, text in keys]),
        np.array([ranks[key] for key in keys]),
        np.array([key in given for key in keys]),
        [np.stack(places[view, asked[text]]) for view, text in keys],
    )


def _wrong_texts(truth: Truth, pairs: _Pairs) -> NDArray[np.int64] | None:
    """For each pair a text that is right nowhere in the view, half of all texts away or a little more: i64[Q]."""
    there: dict[int, set[int]] = {}
    for view, thing in zip(truth.view.tolist(), truth.thing.tolist(), strict=True):
        there.setdefault(view, set()).add(thing)
    asked, texts = truth.asked.tolist(), len(truth.asked)
    wrong = []
    for view, text in zip(pairs.view.tolist(), pairs.text.tolist(), strict=True):
        others = ((text + texts // 2 + step) % texts for step in range(texts))
        other = next((one for one in others if asked[one] not in there[view]), None)
        if other is None:
            return None
        wrong.append(other)
    return np.array(wrong)


def _look(
    shelf: SpillFile,
    queries: Sequence[EncodedText],
    frames: Sequence[Frame],
    views: NDArray[np.int64],
    asked: NDArray[np.int64],
    place: Place,
) -> list[Placed]:
    """views i64[Q], asked i64[Q]: their queries -> what is where, each pair of them looked at once."""
    keys, number = np.unique(views * len(queries) + asked, return_inverse=True)  # one view after the other
    found: list[Placed] = []
    last, encoded = -1, None
    for view, query in zip(*(part.tolist() for part in np.divmod(keys, len(queries))), strict=True):
        if view != last or encoded is None:
            last, encoded = view, shelf.read(np.array([view]))
        found.append(place(encoded, frames[view], queries[query]))
    return [found[i] for i in number.tolist()]


def _measure(pairs: _Pairs, texts: int, name: str, placed: Sequence[Placed]) -> RegionRow:
    """What was found in the Q pairs -> its row."""
    known = [(placed[i][0], pairs.truth[i]) for i in np.flatnonzero(pairs.given).tolist()]
    pointed = float(np.mean([region_metrics.pointing(heat, truth) for heat, truth in known]))
    inside = float(np.mean([region_metrics.energy(heat, truth) for heat, truth in known]))
    return _row(pairs, texts, name, [[box for _, box in placed]], pointed, inside)


def _controls(pairs: _Pairs, texts: int, grid: int) -> Iterator[RegionRow]:
    """What boxes do that know no text; and what the best of all could do."""

    def against(*boxes: tuple[float, float, float, float]) -> list[list[Boxes]]:
        return [[np.array(box)] * len(pairs.truth) for box in boxes]

    known = [pairs.truth[i] for i in np.flatnonzero(pairs.given)]
    even = np.ones((grid, grid), np.float32)
    middle = float(np.mean([region_metrics.centre(truth) for truth in known]))
    pointed = float(np.mean([region_metrics.pointing(even, truth) for truth in known]))
    inside = float(np.mean([region_metrics.energy(even, truth) for truth in known]))
    yield _row(pairs, texts, "centre", against(_CENTRE), middle, None)
    yield _row(pairs, texts, "everything", against(_WHOLE), pointed, inside)
    yield _row(pairs, texts, "a half", against(*_HALVES), None, None)
    yield _row(pairs, texts, "a quadrant", against(*_QUADRANTS), None, None)
    best = [region_metrics.best_grid_box(truth, grid) for truth in pairs.truth]
    yield _row(pairs, texts, f"best of {grid} x {grid}", [best], None, None)


def _row(
    pairs: _Pairs,
    texts: int,
    name: str,
    several: Sequence[Sequence[Boxes]],
    pointed: float | None,
    inside: float | None,
) -> RegionRow:
    """several: the first box [4] of each of the Q pairs; of several that one could always say, the mean of each."""
    overlaps = np.array(
        [[region_metrics.best_iou(*both) for both in zip(boxes, pairs.truth, strict=True)] for boxes in several]
    )
    recalls = [region_metrics.box_recall(pairs.text, pairs.rank, overlap, texts) for overlap in overlaps]
    mean = {
        level: {k: float(np.mean([recall[level][k] for recall in recalls])) for k in ks}
        for level, ks in recalls[0].items()
    }
    known = overlaps[:, pairs.given]
    reached = {level: float((known >= level).mean()) for level in region_metrics.LEVELS}
    hits = np.flatnonzero(pairs.rank < region_metrics.PAGE)
    centred = [region_metrics.holds_middle(boxes[hit], pairs.truth[hit]) for boxes in several for hit in hits.tolist()]
    return RegionRow(
        name,
        mean,
        float(known.mean()),
        reached,
        pointed,
        inside,
        precision=len(hits) / (texts * region_metrics.PAGE),
        hits_reached=float((overlaps[:, hits] >= region_metrics.PAGE_LEVEL).mean()) if len(hits) else 0.0,
        hits_centred=float(np.mean(centred)) if centred else 0.0,
    )
