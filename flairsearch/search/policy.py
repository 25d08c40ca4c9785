"""SearchPolicy: all thresholds of a search, in one record so that tests can use small ones."""

from __future__ import annotations

from dataclasses import dataclass

from flairsearch.core.errors import UsageError
from flairsearch.core.settings import MAX_EXHAUSTIVE_VIEWS


@dataclass(frozen=True)
class SearchPolicy:
    """The thresholds of a search. With `auto`, the shortlist grows until no view outside of it is likely to matter."""

    exhaustive_views: int = MAX_EXHAUSTIVE_VIEWS
    """An index of at most this number of views is ranked exhaustively and has no predictor."""
    initial_factor: int = 4
    """With `auto`, the shortlist begins with this factor times k views."""
    growth_factor: float = 1.3
    """With `auto`, each step makes the shortlist this factor longer."""
    stop_sigma: float = 3.0
    """With `auto`, the k-th best score must exceed the next view's prediction by this number of standard deviations."""
    max_auto_views: int = 2000
    """With `auto`, the shortlist ends at this number of views plus `max_auto_share` of all views."""
    max_auto_share: float = 0.02
    """With `auto`, this share of all views is added to `max_auto_views`."""
    typical_auto_views: int = 300
    """With `auto`, a search typically ranks about this number of views; only the choice of the backend uses it."""
    shared_scoring_max_waste: float = 2
    """Several queries are scored on the union of their shortlists if that costs at most this factor."""
    verify_factor: int = 5
    """A query with conditions first finds the best `verify_factor` times k images, then checks the conditions."""
    verify_growth: int = 4
    """While too few images meet the conditions, the number of inspected images grows by this factor."""
    max_inspected_images: int = 1000
    """The conditions of a query are checked on at most this number of images, or on all up to the page's end."""
    min_background_views: int = 20
    """In an index of fewer views, the usual scores of an excluded text are unknown."""
    max_background_views: int = 1000
    """The usual scores of an excluded text are measured on at most this number of evenly spaced views."""
    inspection_batch: int = 64
    """The tokens of this number of images are in memory at once while images are inspected."""
    max_memo_queries: int = 4
    """The matches of this number of queries with conditions are kept."""
    max_memo_hits: int = 3000
    """The matches of a query are kept if matches times phrases do not exceed this number; each takes about 2 kB."""

    def inspected(self, end: int) -> int:
        """Return the largest number of images to inspect for `end` hits if conditions may reject some."""
        return max(end, self.max_inspected_images)

    def verified(self, end: int) -> int:
        """Return the number of best images that must be certain before they are inspected."""
        return min(self.verify_factor * end, self.inspected(end))

    def expected_views(self, shortlist: str | int, views: int) -> int:
        """Return about how many of `views` views a search will rank exactly."""
        size = self.shortlist_size(shortlist, views)
        return min(size, self.typical_auto_views) if shortlist == "auto" and views > self.exhaustive_views else size

    def shortlist_size(self, shortlist: str | int, views: int) -> int:
        """Return the largest number of `views` views to rank exactly, for `auto`, `all` or a number.

        Raises UsageError when the shortlist is anything else.
        """
        if shortlist == "all" or (shortlist == "auto" and views <= self.exhaustive_views):
            return views
        if shortlist == "auto":
            return min(self.max_auto_views + int(self.max_auto_share * views), views)
        try:
            number = int(shortlist)
        except ValueError:
            number = 0
        if number < 1:
            raise UsageError(f"{shortlist!r} is no size - use auto, all, or a number of views", "shortlist")
        return min(number, views)


DEFAULT_POLICY = SearchPolicy()
