"""Pages put together are one long answer: no gap, no repeat, ranks that go on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flairsearch.core.errors import UsageError
from flairsearch.core.filters import Filter
from flairsearch.core.hits import Hit
from flairsearch.core.query import Query
from flairsearch.core.request import SearchResult
from flairsearch.engine import Engine
from flairsearch.search.inspection import Inspector
from flairsearch.search.policy import DEFAULT_POLICY, SearchPolicy
from tests.support.bank_encoder import BankEncoder
from tests.support.fake import SIZE, fake_engine, mosaic, paint, paint_red

AREAS = [
    5,
    40,
    1,
    23,
    64,
    12,
    40,
    31,
    40,
    5,
    5,
    64,
    2,
    33,
    40,
    17,
]  # Number of red patches of each photo; many are equal.


def make(folder: Path) -> Path:
    """Photos with ties; files that are the same, in two folders and in both orders of their ids; half red, half not."""
    for i, area in enumerate(AREAS):
        paint_red(folder / "one" / f"{i:02d}.png", area, mark=i)
    for i, colour in enumerate(("red", "green", "red", "blue", "red", "white")):
        left = (0, 0, SIZE // 2, SIZE)
        paint(folder / "two" / f"{i}.png", [("red", left), (colour, (SIZE // 2, 0, SIZE, SIZE))], dpi=(100 + i, 100))
    for i, source in enumerate(("one/04.png", "one/01.png", "two/2.png", "one/04.png", "one/00.png")):
        (folder / "two").mkdir(exist_ok=True)
        shutil.copy(folder / source, folder / "two" / f"again{i}.png")
        shutil.copy(folder / source, folder / "one" / f"zagain{i}.png")
    return folder


@pytest.fixture(scope="module", params=["squash", "tiles:4"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("paging")
    with fake_engine(folder / "index", request.param) as engine:
        engine.add(make(folder / "photos"))
        yield engine


def pages(engine: Engine, what: Any, k: int, upto: int, **how: Any) -> list[Hit]:
    """All pages of k hits, until one is not full; and one more, which is empty."""
    hits: list[Hit] = []
    while len(hits) <= upto:
        page = engine.search(what, k, offset=len(hits), **how)
        assert len(page) <= k
        hits += page
        if len(page) < k:
            assert engine.search(what, k, offset=len(hits), **how).hits == ()
            assert engine.search(what, k, offset=len(hits) + 100, **how).hits == ()
            break
    return hits


def check(hits: Sequence[Hit] | SearchResult, whole: Sequence[Hit] | SearchResult) -> None:
    assert [(hit.image, hit.path) for hit in hits] == [(hit.image, hit.path) for hit in whole]
    assert [hit.rank for hit in hits] == list(range(1, len(whole) + 1))
    for hit, same in zip(hits, whole, strict=True):
        assert hit.score == pytest.approx(same.score, abs=1e-6)
        assert (hit.regions, hit.width, hit.height) == (same.regions, same.width, same.height)
        assert [phrase.regions for phrase in hit.phrases] == [phrase.regions for phrase in same.phrases]
        assert hit.logit == pytest.approx(same.logit, abs=1e-5)
    assert len({hit.image for hit in hits}) == len(hits)
    assert [(-hit.score, hit.image) for hit in whole] == sorted((-hit.score, hit.image) for hit in whole)


ASKED: dict[str, Any] = {
    "a text": "red",
    "ties everywhere": "black",
    "two phrases": Query(["red", "blue"]),
    "at the left": Query("red", position="left"),
    "at the right and large": Query("red", position="right", min_area="10%"),
    "not black": Query("red", exclude="black"),
    "not green, at the top": Query(["red", "white"], exclude="green", position="top"),
    "nothing fits": Query("red", min_area="100%", position="left"),
}


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("shortlist", ["auto", 9])
def test_pages_are_one_long_answer(engine: Engine, name: str, shortlist: str | int) -> None:
    whole = engine.search(ASKED[name], 200, shortlist=shortlist)
    if shortlist != 9 and not getattr(ASKED[name], "position", ()):
        assert len(whole) >= (10 if "not" in name else 32)
    for k in (1, 12, 33) if name == "a text" else (7, 33):
        check(pages(engine, ASKED[name], k, len(whole), shortlist=shortlist), whole)


@pytest.mark.parametrize("name", ["a text", "two phrases", "at the left", "not black"])
@pytest.mark.parametrize("folder", ["one", "two"])
def test_pages_in_a_folder(engine: Engine, name: str, folder: str) -> None:
    """Of identical files only those in scope, whatever lies outside."""
    (root,) = engine.status().roots
    scope = Filter(folder=f"{root}/{folder}")
    whole = engine.search(ASKED[name], 200, filter=scope)
    assert whole
    assert all(hit.path.startswith(f"{root}/{folder}/") for hit in whole)
    everything = engine.search(ASKED[name], 200)
    if name in ("a text", "two phrases"):
        inside = [hit.image for hit in everything if hit.path.startswith(f"{root}/{folder}/")]
        assert [hit.image for hit in whole] == inside
    for k in (5, 50):
        check(pages(engine, ASKED[name], k, len(whole), filter=scope), whole)


@pytest.mark.parametrize("name", ["a text", "at the left"])
def test_pages_end_at_the_least_score(engine: Engine, name: str) -> None:
    everything = engine.search(ASKED[name], 200)
    scores = sorted({hit.score for hit in everything}, reverse=True)
    for least in (2.0, scores[0], scores[len(scores) // 2], -2.0):
        whole = [hit for hit in everything if hit.score >= least]
        check(pages(engine, ASKED[name], 8, len(whole), min_score=least), whole)


def test_pages_from_any_place(engine: Engine) -> None:
    """Not only from where another ends."""
    for what in (ASKED["a text"], ASKED["not black"]):
        whole = engine.search(what, 200)
        for offset, k in ((0, 4), (3, 1), (10, 7), (len(whole) - 2, 40), (len(whole), 3)):
            page = engine.search(what, k, offset=offset)
            assert [hit.image for hit in page] == [hit.image for hit in whole[offset : offset + k]]
            assert [hit.rank for hit in page] == list(range(offset + 1, offset + 1 + len(page)))


def test_several_queries_have_pages_too(engine: Engine) -> None:
    several = [ASKED[name] for name in ("a text", "two phrases", "not black")]
    whole = engine.search_many(several, 200)
    second = engine.search_many(several, 5, offset=5)
    for found, expected in zip(second, whole, strict=True):
        assert [(hit.rank, hit.image) for hit in found] == [(hit.rank, hit.image) for hit in expected[5:10]]


@pytest.mark.parametrize("offset", [-1, -200])
def test_an_offset_below_nothing(engine: Engine, offset: int) -> None:
    with pytest.raises(UsageError, match=f"offset: {offset} hits - "):
        engine.search("red", 5, offset=offset)


def test_an_offset_far_beyond(engine: Engine, tmp_path: Path) -> None:
    for what in (ASKED["a text"], ASKED["not black"]):
        assert engine.search(what, 5, offset=10**6).hits == ()
    with fake_engine(tmp_path / "index") as empty:
        assert empty.search("red", 5, offset=3).hits == ()


def test_later_pages_look_at_what_they_show_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    real = Inspector.inspect

    def inspect(self: Inspector, ranked: Any, *rest: Any) -> Any:
        looked.append(len(ranked))
        return real(self, ranked, *rest)

    monkeypatch.setattr(Inspector, "inspect", inspect)
    assert len(engine.search("red", 3, offset=20)) == 3
    assert looked
    assert sum(looked) <= 3


@pytest.mark.parametrize("name", ["at the left", "not black"])
def test_what_was_judged_for_a_page_is_not_judged_for_the_next(
    engine: Engine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    real = Inspector._inspect_batch

    def inspect_batch(self: Inspector, ranked: Any, *rest: Any) -> Any:
        looked.extend(one.content for one in ranked)
        return real(self, ranked, *rest)

    monkeypatch.setattr(Inspector, "_inspect_batch", inspect_batch)
    with fake_engine(engine.folder) as fresh:  # It remembers nothing yet.
        whole = fresh.search(ASKED[name], 200)
        judged = len(looked)
        check(pages(fresh, ASKED[name], 5, len(whole)), whole)
        assert len(looked) == judged == len(set(looked)) > 5
        fresh.search(Query("red", position="right"), 5)  # Another query about the same photos.
        assert len(looked) > judged


def test_what_is_remembered_is_bounded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    memos: list[dict[Any, Any]] = []
    real = Inspector._remember

    def remember(self: Inspector, *rest: Any) -> None:
        real(self, *rest)
        memos.append(dict(self._memo))

    monkeypatch.setattr(Inspector, "_remember", remember)
    for text in ("red", "green", "blue", "white", "black", "red"):
        engine.search(Query(text, position="left"), 5)
    assert len(memos[-1]) == DEFAULT_POLICY.max_memo_queries
    engine.search(Query("red", position="left"), 5)
    engine.search(Query("a red thing", position="left"), 5)  # "red" was asked for later than others, and stays.
    assert any(key[0][0][0] == "red" for key in memos[-1])
    with fake_engine(engine.folder, policy=SearchPolicy(max_memo_hits=4)) as forgetful:
        assert len(forgetful.search(Query("red", position="left"), 5)) == 5
        assert not memos[-1]


def test_hits_that_are_remembered_cannot_be_written_into(engine: Engine) -> None:
    (phrase,) = engine.search(Query("red", position="left"), 1)[0].phrases
    with pytest.raises(ValueError, match="read-only"):
        phrase.heat[:] = 0


# -- a shortlist that grows from page to page


def shrunk(**thresholds: int) -> SearchPolicy:
    """So that a hundred photos are many."""
    return SearchPolicy(**{"exhaustive_views": 20, "max_auto_share": 0, **thresholds})


def test_pages_of_a_fitted_index(tmp_path: Path) -> None:
    """Thresholds made small: each page is as `all` has it, though each ranks other views."""
    policy = shrunk(max_auto_views=45)
    for number in range(120):
        mosaic(tmp_path / "photos" / f"{number}.png", number)
    shutil.copy(tmp_path / "photos" / "7.png", tmp_path / "photos" / "again.png")
    with fake_engine(tmp_path / "index", encoder=BankEncoder(), policy=policy) as engine:
        engine.add(tmp_path / "photos")
        for text in ("red", "blue", "white"):
            whole = engine.search(text, 200, shortlist="all")
            assert len(whole) == 121
            for k in (1, 4):
                found = [engine.search(text, k, offset=k * page) for page in range(5)]
                check([hit for page in found for hit in page], whole[: 5 * k])
                assert found[-1].stats.views_ranked < 121
            assert len(engine.search(text, 21, offset=100)) == 21
            assert engine.search(text, 5, offset=121).hits == ()


def test_what_conditions_leave_out_is_made_up_for(tmp_path: Path) -> None:
    """Few of many photos fulfil the conditions: however many are asked for at once, those are found."""
    policy = shrunk(max_auto_views=110, initial_factor=1, verify_factor=2, verify_growth=2)
    for number in range(120):
        mosaic(tmp_path / "photos" / f"{number}.png", number)
    with fake_engine(tmp_path / "index", encoder=BankEncoder(), policy=policy) as engine:
        engine.add(tmp_path / "photos")
        for asked in (Query("red", position=["left", "top"]), Query("blue", exclude="white", position="right")):
            whole = engine.search(asked, 200, shortlist="all")
            some = engine.search(asked, 4)
            assert 12 < len(whole) < 90
            check(some, whole[:4])
            assert some.stats.views_ranked < 110
            for k in (1, 4):
                found = [engine.search(asked, k, offset=k * page) for page in range(12 // k)]
                check([hit for page in found for hit in page], whole[:12])
                assert [page.stats.images_not_judged for page in found] == [0] * len(found)
                assert all(page.complete and not page.warnings for page in found)
    at_most_20 = replace(policy, max_inspected_images=20)
    with fake_engine(tmp_path / "index", encoder=BankEncoder(), policy=at_most_20) as engine:
        hits = engine.search(Query("red", position=["left", "top"], min_area="20%"), 15)
        assert len(hits) < 15
        assert hits.stats.images_not_judged == 100
        assert not hits.complete
        assert "100 others were not looked at" in hits.warnings[0]
        assert 20 <= hits.stats.views_ranked < 110


def test_tiles_of_few_photos_are_not_enough_for_conditions(tmp_path: Path) -> None:
    policy = shrunk(max_auto_views=60, initial_factor=1, verify_factor=2, verify_growth=2)
    for number in range(80):
        mosaic(tmp_path / "photos" / f"{number}.png", number)
    asked = Query("red", position=["left", "top"], min_area="5%")
    with fake_engine(tmp_path / "index", "tiles:4", encoder=BankEncoder(), policy=policy) as engine:
        engine.add(tmp_path / "photos")
        whole = engine.search(asked, 100, shortlist="all")
        assert len(whole) > 12
        hits = engine.search(asked, 12)
        check(hits, whole[:12])
        assert hits.stats.images_not_judged == 0
        for least in (None, -1.0):  # A score that hides nothing says nothing of the photos that were not ranked.
            found = engine.search(asked, 12, shortlist=20, min_score=least)
            assert len(found) < 12
            assert found.stats.images_not_judged > 0
        found = engine.search(asked, 12, shortlist=20, min_score=2.0)
        assert len(found) == 0
        assert found.stats.images_not_judged == 0
