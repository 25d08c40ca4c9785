"""Ranks and recall against values computed by hand on a small example, and against loops over every pair."""

from __future__ import annotations

import numpy as np
import pytest

from flairsearch.evaluate.retrieval_metrics import (
    best_ranks,
    measure_retrieval,
    rerank_views,
    shortlist_recall,
    shortlist_sizes,
    topk_texts,
)

# Three photos (rows), five captions (columns), two of photo 0, two of photo 1, one of photo 2.
OWNER = [0, 0, 1, 1, 2]
EXACT = np.array(
    [
        [0.9, 0.2, 0.5, 0.1, 0.3],
        [0.4, 0.2, 0.5, 0.8, 0.3],
        [0.4, 0.7, 0.5, 0.6, 0.3],
    ],
    np.float32,
)
GLOBAL = np.array(
    [
        [0.5, 0.1, 0.3, 0.2, 0.3],
        [0.1, 0.3, 0.3, 0.4, 0.1],
        [0.1, 0.2, 0.4, 0.5, 0.1],
    ],
    np.float32,
)
RELEVANT = np.arange(3)[:, None] == np.array(OWNER)


def test_golden_full() -> None:
    """Ranks by hand.

    Caption 1: photo 2 scores higher; photo 1 scores the same but comes later, so the rank is 1. Captions 2 and 4: all
    photos tie, so photo 1 is second and photo 2 third. Photo 2: captions 0 to 3 score higher than its own caption.
    """
    assert best_ranks(EXACT, RELEVANT).tolist() == [0, 1, 1, 0, 2]
    assert best_ranks(EXACT.T, RELEVANT.T).tolist() == [0, 0, 4]
    text, image = measure_retrieval("full", EXACT, RELEVANT)
    assert (text.mode, text.direction) == ("full", "text to image")
    assert text.recall == {1: pytest.approx(0.4), 5: 1.0, 10: 1.0}
    assert (text.mean_rank, text.median_rank) == (pytest.approx(1.8), 2)
    assert image.recall == {1: pytest.approx(2 / 3), 5: 1.0, 10: 1.0}
    assert (image.mean_rank, image.median_rank) == (pytest.approx(4 / 3 + 1), 1)


def test_golden_rerank() -> None:
    """Each caption keeps the two photos of highest global cosine, ties by index; the third photo ranks behind.

    Shortlists: caption 0 {0, 1} (1 and 2 tie), 1 {1, 2}, 2 {2, 0} (0 and 1 tie), 3 {2, 1}, 4 {0, 1} (1 and 2 tie).
    """
    scores = rerank_views(EXACT, GLOBAL, 2)
    outside = [(2, 0), (0, 1), (1, 2), (0, 3), (2, 4)]
    for row in range(3):
        for column in range(5):
            if (row, column) in outside:
                assert scores[row, column] < -1
            else:
                assert scores[row, column] == EXACT[row, column]
    assert best_ranks(scores, RELEVANT).tolist() == [0, 2, 2, 0, 2]


def test_golden_topk_texts() -> None:
    """Each photo keeps the two captions of highest global cosine, ties by index.

    Photo 0 keeps {0, 2} (2 and 4 tie), photo 1 {3, 1} (1 and 2 tie), photo 2 {3, 2}.
    Caption 1: only photo 1 keeps it; of the others photo 0 comes first. Caption 4: no photo keeps it; photo 2 is third.
    Photo 2: captions 3 and 2 keep their scores; its own caption comes after 0 and 1, which tie with it.
    """
    scores = topk_texts(EXACT, GLOBAL, 2)
    low = np.float32(-1e10)
    assert scores.tolist() == [
        [EXACT[0, 0], low, EXACT[0, 2], low, low],
        [low, EXACT[1, 1], low, EXACT[1, 3], low],
        [low, low, EXACT[2, 2], EXACT[2, 3], low],
    ]
    assert best_ranks(scores, RELEVANT).tolist() == [0, 1, 2, 0, 2]
    assert best_ranks(scores.T, RELEVANT.T).tolist() == [0, 0, 4]


def test_median_is_floored() -> None:
    """Ranks 0 and 3 have the median 1.5, whose floor is 1; the printed rank counts from 1."""
    scores = np.array([[4, 9], [1, 3], [2, 8], [3, 7]], np.float32)
    relevant = np.zeros((4, 2), bool)
    relevant[0, 0] = relevant[1, 1] = True
    (text, _) = measure_retrieval("full", scores, relevant)
    assert (text.mean_rank, text.median_rank) == (2.5, 2)


def draw(views: int, texts: int, levels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return exact and global scores with few values, so that most tie, and relevance, with some texts without any."""
    rng = np.random.default_rng(seed)
    exact, global_scores = ((rng.integers(levels, size=(views, texts)) / levels).astype(np.float32) for _ in range(2))
    return exact, global_scores, rng.random((views, texts)) < 2 / views


def ranked(column: np.ndarray) -> list[int]:
    """Return the indices from best to worst, ties by index."""
    return sorted(range(len(column)), key=lambda i: (-float(column[i]), i))


CASES = [(1, 1, 1), (2, 7, 1), (13, 40, 3), (40, 13, 5), (130, 30, 20), (130, 30, 100_000)]
CHUNK = 300  # So few scores at once split even small matrices into several chunks.


@pytest.mark.parametrize(("views", "texts", "levels"), CASES)
def test_ranks_equal_loops(views: int, texts: int, levels: int) -> None:
    exact, _, relevant = draw(views, texts, levels)
    for scores, is_relevant in ((exact, relevant), (exact.T, relevant.T)):
        expected = [
            min(ranked(scores[:, j]).index(i) for i in np.flatnonzero(is_relevant[:, j]))
            for j in range(scores.shape[1])
            if is_relevant[:, j].any()
        ]
        assert best_ranks(scores, is_relevant, CHUNK).tolist() == expected


def test_ranks_of_no_text() -> None:
    assert best_ranks(np.zeros((3, 2), np.float32), np.zeros((3, 2), bool)).tolist() == []


@pytest.mark.parametrize(("views", "texts", "levels"), CASES)
@pytest.mark.parametrize("count", [1, 3, 12, 1000])
def test_modes_equal_loops(views: int, texts: int, levels: int, count: int) -> None:
    exact, global_scores, _ = draw(views, texts, levels)
    found = rerank_views(exact, global_scores, count, CHUNK)
    for j in range(texts):
        order = ranked(global_scores[:, j])
        first, rest = order[:count], order[count:]
        assert ranked(found[:, j]) == sorted(first, key=lambda i: (-exact[i, j], i)) + rest
        assert (found[first, j] == exact[first, j]).all()
    found = topk_texts(exact, global_scores, count, CHUNK)
    for i in range(views):
        first = ranked(global_scores[i])[:count]
        expected = np.full(texts, np.float32(-1e10))
        expected[first] = exact[i, first]
        assert (found[i] == expected).all()
    if count >= max(views, texts):
        assert (rerank_views(exact, global_scores, count, CHUNK) == exact).all()
        assert (found == exact).all()


@pytest.mark.parametrize(("views", "texts", "levels"), CASES)
def test_shortlist_recall_equals_loops(views: int, texts: int, levels: int) -> None:
    exact, global_scores, _ = draw(views, texts, levels)
    rows = list(shortlist_recall(exact, {"global": global_scores, "itself": exact}, CHUNK))
    assert [(row.prefilter, row.top) for row in rows] == [(n, t) for n in ("global", "itself") for t in (10, 100)]
    for row in rows:
        prefilter = global_scores if row.prefilter == "global" else exact
        for shortlist, recall in zip(row.sizes, row.recall, strict=True):
            shares = []
            for j in range(texts):
                best = set(ranked(exact[:, j])[: row.top])
                shares.append(len(best & set(ranked(prefilter[:, j])[: shortlist.views])) / len(best))
            assert recall == pytest.approx(np.mean(shares))
            if row.prefilter == "itself":
                assert recall == pytest.approx(min(1, shortlist.views / min(row.top, views)))


def test_shortlists_by_number_and_by_share() -> None:
    assert [(s.name, s.views) for s in shortlist_sizes(7091)] == [
        *(("50", 50), ("100", 100), ("200", 200), ("500", 500), ("1,000", 1000)),
        *(("1%", 71), ("2%", 142), ("5%", 355), ("10%", 709)),
    ]
    assert [s.views for s in shortlist_sizes(30)] == [30, 30, 30, 30, 30, 1, 1, 2, 3]
