"""Rows of regions against loops over all views and texts, on galleries of painted squares with known boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from flairsearch.core.errors import FlairSearchError
from flairsearch.core.types import EncodedViews, Frame, Picture, PoolWeights
from flairsearch.evaluate import region_metrics, region_run
from flairsearch.evaluate.galleries import BoxGallery
from flairsearch.evaluate.region_metrics import iou
from flairsearch.evaluate.region_run import evaluate_regions
from flairsearch.evaluate.results import GroundTruth, RegionRow
from flairsearch.evaluate.retrieval_run import encode_in_groups
from flairsearch.regions.boxes import find_boxes, find_heat
from flairsearch.regions.locator import Locator
from flairsearch.rerank.many_texts import TextBatchScorer
from tests.support.fake import COLOURS, GRID, SIZE, FakeEncoder

NAMES = [name for name in COLOURS if name != "black"]
SIDE = SIZE // GRID
BoxOf = Callable[[int, int], np.ndarray]
HeatOf = Callable[[int, int], np.ndarray]


class Painted:
    """Photos of 320 x 160 pixels, squashed or cropped, with rectangles of two colours; texts name colours."""

    def __init__(self, count: int = 30, texts: int = 40, seed: int = 0, encoder: FakeEncoder | None = None) -> None:
        rng = np.random.default_rng(seed)
        self.encoder, self.pictures, rows = encoder or FakeEncoder(), [], []
        for view in range(count):
            pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
            frame = (Frame(320, 160, 0, 0, 320, 160), Frame(320, 160, 80, 0, 240, 160))[view % 2]
            for name in rng.choice(NAMES, 2, replace=False):
                for _ in range(rng.integers(1, 3)):
                    left, top = rng.integers(0, 6, 2)
                    right, bottom = np.minimum(rng.integers(2, 5, 2) + np.array([left, top]), GRID)
                    pixels[top * SIDE : bottom * SIDE, left * SIDE : right * SIDE] = COLOURS[name]
                    rows.append(
                        (view, NAMES.index(name), frame.to_pixels(*(np.array([left, top, right, bottom]) / GRID)))
                    )
            self.pictures.append(Picture(pixels, frame))
        view, thing, box = (np.array(column) for column in zip(*rows, strict=True))
        asked = rng.permutation(np.resize(np.arange(len(NAMES)), texts))
        pairs = sorted({(v, t) for v, n in zip(view, thing, strict=True) for t in np.flatnonzero(asked == n)})
        given = np.array(pairs)[rng.permutation(len(pairs))[: len(pairs) // 2]]
        self.truth = GroundTruth(view, thing, box.astype(float), asked, given)
        self.texts = [f"a {NAMES[n]} thing" for n in asked.tolist()]

    def gallery(self, batch: int = 7) -> BoxGallery:
        def batches() -> Iterator[tuple[EncodedViews, list[Frame]]]:
            for start in range(0, len(self.pictures), batch):
                pictures = self.pictures[start : start + batch]
                yield self.encoder.encode_images(pictures), [picture.frame for picture in pictures]

        return BoxGallery(len(self.pictures), batches(), self.texts, self.truth)

    def rows(self, batch: int = 7) -> list[RegionRow]:
        groups = encode_in_groups(self.encoder.encode_texts, self.texts)
        return list(evaluate_regions(self.gallery(batch), groups, self.encoder.pool_weights))


@pytest.fixture(scope="module")
def painted() -> Painted:
    return Painted()


@pytest.fixture(scope="module")
def rows(painted: Painted) -> list[RegionRow]:
    return painted.rows()


def test_sources_in_order(rows: list[RegionRow]) -> None:
    assert [row.source for row in rows] == [
        *("regions", "of a wrong text", "of attention alone", "of patch cosine alone"),
        *("centre", "everything", "a half", "a quadrant", "best of 8 x 8"),
    ]


@cache
def true_boxes(painted: Painted, view: int, text: int) -> np.ndarray:
    """Return the true boxes of a text in a view, in view coordinates."""
    truth, frame = painted.truth, painted.pictures[view].frame
    chosen = (truth.view == view) & (truth.label == truth.label_of_text[text])
    return np.array([frame.to_view(tuple(box)) for box in truth.box[chosen].tolist()]).reshape(-1, 4)


@cache
def rankings(painted: Painted) -> list[list[int]]:
    """Return each text's views from the best to the worst, ties by number."""
    encoder = painted.encoder
    encoded = encoder.encode_images(painted.pictures)
    scores = TextBatchScorer(encoder.encode_texts(painted.texts), encoder.pool_weights).score(encoded)
    views = range(len(scores))
    return [sorted(views, key=lambda view: (-scores[view, text], view)) for text in range(len(painted.texts))]


def relevant_hits(painted: Painted) -> list[tuple[int, int]]:
    """Return the pairs of a text and a relevant view among its first 20."""
    pairs = [(view, text) for text, views in enumerate(rankings(painted)) for view in views[:20]]
    return [pair for pair in pairs if len(true_boxes(painted, *pair))]


def check(painted: Painted, row: RegionRow, box_of: BoxOf, heat_of: HeatOf | None) -> None:
    """Check a row against loops. box_of(view, text) returns a box in view coordinates, heat_of(view, text) a map."""

    @cache
    def overlap(view: int, text: int) -> float:
        boxes = true_boxes(painted, view, text)
        return max((float(iou(box_of(view, text), box)) for box in boxes), default=-1.0)

    texts, ordered = range(len(painted.texts)), rankings(painted)
    for level in (0.0, 0.3, 0.5, 0.7):
        for k in (1, 5, 10):
            found = [any(overlap(view, text) >= level for view in ordered[text][:k]) for text in texts]
            assert row.recall[level][k] == pytest.approx(np.mean(found)), (level, k)
    given = painted.truth.annotated.tolist()
    overlaps = np.array([overlap(view, text) for view, text in given])
    assert row.iou == pytest.approx(overlaps.mean())
    for level, share in row.reached.items():
        assert share == pytest.approx((overlaps >= level).mean())
    hits = relevant_hits(painted)
    assert row.precision == pytest.approx(len(hits) / (20 * len(texts)))
    assert 0.1 < row.precision < 0.9
    assert row.hits_reached == pytest.approx(np.mean([overlap(*hit) >= 0.5 for hit in hits]))
    middles = [((box_of(*hit)[:2] + box_of(*hit)[2:]) / 2, true_boxes(painted, *hit)) for hit in hits]
    inside = [any((box[:2] <= middle).all() and (middle < box[2:]).all() for box in boxes) for middle, boxes in middles]
    assert row.hits_centred == pytest.approx(np.mean(inside))
    if heat_of is None:
        return
    known = [(heat_of(view, text), true_boxes(painted, view, text)) for view, text in given]
    assert row.pointing == pytest.approx(np.mean([region_metrics.pointing_game(heat, boxes) for heat, boxes in known]))
    assert row.energy == pytest.approx(np.mean([region_metrics.energy_inside(heat, boxes) for heat, boxes in known]))


def predictor(painted: Painted, source: str) -> Callable[[int, int], tuple[np.ndarray, np.ndarray]]:
    """Return a function that makes the map and box of a view and a text from the view's own tokens."""
    encoder = painted.encoder
    locator = Locator(encoder.pool_weights)

    @cache
    def predict(view: int, text: int) -> tuple[np.ndarray, np.ndarray]:
        if source == "of a wrong text":
            present = set(painted.truth.label[painted.truth.view == view].tolist())
            count = len(painted.texts)
            candidates = [(text + count // 2 + step) % count for step in range(count)]
            text = next(other for other in candidates if painted.truth.label_of_text[other] not in present)
        picture = painted.pictures[view]
        encoded, query = encoder.encode_images([picture]), encoder.encode_texts([painted.texts[text]])[0]
        if "alone" not in source:
            heat, found = locator.find(encoded, picture.frame, query)
            return np.maximum(heat, 0), np.array(picture.frame.to_view(found[0].box))
        values = (locator.attend if "attention" in source else locator.patch_similarity)(encoded, query)[0]
        box = find_boxes(find_heat(values, np.zeros(values.shape, np.float32)))[0]
        return np.maximum(values, 0).reshape(GRID, GRID), np.array(box)

    return predict


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_rows_of_maps_equal_loops(painted: Painted, rows: list[RegionRow], number: int) -> None:
    predict = predictor(painted, rows[number].source)
    check(painted, rows[number], lambda view, text: predict(view, text)[1], lambda view, text: predict(view, text)[0])


CONTROLS = {
    "centre": [(0.25, 0.25, 0.75, 0.75)],
    "everything": [(0, 0, 1, 1)],
    "a half": [(0, 0, 0.5, 1), (0.5, 0, 1, 1), (0, 0, 1, 0.5), (0, 0.5, 1, 1)],
    "a quadrant": [(0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5), (0, 0.5, 0.5, 1), (0.5, 0.5, 1, 1)],
}


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_equal_loops(painted: Painted, rows: list[RegionRow], name: str) -> None:
    """A control of several boxes is the mean of the rows that each box would get alone."""
    (row,) = (row for row in rows if row.source == name)
    if name == "everything":
        check(painted, row, lambda view, text: np.array([0, 0, 1, 1.0]), lambda view, text: np.ones((8, 8)))
        return
    if name == "centre":
        boxes = [true_boxes(painted, view, text) for view, text in painted.truth.annotated.tolist()]
        assert row.pointing == np.mean([region_metrics.view_centre_hit(truth) for truth in boxes])
        check(painted, row, lambda view, text: np.array([0.25, 0.25, 0.75, 0.75]), None)
        return
    given = painted.truth.annotated.tolist()
    overlaps = np.array(
        [[max(iou(np.array(box), t) for t in true_boxes(painted, *pair)) for pair in given] for box in CONTROLS[name]]
    )
    assert row.iou == pytest.approx(overlaps.mean())
    assert row.reached == {level: pytest.approx((overlaps >= level).mean()) for level in (0.3, 0.5, 0.7)}
    assert (row.pointing, row.energy) == (None, None)
    hits = relevant_hits(painted)
    assert row.precision == rows[0].precision == pytest.approx(len(hits) / (20 * len(painted.texts)))
    shares = [
        [
            [max(iou(np.array(box), t) for t in true_boxes(painted, *hit)) >= 0.5 for hit in hits],
            [region_metrics.box_centre_hit(np.array(box), true_boxes(painted, *hit)) for hit in hits],
        ]
        for box in CONTROLS[name]
    ]
    assert [row.hits_reached, row.hits_centred] == pytest.approx(np.mean(shares, (0, 2)))


def test_the_best_grid_box_is_the_painted_one(painted: Painted, rows: list[RegionRow]) -> None:
    """The painted rectangles are whole patches, so the best box is the true one and only the ranking costs recall."""
    best = rows[-1]
    assert best.iou > 0.97  # Frame.to_pixels rounds to whole pixels.
    assert best.recall[0.7] == best.recall[0.0] == rows[0].recall[0.0]
    assert (best.hits_reached, best.hits_centred) == (1, 1)
    assert (
        len({row.precision for row in rows if row.source != "of a wrong text"}) == 1
    )  # Precision depends on the ranking only.


def test_regions_of_painted_squares_are_found() -> None:
    """With one square per view and one view per colour, every first hit is correct."""
    encoder, pictures, boxes = FakeEncoder(), [], []
    for number in range(len(NAMES)):
        pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
        left, top = 8 * (number % 4), 8 * (number % 3)
        pixels[top : top + 32, left : left + 32] = COLOURS[NAMES[number]]
        pictures.append(Picture(pixels, Frame(SIZE, SIZE, 0, 0, SIZE, SIZE)))
        boxes.append((left, top, left + 32, top + 32))
    each = np.arange(len(NAMES))
    truth = GroundTruth(each, each, np.array(boxes, float), each, np.stack([each, each], 1))
    pieces = [(encoder.encode_images(pictures), [picture.frame for picture in pictures])]
    found = BoxGallery(len(NAMES), iter(pieces), NAMES, truth)
    first = next(evaluate_regions(found, [encoder.encode_texts(NAMES)], encoder.pool_weights))
    assert first.recall[0.5] == {1: 1.0, 5: 1.0, 10: 1.0}
    assert first.pointing == 1
    assert first.energy > 0.9
    assert first.iou > 0.7
    assert (first.precision, first.hits_reached, first.hits_centred) == (
        1 / 20,
        1,
        1,
    )  # One relevant view in 20 places.


class SumEncoder(FakeEncoder):
    """A fake encoder whose photos rank by the mean of both cosines."""

    @property
    def pool_weights(self) -> PoolWeights:
        return replace(super().pool_weights, global_share=0.5)


def test_views_rank_by_the_score_of_the_model(rows: list[RegionRow]) -> None:
    """Ranking by the sum changes the recall, but not the boxes and maps."""
    painted = Painted(encoder=SumEncoder())
    row, predict = painted.rows()[0], predictor(painted, "regions")
    check(painted, row, lambda view, text: predict(view, text)[1], lambda view, text: predict(view, text)[0])
    assert row.recall != rows[0].recall
    assert (row.iou, row.pointing, row.energy) == (rows[0].iou, rows[0].pointing, rows[0].energy)


def test_batches_do_not_matter(painted: Painted, rows: list[RegionRow]) -> None:
    assert painted.rows(batch=3) == rows
    assert painted.rows(batch=100) == rows


def test_fewer_views_than_k() -> None:
    rows = Painted(count=4, texts=9).rows()
    assert rows[0].recall[0.0][5] == rows[0].recall[0.0][10]


def test_relevant_views_behind_the_first_page_are_not_hits() -> None:
    """With no relevant view on the first page, the precision and the shares of its boxes are 0."""
    none = np.zeros(1, np.int64)
    box = np.array([[0.1, 0.1, 0.5, 0.5]])
    late = region_run._Pairs(none, none, np.array([region_metrics.PRECISION_K]), np.array([True]), [box])
    row = region_run._region_row(late, 1, "regions", [[box[0]]], None, None)
    assert (row.precision, row.hits_reached, row.hits_centred) == (0, 0, 0)
    assert row.iou == pytest.approx(1)


def test_no_wrong_text_where_all_texts_are_relevant() -> None:
    small = Painted(count=1, texts=7)
    asked = np.resize(np.unique(small.truth.label), 3)
    small.truth = GroundTruth(
        small.truth.view, small.truth.label, small.truth.box, asked, np.array([[0, 0], [0, 1], [0, 2]])
    )
    small.texts = [f"a {NAMES[n]} thing" for n in asked.tolist()]
    assert [row.source for row in small.rows()][:2] == ["regions", "of attention alone"]


def test_scores_that_are_not_finite(painted: Painted) -> None:
    def broken() -> Iterator[tuple[EncodedViews, list[Frame]]]:
        for encoded, frames in painted.gallery().encoded:
            encoded.tokens[0, 0, 0] = np.nan
            yield encoded, frames

    found = BoxGallery(len(painted.pictures), broken(), painted.texts, painted.truth)
    groups = encode_in_groups(painted.encoder.encode_texts, painted.texts)
    with pytest.raises(FlairSearchError, match="not finite"):
        list(evaluate_regions(found, groups, painted.encoder.pool_weights))
