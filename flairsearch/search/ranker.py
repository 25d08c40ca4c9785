"""Queries -> images with exact scores: of a shortlist of fixed length, or of one that grows until the best are sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.timing import StageTimer
from flairsearch.core.types import Candidates, EncodedQuery
from flairsearch.search.aggregation import ScoredImages
from flairsearch.search.policy import SearchPolicy
from flairsearch.search.scorer import Scorer
from flairsearch.shortlist.shortlist import Shortlist
from flairsearch.store.snapshot import Snapshot

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Ranked:
    """The images of a query, and whether there are more."""

    images: ScoredImages
    more: Candidates | None  # The candidates of which more can be ranked; None: no more are.


class Ranker:
    """Ranks images of one committed state of the index. Nothing is looked at: conditions are the searcher's."""

    def __init__(self, reader: Snapshot, shortlist: Shortlist, scorer: Scorer, policy: SearchPolicy) -> None:
        self._reader, self._shortlist, self._scorer, self._policy = reader, shortlist, scorer, policy

    def rank_many(
        self, several: Sequence[EncodedQuery], end: int, shortlist: str | int, among: Ids | None, clock: StageTimer
    ) -> list[Ranked]:
        """Each query's images, the `end` best of them sure; with conditions more, as some may be left out.

        among: view ids i64[n], ascending: no others; None: all views.
        """
        total, auto = len(self._reader if among is None else among), shortlist == "auto"
        size = self._policy.shortlist_size(shortlist, total)
        if auto:
            size = min(max(size, self._policy.initial_factor * end), total)
        least = [0 if not auto else self._policy.inspected(end) if asked.narrows else end for asked in several]
        with clock.part("shortlist"):
            found = [self._candidates(asked, size, among, few) for asked, few in zip(several, least, strict=True)]
        grows = auto and size < total and self._shortlist.predicts
        with clock.part("rank"):
            if grows:
                ranked = [
                    self.rank_until_stable(asked, candidates, self._policy.verified(end) if asked.narrows else end)
                    for asked, candidates in zip(several, found, strict=True)
                ]
            else:
                ranked = self._rank_all(found, several)
        return [
            Ranked(images, candidates if grows and asked.narrows else None)
            for asked, images, candidates in zip(several, ranked, found, strict=True)
        ]

    def _candidates(self, asked: EncodedQuery, size: int, among: Ids | None, least: int) -> Candidates:
        """The shortlist of `size` views; a longer one while it holds fewer images than `least`."""
        total = len(self._reader if among is None else among)
        if size >= total:
            everything = np.asarray(self._reader.views.id if among is None else among)
            return Candidates(everything, np.zeros(len(everything), np.float32))
        while True:
            found = self._shortlist.search(asked.vectors, size, among, asked.shares)
            if size >= total or len(np.unique(self._reader.contents(found.views))) >= least:
                return found
            size = min(2 * size, total)

    def _rank_all(self, found: Sequence[Candidates], several: Sequence[EncodedQuery]) -> list[ScoredImages]:
        """The candidates of each query -> their images with exact scores, from all views of each image."""
        lists = [self._reader.beside(candidates.views) for candidates in found]
        together = lists[0] if len(lists) == 1 else np.unique(np.concatenate([np.zeros(0, np.int64), *lists]))
        if len(together) * len(lists) > self._policy.shared_scoring_max_waste * sum(map(len, lists)):
            return [self.rank(views, asked) for views, asked in zip(lists, several, strict=True)]
        of_all = self._scorer.score(together, [phrase for asked in several for phrase in asked.phrases])
        ends = np.cumsum([len(asked.phrases) for asked in several])
        parts = np.split(of_all, ends[:-1], axis=1) if several else []
        return [
            self._group(views, part[np.searchsorted(together, views)], asked)
            for views, part, asked in zip(lists, parts, several, strict=True)
        ]

    def rank(self, views: Ids, asked: EncodedQuery) -> ScoredImages:
        """View ids i64[K] -> their images with exact scores."""
        return self._group(views, self._scorer.score(views, asked.phrases), asked)

    def rank_until_stable(
        self, asked: EncodedQuery, candidates: Candidates, k: int, known: ScoredImages | None = None
    ) -> ScoredImages:
        """Candidates with predicted scores, best first -> the images ranked until the k best of them are sure.

        They are sure when the next candidate's prediction, plus the mean error of those ranked so far and `stop_sigma`
        standard deviations of it, does not reach the k-th best score. Errors are taken to be of one kind along the
        list; the benchmark shows how that holds. An image is predicted to score what its best candidate does.
        known: what was ranked for a smaller k.
        """
        contents = self._reader.contents(candidates.views)
        first = np.sort(np.unique(contents, return_index=True)[1])
        contents, lead, predicted = contents[first], candidates.views[first], candidates.scores[first]
        unknown = int(np.isinf(predicted).sum())
        done, count = 0, min(len(lead), unknown + max(self._policy.initial_factor * k, 2))
        views, parts = np.zeros(0, np.int64), np.zeros((0, len(asked.phrases)), np.float32)
        if known is not None:
            views, parts, done = known.views, known.parts, len(known.contents)
            count = max(count, done)
        while True:
            some = self._reader.beside(lead[done:count])
            views = np.concatenate([views, some])
            parts = np.concatenate([parts, self._scorer.score(some, asked.phrases)])
            grouped = self._group(views, parts, asked)
            if count == len(lead):
                return grouped
            exact = grouped.scores[np.searchsorted(grouped.contents, contents[:count])]
            errors = exact[unknown:] - predicted[unknown:count]
            reach = predicted[count] + errors.mean() + self._policy.stop_sigma * errors.std()
            best = grouped.scores[grouped.best(k)]
            if len(best) >= k and reach < best[k - 1]:
                return grouped
            done, count = count, min(len(lead), int(self._policy.growth_factor * count) + 1)

    def _group(self, views: Ids, parts: NDArray[np.float32], asked: EncodedQuery) -> ScoredImages:
        return ScoredImages.of(views, self._reader.contents(views), parts, asked.shares)
