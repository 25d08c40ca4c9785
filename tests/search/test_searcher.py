"""Rankings that are known exactly: red patches on black, more of them score higher."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flairsearch.core.errors import UsageError
from flairsearch.core.filters import Filter
from flairsearch.core.hits import Hit
from flairsearch.core.query import Query
from flairsearch.core.request import SearchRequest
from flairsearch.core.settings import MAX_EXHAUSTIVE_VIEWS
from flairsearch.core.timing import StageTimer
from flairsearch.core.types import EncodedQuery, EncodedText
from flairsearch.engine import Engine
from flairsearch.search import aggregation
from flairsearch.search.aggregation import ScoredImages
from flairsearch.search.places import CandidateViews, Places, ViewScores
from flairsearch.search.policy import DEFAULT_POLICY, SearchPolicy
from flairsearch.search.ranker import Ranker
from flairsearch.store.snapshot import Snapshot
from tests.support import by_hand
from tests.support.bank_encoder import BankEncoder, SumEncoder
from tests.support.fake import (
    COLOURS,
    GRID,
    PATCHES,
    SIZE,
    FakeEncoder,
    expected_score,
    fake_engine,
    mosaic,
    paint,
    paint_red,
)

AREAS = [5, 40, 1, 23, 64, 12, 40, 31]  # Number of red patches of each photo; two are equal.


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


def test_order_is_exhaustive(engine: Engine, subtests: pytest.Subtests) -> None:
    for k, shortlist in product((1, 2, 3, 8, 100), ("all", "auto", 8, "100")):
        with subtests.test(k=k, shortlist=shortlist):
            hits = engine.search("red", k=k, shortlist=shortlist)
            assert numbers(hits) == oracle(AREAS, k)
            assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
            for hit, number in zip(hits, numbers(hits), strict=True):
                assert hit.score == pytest.approx(expected_score(AREAS[number]), abs=1e-3)
                assert hit.logit == pytest.approx(10 * hit.score - 10, abs=1e-5)
                assert (hit.width, hit.height) == (SIZE, SIZE)
                (phrase,) = hit.phrases
                assert (phrase.text, phrase.score, phrase.regions) == ("red", hit.score, hit.regions)
                assert phrase.heat.shape == (GRID, GRID)


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
        if size != 2:  # The score is between those of 1 and 6, whose global tokens are equal.
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
    assert engine.search("red", k=8, min_score=2.0).hits == ()
    assert len(engine.search("red", k=8, min_score=-2.0)) == 8


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 400),
    phrases=st.sampled_from([1, 3]),
    most=st.sampled_from([3, 50, 10**6]),
    ties=st.booleans(),
    one_of_the_best=st.booleans(),
    no_numbers=st.booleans(),
)
@example(seed=0, count=0, phrases=1, most=3, ties=False, one_of_the_best=True, no_numbers=True)
@example(seed=1, count=1, phrases=3, most=50, ties=True, one_of_the_best=False, no_numbers=False)
@example(seed=2, count=400, phrases=1, most=10**6, ties=False, one_of_the_best=False, no_numbers=False)
@example(seed=3, count=400, phrases=3, most=3, ties=True, one_of_the_best=True, no_numbers=True)
@example(seed=4, count=300, phrases=3, most=50, ties=True, one_of_the_best=True, no_numbers=False)
@example(seed=5, count=300, phrases=1, most=50, ties=True, one_of_the_best=False, no_numbers=True)
def test_the_best_of_many_views_are_those_of_a_full_sort(
    seed: int, count: int, phrases: int, most: int, ties: bool, one_of_the_best: bool, no_numbers: bool
) -> None:
    """Few contents or many, of one view each or of most of the best ones; ties everywhere or nowhere; no numbers."""
    rng = np.random.default_rng(seed)
    contents = rng.integers(0, most, count)
    parts = rng.normal(size=(count, phrases)).astype(np.float32)
    if ties:
        parts = np.round(parts, 1)
    if one_of_the_best:
        parts[contents == 1] += 10
    if no_numbers:
        parts[rng.random(count) < 0.1] = -np.inf
    views = np.sort(rng.permutation(10**4)[:count])
    weights = rng.integers(1, 4, phrases)
    grouped = ScoredImages.of(ViewScores(views, contents, parts), (weights / weights.sum()).astype(np.float32))
    each = {int(one): contents == one for one in np.unique(contents)}
    expected = {
        one: by_hand.of_photo(parts[here], weights.tolist(), aggregation.TOP_VIEWS_PER_IMAGE)[0]
        for one, here in each.items()
    }
    assert grouped.contents.tolist() == list(expected)
    np.testing.assert_allclose(grouped.scores, list(expected.values()), atol=1e-5)
    for k in (1, 2, 10, 60, 500):
        order = np.argsort(-grouped.scores, kind="stable")
        last = grouped.scores[order[min(k, len(order)) - 1]] if len(order) else 0
        assert grouped.top_k(k).tolist() == [i for i in order if grouped.scores[i] >= last]
        for place in grouped.top_k(k).tolist():
            ranking = grouped.ranked(place)
            here = each[ranking.content]
            assert (ranking.content, ranking.score) == (grouped.contents[place], grouped.scores[place])
            np.testing.assert_array_equal(ranking.views, views[here])
            np.testing.assert_array_equal(ranking.scores, parts[here])


def test_few_of_many_photos_are_sorted() -> None:
    scores = np.random.default_rng(0).permutation(10**5).astype(np.float32)
    places = np.arange(10**5)
    best = ScoredImages(places, scores[:, None], places, np.append(places, 10**5), scores).top_k(10)
    assert scores[best].tolist() == list(range(10**5 - 1, 10**5 - 11, -1))


def test_empty_index(tmp_path: Path) -> None:
    engine = fake_engine(tmp_path / "index")
    assert engine.search("red", k=5).hits == ()
    assert engine.search("red", k=5, shortlist="all", min_score=0.1).hits == ()


@pytest.mark.parametrize(("place", "views"), [((8, 16, 48, 56), "squash"), ((72, 16, 112, 56), "center")])
def test_region_is_where_the_colour_is(tmp_path: Path, place: tuple[int, int, int, int], views: str) -> None:
    width = SIZE if views == "squash" else 3 * SIZE
    left, top, right, bottom = place
    paint(tmp_path / "photos" / "1.png", [("red", (left, top, right, bottom))], size=(width, SIZE))
    engine = fake_engine(tmp_path / "index", views)
    engine.add(tmp_path / "photos")
    (hit,) = engine.search("red")
    assert [region.box for region in hit.regions] == [place]
    assert hit.regions[0].score == pytest.approx(expected_score(25), abs=1e-4)
    shown = engine.show(tmp_path / "photos" / "1.png", "red")
    assert shown.regions == hit.regions
    assert shown.score == pytest.approx(hit.score)
    assert shown.score_global == pytest.approx(hit.score_global, abs=1e-5)
    assert (shown.width, shown.height) == (width, SIZE)


def test_k_must_be_positive(engine: Engine) -> None:
    with pytest.raises(UsageError):
        engine.search("red", k=0)


def test_shortlist_sizes() -> None:
    assert DEFAULT_POLICY.shortlist_size("all", 10**6) == 10**6
    assert DEFAULT_POLICY.shortlist_size("auto", 10**6) == 22_000
    assert DEFAULT_POLICY.shortlist_size("auto", MAX_EXHAUSTIVE_VIEWS) == MAX_EXHAUSTIVE_VIEWS
    assert DEFAULT_POLICY.shortlist_size("auto", MAX_EXHAUSTIVE_VIEWS + 1) <= MAX_EXHAUSTIVE_VIEWS + 1
    assert DEFAULT_POLICY.shortlist_size("auto", 7) == DEFAULT_POLICY.shortlist_size("9", 7) == 7
    assert DEFAULT_POLICY.shortlist_size(3, 7) == DEFAULT_POLICY.shortlist_size("3", 7) == 3
    for bad in ("", "some", "-1", 0, "1.5"):
        with pytest.raises(UsageError, match="auto, all"):
            DEFAULT_POLICY.shortlist_size(bad, 7)


@pytest.mark.parametrize("shortlist", ["all", 2])
@pytest.mark.parametrize("waste", [0, 2, 1000])
def test_many_texts_are_answered_as_one_by_one(tmp_path: Path, shortlist: str | int, waste: int) -> None:
    """Whether their candidates are scored together or each text's alone."""
    for number, colour in enumerate(("red", "green", "blue", "cyan", "white", "yellow")):
        paint(tmp_path / "photos" / f"{number}.png", [(colour, (0, 0, 8 * number + 8, 32))])
    texts = ["red", "blue", "white", "red", "cyan"]
    with fake_engine(tmp_path / "index", policy=SearchPolicy(shared_scoring_max_waste=waste)) as engine:
        engine.add(tmp_path / "photos")
        found = engine.search_many(texts, 3, shortlist=shortlist)
        alone = [engine.search(text, 3, shortlist=shortlist) for text in texts]
        assert engine.search_many([], 3) == []
    assert [[hit.path for hit in hits] for hits in found] == [[hit.path for hit in hits] for hits in alone]
    for hits, others in zip(found, alone, strict=True):
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in others], abs=1e-6)
        assert [hit.regions for hit in hits] == [hit.regions for hit in others]
    assert {hits[0].path[-5] for hits in found} == {"0", "2", "3", "4"}


# -- a model whose photos rank by the mean of the conditioned cosine and the global token's


def rank_by_hand(engine: Engine, text: str, share: float) -> dict[str, float]:
    """What each photo scores, from what is stored of all of its views; share: of the global cosine."""
    (query,), reader = engine.encoder.encode_texts([text]), Snapshot(engine.folder, engine.settings, engine._catalog)
    ids = reader.views.id
    stored = reader.encoded(ids)
    near = stored.pooled.astype(float) @ query.vector / np.linalg.norm(query.vector.astype(float))
    scores = (1 - share) * by_hand.score(stored.tokens, query, FakeEncoder().pool_weights) + share * near
    images = engine._catalog.images_of(np.unique(reader.views.content).tolist())
    return {
        path: by_hand.of_photo(scores[reader.views.content == content, None], [1], aggregation.TOP_VIEWS_PER_IMAGE)[0]
        for content, several in images.items()
        for _, path in several
    }


@pytest.mark.parametrize("views", ["squash", "tiles:4"])
@pytest.mark.parametrize("codec", ["fp16", "int8"])
def test_photos_rank_by_the_sum_where_the_model_says_so(tmp_path: Path, views: str, codec: str) -> None:
    for number in range(25):
        mosaic(tmp_path / "photos" / f"{number}.png", number)
    with fake_engine(tmp_path / "index", views, SumEncoder(), codec) as engine:
        engine.add(tmp_path / "photos")
        mosaic(tmp_path / "photos" / "25.png", 25)
        engine.add()  # This photo is in another segment.
        moved, near = 0, 1e-5 if codec == "fp16" else 1e-4  # Tokens of int8 are restored in float16.
        for text in ("red", "white", "a blue thing", "cyan"):
            expected, conditioned = (rank_by_hand(engine, text, share) for share in (0.5, 0.0))
            best = sorted(expected, key=lambda path: -expected[path])
            moved += best[:5] != sorted(conditioned, key=lambda path: -conditioned[path])[:5]
            for k, shortlist in ((26, "all"), (5, "auto"), (3, 26)):
                hits = engine.search(text, k, shortlist=shortlist)
                assert [hit.path for hit in hits] == best[:k]
                for hit in hits:
                    assert hit.score == pytest.approx(expected[hit.path], abs=near)
                    assert hit.phrases[0].score == pytest.approx(hit.score, abs=1e-6)
                    assert hit.logit == pytest.approx(10 * hit.score - 10, abs=1e-5)
            shown = engine.show(best[7], text)
            assert shown.score == pytest.approx(expected[best[7]], abs=near)
            limit = (expected[best[3]] + expected[best[4]]) / 2
            assert [hit.path for hit in engine.search(text, 26, min_score=limit)] == best[:4]
            if views == "squash":
                twice = [2 * hit.score - hit.score_global for hit in engine.search(text, 26)]
                assert twice == pytest.approx([conditioned[path] for path in best], abs=2 * near)
        assert moved >= 3
        assert engine.search_many([], 3) == []


def test_what_is_not_wanted_is_judged_by_the_place_alone(tmp_path: Path) -> None:
    """A place has no global token: whatever photos rank by, the same ones are left out."""
    for number in range(30):
        mosaic(tmp_path / "photos" / f"{number}.png", number)
    found = []
    for encoder in (BankEncoder, SumEncoder):
        with fake_engine(tmp_path / encoder.__name__, encoder=encoder()) as engine:
            engine.add(tmp_path / "photos")
            pairs = [Query(wanted, exclude=unwanted) for wanted, unwanted in permutations(sorted(COLOURS)[:5], 2)]
            found.append([sorted(numbers(hits)) for hits in engine.search_many(pairs, 30, shortlist="all")])
    assert found[0] == found[1]
    assert len({tuple(some) for some in found[0]}) > 5


# -- `auto` on an index too large to rank whole: predictions with an error that is known


class Predicted:
    """A ranker of N views with exact and predicted scores f32[Q, N]; infinity: unknown. Query i is the vector [i]."""

    def __init__(self, exact: Any, predicted: Any, each: int = 1) -> None:
        """each: views of a content; the views of a content are neighbours."""
        self.exact, self.scored, self._each = exact.astype(np.float32), 0, each
        self.contents, self._predicted = np.arange(exact.shape[1]) // each, predicted
        self._ranker = Ranker(cast("Places", self), DEFAULT_POLICY)

    # -- as search/places.Places has it

    def count(self, query_filter: Filter) -> int:
        return int(self.exact.shape[1])

    def candidates(
        self, query: EncodedQuery, size: int | None, query_filter: Filter, global_share: float | None
    ) -> CandidateViews:
        numbers = query.vectors[:, 0].astype(int)
        scores = (query.shares @ self._predicted[numbers]).astype(np.float32)
        if size is None:
            views, scores = np.arange(len(scores)), np.zeros(len(scores), np.float32)
        else:
            views = np.argsort(-scores, kind="stable")[:size]
            scores = scores[views]
        return CandidateViews(views, self.contents[views], scores, True)

    def score(self, views: Any, texts: Sequence[EncodedText], global_share: float | None) -> ViewScores:
        views = (np.unique(self.contents[views])[:, None] * self._each + np.arange(self._each)).ravel()
        self.scored += len(views)
        exact = self.exact[[int(text.vector[0]) for text in texts]][:, views].T
        return ViewScores(views, self.contents[views], exact)

    # -- what is asked of it

    def search(self, k: int, shortlist: str | int = "auto", text: Any = 0) -> list[tuple[int, float]]:
        """text: a query's number, or those of its phrases."""
        return self.search_many(k, shortlist, [text])[0]

    def search_many(self, k: int, shortlist: str | int, texts: list[Any]) -> list[list[tuple[int, float]]]:
        """The best contents and their scores, best first."""
        self.scored = 0
        asked = [EncodedQuery(tuple(map(number, np.atleast_1d(text).tolist()))) for text in texts]
        request = SearchRequest(Query("any"), k=k, shortlist=shortlist)
        ranked = self._ranker.rank_many(asked, request, StageTimer())
        assert all(one.candidates is None for one in ranked)  # Without conditions the k best are enough.
        found = [one.images for one in ranked]
        self.reranked = [len(images.views) for images in found]
        assert not any(np.isnan(images.scores).any() for images in found)
        assert all(
            (images.contents[:, None] * self._each == images.views[images.starts[:-1, None]]).all() for images in found
        )
        best = [images.top_k(k)[:k] for images in found]
        return [
            list(zip(images.contents[some].tolist(), images.scores[some].tolist(), strict=True))
            for images, some in zip(found, best, strict=True)
        ]

    def best(self, k: int, text: Any = 0) -> list[int]:
        """The best contents, from all views of each."""
        texts = np.atleast_1d(text)
        views = np.sort(self.exact[texts].reshape(len(texts), -1, self._each), axis=2)[
            ..., -aggregation.TOP_VIEWS_PER_IMAGE :
        ]
        return np.argsort(-views.mean((0, 2)), kind="stable")[:k].tolist()  # type: ignore[no-any-return]


def number(vector: float) -> EncodedText:
    return EncodedText("", np.array([vector], np.float32), np.zeros((1, 1), np.float32), np.zeros(1, np.float32))


def drawn(seed: int, count: int = 20_000, error: float = 0.1, texts: int = 1) -> tuple[Any, Any]:
    """Exact scores, and predicted ones that are wrong by so many of their deviations."""
    rng = np.random.default_rng(seed)
    exact = rng.normal(size=(texts, count))
    return exact, exact + error * rng.normal(size=exact.shape)


@pytest.mark.parametrize("shift", [0, 0.5, -3.0])
@pytest.mark.parametrize("error", [0, 0.02, 0.1, 0.2])
def test_auto_finds_what_ranking_all_finds(error: float, shift: float) -> None:
    """In nearly all cases, and of few views when predictions are good; predictions all too high or low matter not."""
    held, ranked = [], []
    for seed, k in product(range(8), (1, 10, 50)):
        exact, predicted = drawn(seed, error=error)
        views = Predicted(exact, predicted + shift)
        hits = views.search(k)
        held.append(np.isin(np.argsort(-exact[0])[:k], [view for view, _ in hits]).mean())
        ranked.append(views.reranked[0])
        assert [score for _, score in hits] == views.exact[0][[view for view, _ in hits]].tolist()
        assert len(hits) == k
        assert views.reranked == [views.scored]
        assert (
            max(DEFAULT_POLICY.initial_factor * k, 2) <= views.scored <= DEFAULT_POLICY.shortlist_size("auto", 20_000)
        )
    assert np.mean(held) > 0.99
    if error <= 0.02:
        assert np.mean(ranked) < 300


def test_auto_stays_within_its_budget_when_predictions_say_nothing() -> None:
    exact, _ = drawn(0)
    for seed in range(3):
        views = Predicted(exact, drawn(seed + 1)[0])
        assert len(views.search(10)) == 10
        assert views.reranked == [views.scored] == [DEFAULT_POLICY.shortlist_size("auto", 20_000)]


@pytest.mark.parametrize("predicted", [0.0, 0.5, -50.0])
def test_predictions_all_alike(predicted: float) -> None:
    exact, _ = drawn(0)
    views = Predicted(exact, np.full_like(exact, predicted))
    assert views.search(10) == views.search(10, DEFAULT_POLICY.shortlist_size("auto", 20_000))
    views = Predicted(np.full_like(exact, 0.25), np.full_like(exact, predicted))  # All scores are equal, too.
    assert [view for view, _ in views.search(10)] == list(range(10))


@pytest.mark.parametrize("each", [2, 32, 400])
def test_auto_where_contents_have_several_views(each: int) -> None:
    """Alike, so that the first views of the list are of few contents: of too few, at first, where each has 400."""
    held, k = [], 10
    for seed in range(8):
        rng = np.random.default_rng(seed)
        exact = np.repeat(rng.normal(size=20_000 // each), each)[None] + 0.01 * rng.normal(size=(1, 20_000))
        views = Predicted(exact, exact + 0.02 * rng.normal(size=exact.shape), each)
        hits = views.search(k)
        assert len(dict(hits)) == len(hits) == k
        held.append(np.isin(views.best(k), list(dict(hits))).mean())
    assert np.mean(held) > 0.99


def test_auto_gives_as_many_as_are_asked_for() -> None:
    views = Predicted(*drawn(3))
    for k in (1, 100, 2399, 2401, 5000, 19_999, 20_000, 10**6):
        hits = views.search(k)
        assert len({view for view, _ in hits}) == len(hits) == min(k, 20_000), k
        scores = [score for _, score in hits]
        assert scores == sorted(scores, reverse=True), k
        if k >= 4000:
            assert [view for view, _ in hits] == views.best(k), k


@pytest.mark.parametrize("unknown", [1, 10, 500, 1200])
def test_auto_ranks_all_views_that_nobody_predicts(unknown: int) -> None:
    """Any of them may be the best."""
    for seed in range(4):
        exact, predicted = drawn(seed)
        some = np.random.default_rng(seed).permutation(20_000)[:unknown]
        exact[0, some[: len(some) // 2 + 1]] += 4
        predicted[0, some] = np.inf
        views = Predicted(exact, predicted)
        for k in (1, 10):
            assert [view for view, _ in views.search(k)] == views.best(k)
            assert unknown < views.reranked[0] == views.scored <= 2400


def test_auto_where_nearly_nothing_is_predicted() -> None:
    exact, predicted = drawn(0, 2500)
    predicted[:, 1:] = np.inf
    views = Predicted(exact, predicted)
    assert len(views.search(10)) == 10
    assert views.scored == DEFAULT_POLICY.shortlist_size("auto", 2500)
    predicted[:] = np.inf
    assert len(Predicted(exact, predicted).search(10)) == 10


@pytest.mark.parametrize("error", [0.0, 0.1])
def test_auto_with_several_phrases(error: float) -> None:
    """The shortlist goes by the mean of their predictions, and grows until the best means are sure."""
    held, ranked = [], []
    for seed, k in product(range(4), (1, 10)):
        exact, predicted = drawn(seed, error=error, texts=3)
        views = Predicted(exact, predicted - 0.5)
        hits = views.search(k, text=[2, 0])
        assert len(hits) == k
        mean = exact[[0, 2]].mean(0)
        np.testing.assert_allclose([score for _, score in hits], mean[[view for view, _ in hits]], atol=1e-6)
        held.append(np.isin(np.argsort(-mean)[:k], [view for view, _ in hits]).mean())
        ranked.append(views.reranked[0])
    assert np.mean(held) > 0.99
    assert np.mean(ranked) < (300 if not error else 2400)


def test_many_predicted_texts_are_answered_as_one_by_one(subtests: pytest.Subtests) -> None:
    views = Predicted(*drawn(6, texts=5))
    texts = [0, 3, 3, 1, 4, 2]
    for k, shortlist in product((1, 10, 3000), ("auto", "all", 300)):
        with subtests.test(k=k, shortlist=shortlist):
            found = views.search_many(k, shortlist, texts)
            ranked = views.reranked
            assert len(ranked) == len(texts)
            for text, hits, count in zip(texts, found, ranked, strict=True):
                assert views.search(k, shortlist, text) == hits
                assert views.reranked == [count]
                if shortlist == "all":
                    assert [view for view, _ in hits] == views.best(k, text)
                    assert count == 20_000
            assert views.search_many(k, shortlist, []) == []


# -- the same on photos


@pytest.mark.parametrize("encoder", [BankEncoder, SumEncoder])
def test_k_photos_of_a_fitted_index_of_tiles(tmp_path: Path, encoder: type[BankEncoder]) -> None:
    """Scores are those of all views, whatever views `auto` began with; no photo is ranked with a part of its views."""
    few = SearchPolicy(exhaustive_views=20, max_auto_views=8, max_auto_share=0.0, initial_factor=1)
    for number in range(40):
        mosaic(tmp_path / "photos" / f"{number}.png", number)
    asked: list[str | Query] = ["red", Query(["blue", "white"]), Query("green", min_area="5%"), "cyan"]
    with fake_engine(tmp_path / "index", "tiles:4", encoder(), policy=few) as engine:
        engine.add(tmp_path / "photos")
        assert engine.status().views == 200
        everything = engine.search_many(asked, 40, shortlist="all")
        for k in (1, 5, 39, 60):
            found = engine.search_many(asked, k)
            for hits, all_of_them in zip(found, everything, strict=True):
                scores = {hit.path: hit.score for hit in all_of_them}
                assert len({hit.path for hit in hits}) == len(hits) == min(k, len(all_of_them))
                assert [hit.score for hit in hits] == pytest.approx([scores[hit.path] for hit in hits], abs=1e-5)
                assert hits[0].score >= sorted(scores.values())[-4] - 1e-5
            ranked = [result.stats.views_ranked for result in found]
            assert all(views % 5 == 0 for views in ranked)
            assert min(ranked) < 200 or k > 1
        hits = engine.search("red", 5)
        assert numbers(engine.search("red", 5, min_score=hits[2].score)) == numbers(hits[:3])


def test_an_index_of_fitted_vectors_through_its_life(tmp_path: Path) -> None:
    """Thresholds made small: auto gives what all gives, of fewer views, whatever was added and forgotten."""
    few = SearchPolicy(exhaustive_views=20, max_auto_views=45, max_auto_share=0.0)
    photos, texts = tmp_path / "photos", sorted(COLOURS)

    def check(engine: Engine, count: int) -> None:
        assert engine.status().views == count
        for k in (1, 3):
            everything = engine.search_many(texts, k, shortlist="all")
            found: Any = engine.search_many(texts, k)
            ranked = [result.stats.views_ranked for result in found]
            assert [[(hit.path, hit.score) for hit in hits] for hits in found] == [
                [(hit.path, pytest.approx(hit.score, abs=1e-5)) for hit in hits] for hits in everything
            ]
            assert max(ranked) <= max(45, 4 * k)
            assert min(ranked) < count or count <= 20
            for text, hits, number in zip(texts, found, ranked, strict=True):
                alone = engine.search(text, k)
                assert [hit.path for hit in alone] == [hit.path for hit in hits]
                assert alone.stats.views_ranked == number
        assert len(engine.search("red", count + 5)) == count

    with fake_engine(tmp_path / "index", encoder=BankEncoder(), policy=few) as engine:
        for number in range(15):
            mosaic(photos / f"{number}.png", number)
        engine.add(photos)
        check(engine, 15)
        assert not (tmp_path / "index" / "fitted").exists()
        for number in range(15, 120):
            mosaic(photos / f"{number}.png", number)
        engine.add()
        check(engine, 120)
        (photos / "again.png").write_bytes((photos / "4.png").read_bytes())
        for number in range(120, 124):
            mosaic(photos / f"{number}.png", number)
        engine.add()
        assert engine.status().images == 125
        (photos / "again.png").unlink()
        engine.add()
        check(engine, 124)
        for number in (0, 50, 119, 123):
            engine.forget(photos / f"{number}.png")
        check(engine, 120)
        list(engine.compact())
        check(engine, 120)
        list(engine.compact("int8"))
        check(engine, 120)
    with fake_engine(tmp_path / "index", encoder=BankEncoder(), policy=few) as engine:
        check(engine, 120)
        list(engine.refit())
    with fake_engine(tmp_path / "index", encoder=BankEncoder(), policy=few) as engine:
        check(engine, 120)


def test_global_scores_need_no_longer_shortlist_than_k(tmp_path: Path) -> None:
    """By global tokens alone, the candidates are exact, although the index has predictions of another score."""
    few = SearchPolicy(exhaustive_views=20, max_auto_views=45, max_auto_share=0.0)
    for number in range(60):
        mosaic(tmp_path / "photos" / f"{number}.png", number)
    with fake_engine(tmp_path / "index", encoder=BankEncoder(), policy=few) as engine:
        engine.add(tmp_path / "photos")
        for query in (*sorted(COLOURS)[1:], Query(["red", "blue"])):
            whole = engine.search(query, 60, shortlist="all", score="global")
            assert [hit.score for hit in whole] == pytest.approx([hit.score_global for hit in whole], abs=1e-6)
            for shortlist in (7, "auto"):
                found = engine.search(query, 7, shortlist=shortlist, score="global")
                assert numbers(found) == numbers(whole[:7])
                assert found.stats.views_ranked < 60
