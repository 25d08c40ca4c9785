"""How much work a search may do: every threshold of the read path, in one value that tests make small."""

from __future__ import annotations

from dataclasses import dataclass

from flairsearch.core.errors import UsageError
from flairsearch.core.settings import MAX_EXHAUSTIVE_VIEWS


@dataclass(frozen=True)
class SearchPolicy:
    """The thresholds of a search. With `auto`, the shortlist grows until no view outside of it is likely to matter."""

    exhaustive_views: int = MAX_EXHAUSTIVE_VIEWS
    """An index of at most this number of views is ranked whole and has no fitted vectors."""
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
    """With `auto`, about this number of views is ranked before the best are sure; it only chooses the backend."""
    shared_scoring_max_waste: float = 2
    """Several queries are scored on the union of their shortlists if that costs at most this factor more."""
    verify_factor: int = 5
    """A query with conditions makes sure of the best `verify_factor` times k images before it applies them."""
    verify_growth: int = 4
    """While too few images meet the conditions, this factor more images are looked at."""
    max_inspected_images: int = 1000
    """The conditions of a query are judged on at most this number of images."""
    min_background_views: int = 20
    """An index of fewer views does not say what an excluded text usually scores."""
    max_background_views: int = 1000
    """At most this number of views, evenly spaced, say what an excluded text usually scores."""
    inspection_batch: int = 64
    """The tokens of this number of images are in memory at once while conditions are judged."""
    max_memo_queries: int = 4
    """This number of queries with conditions keep the hits that were judged for them."""
    max_memo_hits: int = 3000
    """A query keeps at most this number of hits times phrases, of about 2 kB each."""

    def inspected(self, end: int) -> int:
        """Upper bound on images inspected for `end` hits when conditions may reject some."""
        return max(end, self.max_inspected_images)

    def verified(self, end: int) -> int:
        """How many of the images to rank exactly before inspecting."""
        return min(self.verify_factor * end, self.inspected(end))

    def expected_views(self, shortlist: str | int, views: int) -> int:
        """About how many of N views a search will rank exactly."""
        size = self.shortlist_size(shortlist, views)
        return min(size, self.typical_auto_views) if shortlist == "auto" and views > self.exhaustive_views else size

    def shortlist_size(self, shortlist: str | int, views: int) -> int:
        """`auto`, `all` or a number -> how many of N views are ranked at most. Raises UsageError on anything else."""
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
