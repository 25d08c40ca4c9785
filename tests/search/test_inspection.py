"""Several phrases, what must not be there, and where it has to be: on painted photos, against formulas in float64."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flairsearch.core.errors import UsageError
from flairsearch.core.filters import Filter
from flairsearch.core.hits import Hit
from flairsearch.core.query import ImageExample, Query
from flairsearch.core.types import EncodedText
from flairsearch.engine import Engine
from flairsearch.regions import boxes as boxes_module
from flairsearch.search import aggregation
from flairsearch.search.inspection import Inspector
from flairsearch.search.policy import DEFAULT_POLICY, SearchPolicy
from flairsearch.store.snapshot import Snapshot
from tests.support import by_hand
from tests.support.fake import COLOURS, SIZE, FakeEncoder, expected_score, fake_engine, mosaic, paint, paint_red

BIG = 256  # The side of photos with tiles in pixels: a patch of the whole is 32 wide, one of a tile of tiles:4 is 19.


def names(hits: Sequence[Hit]) -> list[str]:
    return [Path(hit.path).stem for hit in hits]


def indexed(folder: Path, views: str = "squash", encoder: Any = None, policy: SearchPolicy = DEFAULT_POLICY) -> Engine:
    """With all that is in folder/photos."""
    engine = fake_engine(folder / "index", views, encoder, policy=policy)
    engine.add(folder / "photos")
    return engine


def fill(folder: Path, count: int = 30, size: int = SIZE) -> None:
    """Photos with little red and nothing else: what a text that is not wanted is compared with."""
    for number in range(count):
        paint(folder / "photos" / f"few-{number}.png", [("red", (0, 0, 8, 8 + number))], size=(size, size))


def oracle(
    engine: Engine, queries: Sequence[EncodedText], weights: Sequence[float]
) -> dict[str, tuple[float, list[float]]]:
    """Each photo's score, and that of each phrase, of all of its views as they are stored."""
    reader = Snapshot(engine.folder, engine.settings, engine._catalog)
    ids = reader.views.id
    pool = FakeEncoder().pool_weights
    scores = np.stack([by_hand.score(reader.encoded(ids).tokens, query, pool) for query in queries], 1)
    images = engine._catalog.images_of(np.unique(reader.views.content).tolist())
    return {
        path: by_hand.of_photo(scores[reader.views.content == content], weights, aggregation.TOP_VIEWS_PER_IMAGE)
        for content, several in images.items()
        for _, path in several
    }


# -- several phrases


@pytest.mark.parametrize("views", ["squash", "tiles:4"])
@pytest.mark.parametrize("weight", [None, 0.5, 3.0])
def test_a_score_is_the_weighted_mean_of_those_of_the_phrases(tmp_path: Path, views: str, weight: float | None) -> None:
    """By brute force over all views; a picture is a phrase like any other."""
    for number in range(25):
        mosaic(tmp_path / "photos" / f"{number}.png", number)
    like = paint(tmp_path / "like.png", [("green", (20, 20, 40, 40))], "red")
    texts, example = ["red", "something blue"], None
    if weight is not None:
        example = ImageExample(str(like), (20, 20, 40, 40), weight)
    queries = FakeEncoder().encode_texts([*texts, "green"][: 2 if weight is None else 3])
    with indexed(tmp_path, views) as engine:
        assert engine.status().views == (25 if views == "squash" else 125)
        expected = oracle(engine, queries, [1, 1, weight][: len(queries)])
        for k in (1, 7, 25, 40):
            hits = engine.search(Query(texts, image=example), k, shortlist="all")
            best = sorted((score for score, _ in expected.values()), reverse=True)[:k]
            assert [hit.score for hit in hits] == pytest.approx(best, abs=1e-4)
            assert len({hit.path for hit in hits}) == len(hits) == min(k, 25)
            for hit in hits:
                score, each = expected[hit.path]
                assert hit.score == pytest.approx(score, abs=1e-4)
                assert [phrase.score for phrase in hit.phrases] == pytest.approx(each, abs=1e-4)
                assert [phrase.text for phrase in hit.phrases] == [*texts, "like.png"][: len(queries)]
                assert hit.weakest.score == min(phrase.score for phrase in hit.phrases)
                assert hit.logit == pytest.approx(10 * hit.score - 10, abs=1e-5)
                shown = engine.show(hit.path, Query(texts, image=example))
                assert (shown.score, shown.regions) == (pytest.approx(hit.score, abs=1e-6), hit.regions)


def test_regions_of_all_phrases_the_best_of_each_first(tmp_path: Path) -> None:
    squares = [("red", (0, 0, 24, 16)), ("red", (0, 40, 24, 64)), ("blue", (40, 0, 64, 24))]
    paint(tmp_path / "photos" / "a.png", squares)
    with indexed(tmp_path) as engine:
        (hit,) = engine.search(Query(["red", "blue"]))
    red, blue = hit.phrases
    first, second = red.regions
    assert by_hand.reach(first.box, (0, 40, 24, 64)) <= 4
    assert by_hand.reach(second.box, (0, 0, 24, 16)) <= 4
    assert (first.score, second.score) == pytest.approx((expected_score(9), expected_score(6)), abs=1e-4)
    assert [r.score for r in blue.regions] == pytest.approx([expected_score(9)], abs=1e-4)
    assert hit.regions == (red.regions[0], blue.regions[0], red.regions[1])
    assert red.frame == blue.frame
    assert np.unravel_index(blue.heat.argmax(), blue.heat.shape) == (0, 7)


def test_phrases_in_any_order_and_together_with_others(tmp_path: Path) -> None:
    for number in range(12):
        mosaic(tmp_path / "photos" / f"{number}.png", number)
    asked: list[str | Query] = ["red", Query(["red", "blue", "white"], position="left"), Query(["cyan", "red"])]
    asked += [Query("green", exclude="blue", min_area="3%"), "red"]
    with indexed(tmp_path) as engine:
        together = engine.search_many(asked, 4)
        assert len(together) == 5
        for one, hits in zip(asked, together, strict=True):
            alone = engine.search(one, 4)
            assert [(hit.path, hit.regions) for hit in alone] == [(hit.path, hit.regions) for hit in hits]
            assert [hit.score for hit in alone] == pytest.approx([hit.score for hit in hits], abs=1e-6)
        back = engine.search(Query(["red", "cyan"]), 4)
        assert names(back) == names(together[2])
        assert [hit.phrases[::-1][0].score for hit in back] == [hit.phrases[0].score for hit in together[2]]


def test_least_score_is_that_of_the_photo(tmp_path: Path) -> None:
    for number in range(12):
        mosaic(tmp_path / "photos" / f"{number}.png", number)
    with indexed(tmp_path) as engine:
        everything = engine.search(Query(["red", "blue"]), 12)
        for least in (-2.0, everything[4].score, (everything[6].score + everything[7].score) / 2, 2.0):
            hits = engine.search(Query(["red", "blue"]), 12, min_score=least)
            assert names(hits) == [Path(hit.path).stem for hit in everything if hit.score >= least]


def test_ties_go_by_image_id_and_twins_are_all_hits(tmp_path: Path) -> None:
    for name in ("c", "a", "b"):
        paint_red(tmp_path / name / "x.png", 9, mark=ord(name))
    (tmp_path / "b" / "twin.png").write_bytes((tmp_path / "c" / "x.png").read_bytes())
    with fake_engine(tmp_path / "index") as engine:
        for name in ("c", "a", "b"):
            engine.add(tmp_path / name)
        for terms in (Query(["red", "blue"]), Query("red", position="top", min_area="1%")):
            found = [f"{Path(hit.path).parent.name}/{Path(hit.path).stem}" for hit in engine.search(terms)]
            assert found == ["c/x", "a/x", "b/twin", "b/x"]
            assert [len(engine.search(terms, k)) for k in (1, 2, 3, 4, 5)] == [1, 2, 3, 4, 4]
            assert [Path(hit.path).parent.name for hit in engine.search(terms, 2)] == ["c", "a"]
            hit = engine.show(tmp_path / "b" / "twin.png", terms)
            assert (Path(hit.path).stem, hit.rank) == ("twin", 1)


# -- what must not be there


NOT = {  # A square beside the red one at 8,8 to 40,40, and whether blue is where the match is.
    "nothing": ([], False),
    "beside": ([("blue", (48, 48, 64, 64))], False),
    "all around": ([("blue", (56, 0, 64, 64)), ("blue", (0, 56, 64, 64))], False),
    "inside": ([("blue", (16, 16, 32, 32))], True),
    "a little inside": ([("blue", (16, 16, 24, 24))], True),
    "inside and beside": ([("blue", (16, 16, 32, 32)), ("blue", (48, 48, 64, 64))], True),
}


@pytest.mark.parametrize("name", NOT)
def test_what_is_not_wanted_matters_where_the_match_is(tmp_path: Path, name: str) -> None:
    squares, there = NOT[name]
    fill(tmp_path)
    paint(tmp_path / "photos" / "it.png", [("red", (8, 8, 40, 40)), *squares])
    with indexed(tmp_path) as engine:
        assert names(engine.search("red", 1)) == ["it"]
        hits = engine.search(Query("red", exclude="blue"), 31)
        assert ("it" in names(hits), len(hits)) == (not there, 31 - there)
        hits = engine.search(Query("red", exclude=["green", "blue"]), 31)
        assert ("it" in names(hits)) == (not there)
        assert engine.show(tmp_path / "photos" / "it.png", Query("red", exclude="blue")).regions


def test_among_few_photos_it_is_unwanted_where_it_scores_as_the_match_does(tmp_path: Path) -> None:
    """Three photos do not say what a text usually scores."""
    paint(tmp_path / "photos" / "red.png", [("red", (8, 8, 40, 40))])
    paint(tmp_path / "photos" / "inside.png", [("red", (8, 8, 40, 40)), ("blue", (16, 16, 24, 24))])
    paint(tmp_path / "photos" / "beside.png", [("red", (8, 8, 32, 32)), ("blue", (40, 32, 64, 64))])
    with indexed(tmp_path) as engine:
        assert engine.search(Query("red", exclude="red")).hits == ()
        assert sorted(names(engine.search(Query("red", exclude="blue")))) == ["beside", "inside", "red"]


@pytest.mark.parametrize("name", ["between", "beside"])
def test_with_several_phrases_the_place_is_the_box_around_them(tmp_path: Path, name: str) -> None:
    fill(tmp_path)
    blue = {"between": (24, 0, 40, 16), "beside": (24, 40, 40, 56)}[name]
    paint(tmp_path / "photos" / "it.png", [("red", (0, 0, 16, 16)), ("green", (48, 0, 64, 16)), ("blue", blue)])
    with indexed(tmp_path) as engine:
        for terms in (Query(["red", "green"], exclude="blue"), Query(["green", "red"], exclude="blue")):
            assert ("it" in names(engine.search(terms, 31))) == (name == "beside")
        assert "it" in names(engine.search(Query("red", exclude="blue"), 31))


@pytest.mark.parametrize("inside", [True, False])
def test_among_tiles_it_is_judged_where_the_match_was_seen(tmp_path: Path, inside: bool) -> None:
    """The match is in one corner; what is not wanted is there too, or in the corner across, where tiles see it well."""
    fill(tmp_path, size=BIG)
    blue = (196, 18, 240, 60) if inside else (20, 200, 60, 240)
    paint(tmp_path / "photos" / "it.png", [("red", (180, 0, 256, 76)), ("blue", blue)], size=(BIG, BIG))
    with indexed(tmp_path, "tiles:4") as engine:
        assert names(engine.search("red", 1)) == ["it"]
        assert ("it" in names(engine.search(Query("red", exclude="blue"), 31))) == (not inside)


def test_a_place_out_of_the_best_view_is_judged_in_one_that_shows_it(tmp_path: Path) -> None:
    """Two phrases in two corners, each in a tile of its own: what is between them, none of their best views shows."""
    fill(tmp_path, size=BIG)
    corners = [("red", (0, 0, 76, 76)), ("green", (180, 180, 256, 256))]
    for name, box in (("between", (100, 100, 156, 156)), ("beside", (200, 0, 256, 56))):
        paint(tmp_path / "photos" / f"{name}.png", [*corners, ("blue", box)], size=(BIG, BIG))
    squares = [("red", (0, 0, 76, 76)), ("green", (0, 180, 76, 256)), ("blue", (180, 0, 256, 256))]
    paint(tmp_path / "photos" / "right.png", squares, size=(BIG, BIG))
    with indexed(tmp_path, "tiles:4") as engine:
        found = names(engine.search(Query(["red", "green"], exclude="blue"), 33))
    assert "between" not in found
    assert "right" in found


# -- where it has to be, and how large


CORNERS = {
    "top left": (0, 0),
    "top right": (44, 0),
    "bottom left": (0, 44),
    "bottom right": (44, 44),
    "middle": (22, 22),
}
AT = {
    ("left",): {"top left", "bottom left"},
    ("right",): {"top right", "bottom right"},
    ("top",): {"top left", "top right"},
    ("bottom", "left"): {"bottom left"},
    ("top", "right", "top"): {"top right"},
    ("center",): {"middle"},
    ("center", "left"): set(),
}


@pytest.mark.parametrize("views", ["squash", "tiles:4"])
@pytest.mark.parametrize("at", AT)
def test_only_matches_at_a_place(tmp_path: Path, views: str, at: tuple[str, ...]) -> None:
    scale = BIG // SIZE
    for name, (left, top) in CORNERS.items():
        box = (scale * left, scale * top, scale * (left + 20), scale * (top + 20))
        paint(tmp_path / "photos" / f"{name}.png", [("red", box)], size=(BIG, BIG))
    with indexed(tmp_path, views) as engine:
        hits = engine.search(Query("red", position=at))
        uncertain = {"middle"} if views != "squash" and at != ("center",) else set()  # Each tile sees a part of it.
        assert set(names(hits)) - uncertain == AT[at] - uncertain
        for hit in hits:
            assert hit.score == pytest.approx(engine.show(hit.path, "red").score, abs=1e-6)
            for one in hit.regions:
                x, y = (one.box[0] + one.box[2]) / 2 / BIG, (one.box[1] + one.box[3]) / 2 / BIG
                assert x < 0.5 or "left" not in at
                assert y < 0.5 or "top" not in at


def test_every_phrase_has_to_be_there_and_what_is_elsewhere_is_no_region(tmp_path: Path) -> None:
    squares = {"both": ["red", "blue"], "one": ["red", "black"]}
    for name, (first, second) in squares.items():
        paint(
            tmp_path / "photos" / f"{name}.png",
            [(first, (0, 0, 16, 16)), (second, (0, 40, 16, 56)), ("red", (48, 0, 64, 16)), ("blue", (48, 40, 64, 56))],
        )
    with indexed(tmp_path) as engine:
        (hit,) = engine.search(Query(["red", "blue"], position="left"))
        assert Path(hit.path).stem == "both"
        assert all(one.box[2] <= 32 for phrase in hit.phrases for one in phrase.regions)
        assert len(hit.regions) == 2
        assert len(engine.show(hit.path, Query(["red", "blue"], position="left")).regions) == 4
        assert hit.score == pytest.approx(engine.show(hit.path, Query(["red", "blue"])).score, abs=1e-6)


@pytest.mark.parametrize("side", range(1, 8))
def test_only_matches_so_large(tmp_path: Path, side: int) -> None:
    """A box may be half a patch too large, or too small, on either side."""
    for patches in range(1, 9):
        paint(tmp_path / "photos" / f"{patches}.png", [("red", (0, 0, 8 * patches, 8 * patches))])
    with indexed(tmp_path) as engine:
        hits = engine.search(Query("red", min_area=(side / 8) ** 2))
        assert set(map(str, range(side + 1, 9))) <= set(names(hits)) <= set(map(str, range(side - 1, 9)))
        assert all(boxes_module.area(hit.regions[0].box) >= 64 * side**2 for hit in hits)
        assert names(engine.search(Query("red", min_area=0))) == list("87654321")
        assert names(engine.search(Query("red", min_area="100%")))[0] == "8"


@pytest.mark.parametrize("k", [1, 3, 9, 10, 11, 99])
@pytest.mark.parametrize("shortlist", ["auto", "all", 25])
def test_k_is_filled_from_further_down(tmp_path: Path, k: int, shortlist: str | int) -> None:
    for number in range(30):  # Each photo has fewer red patches than the one before.
        left, wide = (32, 32) if number < 20 else (0, 24)
        rest = (30 - number) % 3 * 8
        rows = 8 * ((30 - number) // 5)
        boxes = [(left, 0, left + wide, rows + 8), (left, rows + 8, left + rest, rows + 16)]
        squares = [("red", box) for box in boxes if box[2] > box[0]]
        paint(tmp_path / "photos" / f"{number:02d}.png", squares, dpi=(72 + number, 72))
    with indexed(tmp_path) as engine:
        everything = engine.search("red", 30, shortlist=shortlist)
        expected = [hit.path for hit in everything if hit.regions[0].box[2] <= 32]
        hits = engine.search(Query("red", position="left"), k, shortlist=shortlist)
        assert [hit.path for hit in hits] == expected[:k]
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
        few = engine.search(Query("red", position="left"), k, shortlist=shortlist, filter=Filter(extension="png"))
        assert [hit.path for hit in few] == expected[:k]
        assert (
            engine.search(Query("red", position="left"), k, shortlist=shortlist, min_score=everything[3].score).hits
            == ()
        )


@pytest.mark.parametrize("most", [5, 8, 40, 1000])
def test_no_more_photos_are_looked_at_than_that(tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for area in range(1, 61):
        paint_red(tmp_path / "photos" / f"{area:02d}.png", area)
    seen: list[int] = []
    inspect = Inspector.inspect

    def look(self: Any, ranked: Sequence[Any], *rest: Any) -> Any:
        seen.extend(one.content for one in ranked)
        return inspect(self, ranked, *rest)

    monkeypatch.setattr(Inspector, "inspect", look)
    with indexed(tmp_path, policy=SearchPolicy(max_inspected_images=most)) as engine:
        found = engine.search(Query("red", position="bottom"), 2)
        assert found.hits == ()
        assert len(seen) == len(set(seen)) == min(most, 60)
        seen.clear()
        engine.search("red", 3)
        assert len(seen) == 3


def test_scope_and_conditions_together(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        for side in ("left", "right"):
            left = 0 if side == "left" else 40
            paint(tmp_path / "photos" / folder / f"{side}.png", [("red", (left, 0, left + 24, 24))])
    with indexed(tmp_path) as engine:
        terms = Query("red", position="left")
        assert [Path(h.path).parent.name for h in engine.search(terms)] == ["one", "two"]
        (hit,) = engine.search(terms, filter=Filter(folder=str(tmp_path / "photos" / "two")))
        assert hit.path == str(tmp_path / "photos" / "two" / "left.png")  # No twin of it is found.
        assert engine.search(terms, filter=Filter(extension="jpg")).hits == ()


# -- several views of a photo


def test_regions_of_tiles_are_in_pixels_of_the_photo_and_one_thing_is_one_region(tmp_path: Path) -> None:
    """Each square lies in two tiles at least, and in the whole: of their boxes the best stays."""
    boxes = [(16, 16, 64, 64), (192, 16, 240, 64), (16, 192, 64, 240)]
    paint(tmp_path / "photos" / "a.png", [("red", box) for box in boxes], size=(BIG, BIG))
    with indexed(tmp_path, "tiles:4") as engine:
        (hit,) = engine.search("red")
        assert (hit.width, hit.height) == (BIG, BIG)
        assert len(hit.regions) == 3
        for box in boxes:
            assert min(by_hand.reach(one.box, box) for one in hit.regions) <= 32
        for one in hit.regions:
            for other in hit.regions:
                assert one is other or boxes_module._overlap(one.box, other.box) <= boxes_module.NMS_OVERLAP
        assert [one.score for one in hit.regions] == sorted((one.score for one in hit.regions), reverse=True)
        assert engine.show(tmp_path / "photos" / "a.png", "red").regions == hit.regions


@pytest.mark.parametrize("shortlist", ["auto", "all"])
def test_k_photos_though_one_has_many_views(tmp_path: Path, shortlist: str) -> None:
    """`auto` starts with views of a single photo; nothing predicts scores."""
    few = SearchPolicy(exhaustive_views=5, max_auto_views=8, max_auto_share=0.0, initial_factor=1)
    paint(tmp_path / "photos" / "best.png", background="red", size=(BIG, BIG))
    for number in range(1, 8):
        paint(tmp_path / "photos" / f"{number}.png", [("red", (0, 0, BIG, 30 * number))], size=(BIG, BIG))
    indexed(tmp_path, "tiles:9").close()  # With the default policy, so that nothing predicts scores.
    with fake_engine(tmp_path / "index", "tiles:9", policy=few) as engine:
        views = engine.status().views // 8
        assert views >= 10
        for k in (1, 2, 5, 8, 20):
            for terms in ("red", Query(["red", "black"])):
                hits = engine.search(terms, k, shortlist=shortlist)
                assert len({hit.path for hit in hits}) == len(hits) == min(k, 8)
        assert len(engine.search("red", 8, shortlist=3)) < 8  # Three views show fewer photos.


# -- indexes of every kind


def test_an_empty_index_and_one_smaller_than_k(tmp_path: Path) -> None:
    terms = [Query(["red", "blue"]), Query("red", exclude="blue", position="left", min_area=0.1)]
    with fake_engine(tmp_path / "index") as engine:
        assert [result.hits for result in engine.search_many(terms, 5)] == [(), ()]
        assert not engine.search(terms[1], 5, shortlist="all", min_score=0.5).hits
        paint_red(tmp_path / "photos" / "1.png", 20)
        engine.add(tmp_path / "photos")
        assert [len(hits) for hits in engine.search_many(terms[:1], 10**6)] == [1]


def test_a_lost_segment_with_phrases_and_conditions(tmp_path: Path) -> None:
    for number in range(6):
        mosaic(tmp_path / "photos" / f"{number}.png", number)
    with indexed(tmp_path) as engine:
        for number in range(6, 12):
            mosaic(tmp_path / "photos" / f"{number}.png", number)
        engine.add()
        before = names(engine.search(Query(["red", "blue"]), 12))
    (tmp_path / "index" / "segments" / "000001.tokens").unlink()
    with fake_engine(tmp_path / "index") as engine:
        hits = engine.search(Query(["red", "blue"]), 12)
        assert names(hits) == [name for name in before if int(name) >= 6]
        assert (len(hits.warnings), hits.complete) == (1, False)
        assert {*names(engine.search(Query("red", exclude="blue", position="top"), 12))} <= set(names(hits))


def test_pieces_of_the_winners_make_no_difference(tmp_path: Path) -> None:
    for number in range(11):
        mosaic(tmp_path / "photos" / f"{number}.png", number)
    with indexed(tmp_path, "tiles:4") as engine:
        expected = [(hit.path, hit.score, hit.regions) for hit in engine.search(Query(["red", "blue"]), 11)]
    with fake_engine(tmp_path / "index", "tiles:4", policy=SearchPolicy(inspection_batch=3)) as engine:
        assert [(h.path, h.score, h.regions) for h in engine.search(Query(["red", "blue"]), 11)] == expected


@pytest.mark.parametrize("codec", ["int8", "q4"])
def test_regions_and_scores_of_places_in_other_codecs(tmp_path: Path, codec: str) -> None:
    for number, colour in enumerate(sorted(COLOURS)[1:]):
        paint(tmp_path / "photos" / f"{number}.png", [(colour, (8, 8, 40, 40)), ("white", (48, 48, 64, 64))])
    with indexed(tmp_path) as engine:
        red = tmp_path / "photos" / "4.png"
        before = engine.show(red, Query(["red", "white"]))
        list(engine.compact(codec))
        after = engine.show(red, Query(["red", "white"]))
    assert after.path == before.path
    assert after.score == pytest.approx(before.score, abs=0.03)
    assert all(by_hand.reach(one.box, other.box) <= 4 for one, other in zip(after.regions, before.regions, strict=True))


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    paint_red(tmp_path / "photos" / "1.png", 20)
    with indexed(tmp_path) as engine, pytest.raises(UsageError, match="give a text or an image"):
        engine.search(Query([]))
