"""Rankings that are known exactly: red patches on black, more of them score higher."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake import GRID, PATCHES, SIZE, FakeEncoder, expected_score, fake_engine, paint, paint_red

from flairsearch import query
from flairsearch.engine import Engine
from flairsearch.errors import UsageError
from flairsearch.query import shortlist_size
from flairsearch.records import Hit
from flairsearch.settings import EXHAUSTIVE_VIEWS

AREAS = [5, 40, 1, 23, 64, 12, 40, 31]  # red patches of each photo; two of them tie


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    for i, area in enumerate(AREAS):
        paint_red(tmp_path / "photos" / f"{i}.png", area, mark=i)
    engine = fake_engine(tmp_path / "index")
    engine.add(tmp_path / "photos")
    return engine


def numbers(hits: list[Hit]) -> list[int]:
    return [int(Path(hit.path).stem) for hit in hits]


def oracle(areas: list[int], k: int) -> list[int]:
    """Photos by falling area, equal ones in the order they were indexed."""
    return np.lexsort((range(len(areas)), -np.asarray(areas))).tolist()[:k]


@pytest.mark.parametrize("k", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("shortlist", ["all", "auto", 8, "100"])
def test_order_is_exhaustive(engine: Engine, k: int, shortlist: str | int) -> None:
    hits = engine.search("red", k=k, shortlist=shortlist)
    assert numbers(hits) == oracle(AREAS, k)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    for hit, number in zip(hits, numbers(hits), strict=True):
        assert hit.score == pytest.approx(expected_score(AREAS[number]), abs=1e-3)
        assert hit.logit == pytest.approx(10 * hit.score - 10, abs=1e-5)
        assert (hit.width, hit.height) == (SIZE, SIZE)
        assert hit.attention.shape == (GRID, GRID)


def test_score_global_is_the_cosine_of_the_pooled_vector(engine: Engine) -> None:
    (query,) = FakeEncoder().encode_texts(["red"])
    direction = query.vector / np.linalg.norm(query.vector)
    for hit, number in ((hit, int(Path(hit.path).stem)) for hit in engine.search("red", k=8)):
        share = AREAS[number] / PATCHES
        pooled = np.asarray([2 * share - 1, -1, -1, 1])
        assert hit.score_global == pytest.approx(pooled @ direction / np.linalg.norm(pooled), abs=2e-3)


def test_only_the_shortlist_is_ranked(engine: Engine, tmp_path: Path) -> None:
    """Cyan beside red moves the global token away from red, and the score not at all."""
    paint(tmp_path / "photos" / "90.png", [("red", (0, 0, SIZE, 32)), ("cyan", (0, 32, SIZE, SIZE))])
    engine.add()
    everything = engine.search("red", k=9, shortlist="all")
    assert numbers(everything) == [4, 1, 6, 90, 7, 3, 5, 0, 2]
    by_global = sorted(everything, key=lambda hit: -hit.score_global)
    assert numbers(by_global)[-1] == 90
    for size in range(1, 10):
        hits = engine.search("red", k=9, shortlist=size)
        if size != 2:  # between 1 and 6, whose global tokens are equal
            shortlist = {hit.path for hit in by_global[:size]}
            assert [hit.path for hit in hits] == [hit.path for hit in everything if hit.path in shortlist]
        assert len(hits) == size


def test_equal_scores_go_by_image_id_whatever_the_views(engine: Engine, tmp_path: Path) -> None:
    """An image that changed has the newest view and still its old, smaller id."""
    paint_red(tmp_path / "photos" / "0.png", 64, mark=50)
    engine.add()
    assert numbers(engine.search("red", k=1)) == [0]
    assert numbers(engine.search("red", k=2)) == [0, 4]
    assert numbers(engine.search("red", k=3)) == [0, 4, 1]


def test_identical_files_are_several_hits(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "photos" / "99.png").write_bytes((tmp_path / "photos" / "4.png").read_bytes())
    engine.add()
    assert numbers(engine.search("red", k=2)) == [4, 99]
    assert numbers(engine.search("red", k=1)) == [4]
    assert engine.show(tmp_path / "photos" / "99.png", "red").path == str(tmp_path / "photos" / "99.png")
    assert engine.show(tmp_path / "photos" / "99.png", "red").rank == 1


def test_min_score(engine: Engine) -> None:
    limit = (expected_score(31) + expected_score(40)) / 2
    assert numbers(engine.search("red", k=8, min_score=limit)) == [4, 1, 6]
    assert engine.search("red", k=8, min_score=2.0) == []
    assert len(engine.search("red", k=8, min_score=-2.0)) == 8


@pytest.mark.parametrize("seed", range(40))
def test_the_best_of_many_views_are_those_of_a_full_sort(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few contents or many, of one view each or of most of the best ones; ties everywhere or nowhere; no numbers."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 400))
    contents = rng.integers(0, [3, 50, 10**6][seed % 3], count)
    scores = rng.normal(size=count).astype(np.float32)
    if seed % 2:
        scores = np.round(scores, 1)
    if seed % 5 == 0:
        scores[contents == 1] += 10
    if seed % 7 == 0:
        scores[rng.random(count) < 0.1] = -np.inf
    searcher = query.Searcher.__new__(query.Searcher)
    searcher.reader = SimpleNamespace(contents=lambda views: contents[np.searchsorted(all_views, views)])
    monkeypatch.setattr(searcher, "_attend", lambda views, text: views, raising=False)
    all_views = np.sort(rng.permutation(10**4)[:count])
    for k, least in product((1, 2, 10, 60, 500), (None, 0.5, 9.0, 99.0)):
        order = np.lexsort((all_views, -scores))
        best = order[np.sort(np.unique(contents[order], return_index=True)[1])]
        if least is not None:
            best = best[scores[best] >= least]
        if len(best) > k:
            best = best[scores[best] >= scores[best[k - 1]]]
        ranking = searcher._rank(all_views, scores, FakeEncoder().encode_texts(["red"])[0], k, least)
        np.testing.assert_array_equal(ranking.views, all_views[best])
        np.testing.assert_array_equal(ranking.scores, scores[best])


def test_few_of_many_views_are_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).permutation(10**5).astype(np.float32)
    looked_at = []
    searcher = query.Searcher.__new__(query.Searcher)
    searcher.reader = SimpleNamespace(contents=lambda views: looked_at.append(len(views)) or views // 5)
    best = searcher._best(np.arange(10**5), scores, 10)
    assert scores[best[0]] == 10**5 - 1
    assert looked_at == [40]


def test_empty_index(tmp_path: Path) -> None:
    engine = fake_engine(tmp_path / "index")
    assert engine.search("red", k=5) == []
    assert engine.search("red", k=5, shortlist="all", min_score=0.1) == []


@pytest.mark.parametrize(("place", "views"), [((8, 16, 48, 56), "squash"), ((72, 16, 112, 56), "center")])
def test_region_is_where_the_colour_is(tmp_path: Path, place: tuple[int, int, int, int], views: str) -> None:
    width = SIZE if views == "squash" else 3 * SIZE
    left, top, right, bottom = place
    paint(tmp_path / "photos" / "1.png", [("red", (left, top, right, bottom))], size=(width, SIZE))
    engine = fake_engine(tmp_path / "index", views)
    engine.add(tmp_path / "photos")
    (hit,) = engine.search("red")
    assert [region.box for region in hit.regions] == [place]
    assert hit.regions[0].score == pytest.approx(1.0, abs=1e-3)
    shown = engine.show(tmp_path / "photos" / "1.png", "red")
    assert shown.regions == hit.regions
    assert shown.score == pytest.approx(hit.score)
    assert shown.score_global == pytest.approx(hit.score_global, abs=1e-5)
    assert (shown.width, shown.height) == (width, SIZE)


def test_k_must_be_positive(engine: Engine) -> None:
    with pytest.raises(UsageError):
        engine.search("red", k=0)


def test_shortlist_sizes() -> None:
    assert shortlist_size("all", 10**6) == 10**6
    assert shortlist_size("auto", 10**6) == 22_000
    assert shortlist_size("auto", EXHAUSTIVE_VIEWS) == EXHAUSTIVE_VIEWS
    assert shortlist_size("auto", EXHAUSTIVE_VIEWS + 1) <= EXHAUSTIVE_VIEWS + 1
    assert shortlist_size("auto", 7) == shortlist_size("9", 7) == 7
    assert shortlist_size(3, 7) == shortlist_size("3", 7) == 3
    for bad in ("", "some", "-1", 0, "1.5"):
        with pytest.raises(UsageError, match="auto, all"):
            shortlist_size(bad, 7)


@pytest.mark.parametrize("shortlist", ["all", 2])
@pytest.mark.parametrize("share", [0, 2, 1000])
def test_many_texts_are_answered_as_one_by_one(
    tmp_path: Path, shortlist: str | int, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether their candidates are scored together or each text's alone."""
    monkeypatch.setattr(query, "MUCH_THE_SAME", share)
    for number, colour in enumerate(("red", "green", "blue", "cyan", "white", "yellow")):
        paint(tmp_path / "photos" / f"{number}.png", [(colour, (0, 0, 8 * number + 8, 32))])
    texts = ["red", "blue", "white", "red", "cyan"]
    with fake_engine(tmp_path / "index") as engine:
        engine.add(tmp_path / "photos")
        found = engine.search_many(texts, 3, shortlist)
        alone = [engine.search(text, 3, shortlist) for text in texts]
        assert engine.search_many([], 3) == []
    assert [[hit.path for hit in hits] for hits in found] == [[hit.path for hit in hits] for hits in alone]
    for hits, others in zip(found, alone, strict=True):
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in others], abs=1e-6)
        assert [hit.regions for hit in hits] == [hit.regions for hit in others]
    assert {hits[0].path[-5] for hits in found} == {"0", "2", "3", "4"}
