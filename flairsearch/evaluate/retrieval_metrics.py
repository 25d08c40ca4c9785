"""Turn scores of all pairs into ranks, recall, and the share of the exhaustive top that a shortlist contains.

Scores are f32[N, T] for N views and T texts; larger is better. Ties rank by index, the smaller one first, as in a
stable descending sort and as everywhere in this package. So the 0-based rank of a view for a text is the number of
views with a higher score plus the number of earlier views with the same score.
`chunk` is everywhere the number of scores processed at once, which bounds memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from flairsearch.evaluate.results import RetrievalRow, ShortlistRow, ShortlistSize

RECALL_KS = (1, 5, 10)
EXHAUSTIVE_TOPS = (10, 100)  # Shortlists are compared with this many first views of the exhaustive ranking.
SHORTLIST_VIEWS = (50, 100, 200, 500, 1000)  # Measured shortlist lengths, in views.
SHORTLIST_SHARES = (0.01, 0.02, 0.05, 0.1)  # Measured shortlist lengths, as shares of the collection.
EXCLUDED_SCORE = -1e10  # The reference's score of a text that is not among an image's top k.
CHUNK = 1 << 22  # Scores sorted at once: 16 MB of scores and 32 MB of indices.

Scores = NDArray[np.float32]


def best_ranks(scores: Scores, relevant: NDArray[np.bool_], chunk: int = CHUNK) -> NDArray[np.int64]:
    """Return the 0-based rank of the best relevant view of every text that has one, in order of the texts, i64[<= T].

    relevant: bool[N, T], which views are relevant to which text.
    """
    ranks = [np.zeros(0, np.int64)]
    for texts in _column_chunks(scores.shape, chunk):
        has_relevant = relevant[:, texts].any(0)
        part, part_relevant = scores[:, texts][:, has_relevant], relevant[:, texts][:, has_relevant]
        best = np.where(part_relevant, part, -np.inf).max(0, initial=-np.inf)
        is_tied = part == best
        first = (is_tied & part_relevant).argmax(0)  # The first relevant view that has the best score.
        is_before = np.arange(len(part))[:, None] < first
        ranks.append((part > best).sum(0) + (is_tied & is_before).sum(0))
    return np.concatenate(ranks)


def measure_retrieval(mode: str, scores: Scores, relevant: NDArray[np.bool_]) -> Iterator[RetrievalRow]:
    """Measure text to image and image to text: R@k is the share of ranks < k; mean rank + 1; floor(median) + 1.

    Image to text takes the best rank among the image's texts, and ignores images without texts.
    """
    for direction, ranks in (
        ("text to image", best_ranks(scores, relevant)),
        ("image to text", best_ranks(scores.T, relevant.T)),
    ):
        recall = {k: float((ranks < k).mean()) for k in RECALL_KS}
        yield RetrievalRow(mode, direction, recall, float(ranks.mean()) + 1, int(np.median(ranks)) + 1)


def rerank_views(exact: Scores, prefilter: Scores, count: int, chunk: int = CHUNK) -> Scores:
    """Score as a search engine does: for each text, the prefilter's first `count` views get their exact scores.

    The other views rank behind all of these, in the prefilter's order. Exact scores are cosines.
    """
    scores = np.empty_like(exact)
    for texts in _column_chunks(exact.shape, chunk):
        ranks = _ranks(prefilter[:, texts])
        scores[:, texts] = np.where(ranks < count, exact[:, texts], -2.0 - ranks)
    return scores


def topk_texts(exact: Scores, prefilter: Scores, count: int, chunk: int = CHUNK) -> Scores:
    """Score as the reference does: for each image, the `count` texts of highest global cosine keep their exact score.

    All other texts get EXCLUDED_SCORE, so they rank behind, by index.
    """
    scores = np.empty_like(exact)
    for views in _column_chunks(exact.T.shape, chunk):
        ranks = _ranks(prefilter[views].T).T
        scores[views] = np.where(ranks < count, exact[views], EXCLUDED_SCORE)
    return scores


def shortlist_sizes(views: int) -> list[ShortlistSize]:
    """Return the measured shortlist lengths in a collection of `views` views; none is longer than the collection."""
    return [
        *(ShortlistSize(f"{size:,}", min(size, views)) for size in SHORTLIST_VIEWS),
        *(ShortlistSize(f"{share:.0%}", max(1, round(share * views))) for share in SHORTLIST_SHARES),
    ]


def shortlist_recall(exact: Scores, prefilters: Mapping[str, Scores], chunk: int = CHUNK) -> Iterator[ShortlistRow]:
    """Return the mean share of the exhaustive top 10 and top 100 that each prefilter's shortlists contain.

    exact: f32[N, T]. prefilters: f32[N, T] by name. Both break ties by the view's index. With fewer than 100 views the
    top 100 are all views; a shortlist of 50 can contain at most half of a top 100.
    """
    views, texts = exact.shape
    sizes = shortlist_sizes(views)
    for name, prefilter in prefilters.items():
        contained = np.zeros((len(EXHAUSTIVE_TOPS), len(sizes)))
        for columns in _column_chunks(exact.shape, chunk):
            order = _descending_order(exact[:, columns])[: max(EXHAUSTIVE_TOPS)]
            ranks = np.take_along_axis(_ranks(prefilter[:, columns]), order, 0)
            for i, top in enumerate(EXHAUSTIVE_TOPS):
                contained[i] += [(ranks[:top] < size.views).mean(0).sum() for size in sizes]
        for top, sums in zip(EXHAUSTIVE_TOPS, contained, strict=True):
            yield ShortlistRow(name, top, tuple(sizes), tuple((sums / texts).tolist()))


def _descending_order(scores: Scores) -> NDArray[np.int64]:
    """Return for each column of f32[n, t] its indices from the best score to the worst, i64[n, t]."""
    return np.argsort(-np.ascontiguousarray(scores.T), axis=1, kind="stable").T


def _ranks(scores: Scores) -> NDArray[np.int64]:
    """Return the 0-based rank of each score in its column, i64[n, t]."""
    order = _descending_order(scores)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(len(order))[:, None], 0)
    return ranks


def _column_chunks(shape: tuple[int, ...], chunk: int) -> Iterator[slice]:
    """Split the columns of a matrix into slices of about `chunk` numbers each."""
    rows, columns = shape
    step = max(1, chunk // max(1, rows))
    return (slice(start, start + step) for start in range(0, columns, step))
