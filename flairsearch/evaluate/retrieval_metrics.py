"""Scores of all pairs -> ranks, recall, and what a shortlist holds of the exhaustive best.

Scores are f32[N, T], N views and T texts, larger is better. Equal scores rank by index, the smaller one first: the
order of a stable descending sort, as everywhere in this package. So the 0-based rank of a view for a text is the number
of views that score more, plus the number of views before it that score the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from flairsearch.evaluate.results import RetrievalRow, Shortlist, ShortlistRow

KS = (1, 5, 10)
TOPS = (10, 100)
SIZES = (50, 100, 200, 500, 1000)  # views of a shortlist
SHARES = (0.01, 0.02, 0.05, 0.1)  # of the collection
OUTSIDE = -1e10  # the reference's score of a text that is not among an image's best
PIECE = 1 << 22  # numbers sorted at once

Scores = NDArray[np.float32]


def best_ranks(scores: Scores, right: NDArray[np.bool_], piece: int = PIECE) -> NDArray[np.int64]:
    """0-based rank of the best right view of every text that has one, in order of the texts: i64[<= T].

    right bool[N, T]: which views answer which text. piece: how many numbers are looked at once.
    """
    found = [np.zeros(0, np.int64)]
    for texts in _pieces(scores.shape, piece):
        some, answers = scores[:, texts], right[:, texts]
        asked = answers.any(0)
        some, answers = some[:, asked], answers[:, asked]
        best = np.where(answers, some, -np.inf).max(0, initial=-np.inf)
        level = some == best
        first = (level & answers).argmax(0)  # of right ones that score the same
        before = np.arange(len(some))[:, None] < first
        found.append((some > best).sum(0) + (level & before).sum(0))
    return np.concatenate(found)


def measure(mode: str, scores: Scores, right: NDArray[np.bool_]) -> Iterator[RetrievalRow]:
    """Text to image and image to text: R@k is the share of ranks < k; mean rank + 1; floor(median) + 1.

    Image to text: the best rank among the image's texts; an image without texts does not count.
    """
    for direction, ranks in (
        ("text to image", best_ranks(scores, right)),
        ("image to text", best_ranks(scores.T, right.T)),
    ):
        recall = {k: float((ranks < k).mean()) for k in KS}
        yield RetrievalRow(mode, direction, recall, float(ranks.mean()) + 1, int(np.median(ranks)) + 1)


def rerank_views(exact: Scores, prefilter: Scores, count: int, piece: int = PIECE) -> Scores:
    """A search engine's way: of each text, the `count` views that the prefilter puts first rank by their exact scores.

    The others rank behind all of them, in the prefilter's order. Exact scores are cosines.
    piece: how many numbers are sorted at once.
    """
    scores = np.empty_like(exact)
    for texts in _pieces(exact.shape, piece):
        place = _places(prefilter[:, texts])
        scores[:, texts] = np.where(place < count, exact[:, texts], -2.0 - place)
    return scores


def topk_texts(exact: Scores, prefilter: Scores, count: int, piece: int = PIECE) -> Scores:
    """The reference's way: of each image, the `count` texts of highest global cosine keep the full score.

    All others get -1e10: they rank behind, by index. piece: how many numbers are sorted at once.
    """
    scores = np.empty_like(exact)
    for views in _pieces(exact.T.shape, piece):
        place = _places(prefilter[views].T).T
        scores[views] = np.where(place < count, exact[views], OUTSIDE)
    return scores


def shortlists(views: int) -> list[Shortlist]:
    """The shortlists looked at in a collection of so many views; none is larger than it."""
    return [
        *(Shortlist(f"{size:,}", min(size, views)) for size in SIZES),
        *(Shortlist(f"{share:.0%}", max(1, round(share * views))) for share in SHARES),
    ]


def shortlist_recall(exact: Scores, prefilters: Mapping[str, Scores], piece: int = PIECE) -> Iterator[ShortlistRow]:
    """Share of the exhaustive top 10 and 100 that lie inside the prefilter's first K, averaged over the texts.

    exact f32[N, T], and f32[N, T] of every prefilter; both break ties by the view's index. Of fewer than 100 views, all
    are the top 100; a shortlist of 50 can hold no more than half of a top 100.
    piece: how many numbers are sorted at once.
    """
    views, texts = exact.shape
    lists = shortlists(views)
    for name, prefilter in prefilters.items():
        held = np.zeros((len(TOPS), len(lists)))
        for some in _pieces(exact.shape, piece):
            order = _order(exact[:, some])[: max(TOPS)]
            places = np.take_along_axis(_places(prefilter[:, some]), order, 0)
            for i, top in enumerate(TOPS):
                held[i] += [(places[:top] < shortlist.views).mean(0).sum() for shortlist in lists]
        for top, sums in zip(TOPS, held, strict=True):
            yield ShortlistRow(name, top, tuple(lists), tuple((sums / texts).tolist()))


def _order(scores: Scores) -> NDArray[np.int64]:
    """f32[n, t] -> of each column, its indices from best to worst."""
    return np.argsort(-np.ascontiguousarray(scores.T), axis=1, kind="stable").T


def _places(scores: Scores) -> NDArray[np.int64]:
    """f32[n, t] -> the 0-based rank of each number in its column."""
    order = _order(scores)
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(len(order))[:, None], 0)
    return places


def _pieces(shape: tuple[int, ...], piece: int) -> Iterator[slice]:
    """Columns of a matrix, so many at once that sorting them needs little memory."""
    rows, columns = shape
    step = max(1, piece // max(1, rows))
    return (slice(start, start + step) for start in range(0, columns, step))
