"""SearchRequest in, SearchResult out: what a search is asked, and all that it answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, overload

from flairsearch.core.errors import UsageError
from flairsearch.core.filters import NO_FILTER, Filter
from flairsearch.core.hits import Hit
from flairsearch.core.option import Option, as_number, check_count, option, options_of, short_repr
from flairsearch.core.query import ImageExample, Query
from flairsearch.core.types import GLOBAL_SHARES

MAX_HITS = 200  # One answer over HTTP holds at most this many hits.
MAX_OFFSET = 1_000_000  # A page over HTTP begins after at most this many hits.
MAX_BODY_BYTES = 32_000_000  # The body of one request over HTTP has at most this many bytes.


@dataclass(frozen=True)
class SearchRequest:
    """A query, which photos it is about, and which of its hits are wanted. A text alone is a query, too.

    Raises UsageError when a value makes no sense.
    """

    query: Query
    filter: Filter = NO_FILTER
    k: int = option(10, "The largest number of photos to return.", kind=int, least=1, most=MAX_HITS)
    offset: int = option(
        0,
        "Skip this number of the best photos, to get the next page.",
        kind=int,
        least=0,
        most=MAX_OFFSET,
    )
    shortlist: str | int = option("auto", "How many views to rank exactly: auto, all or a number.", metavar="N")
    min_score: float | None = option(None, "Leave out photos with a lower score.", kind=float, metavar="SCORE")
    score: str | None = option(
        None,
        "What ranks photos: flair (conditioned on the text), global (one vector per photo) or sum (their mean); "
        "the default is in the model's file.",
        metavar="KIND",
        choices=tuple(GLOBAL_SHARES),
    )

    def __post_init__(self) -> None:
        if isinstance(self.query, str):
            object.__setattr__(self, "query", Query(self.query))
        for name, kind in (("query", Query), ("filter", Filter)):
            if not isinstance(getattr(self, name), kind):
                raise UsageError(f"{short_repr(getattr(self, name))} is no {name} - give a {kind.__name__}", name)
        object.__setattr__(self, "k", check_count(self.k, "k"))
        object.__setattr__(self, "offset", check_count(self.offset, "offset"))
        if self.min_score is not None:
            score = as_number(self.min_score)
            if not math.isfinite(score):
                raise UsageError(f"{short_repr(self.min_score)} is no score - give a number like 0.3", "min_score")
            object.__setattr__(self, "min_score", score)
        if self.k < 1:
            raise UsageError(f"{self.k} hits - ask for at least one", "k")
        if self.offset < 0:
            raise UsageError(f"{self.offset} hits - give how many to leave out before the first", "offset")
        if self.score is not None and not (isinstance(self.score, str) and self.score in GLOBAL_SHARES):
            raise UsageError(f"there is no {short_repr(self.score)} - use one of {', '.join(GLOBAL_SHARES)}", "score")
        object.__setattr__(self, "shortlist", _check_shortlist(self.shortlist))

    @property
    def besides_query(self) -> tuple[object, ...]:
        """All fields but the query: requests in which they are equal can be answered together."""
        return self.filter, self.k, self.offset, self.shortlist, self.min_score, self.score

    @property
    def global_share(self) -> float | None:
        """The share of the global token's cosine in the score; None: as the model says."""
        return None if self.score is None else GLOBAL_SHARES[self.score]

    @staticmethod
    def of(query: str | Query | SearchRequest, k: int = 10, **options: Any) -> SearchRequest:
        """Return a text, a query or a whole request as a request.

        options: fields of SearchRequest besides query and k. Raises UsageError when they stand beside a whole request.
        """
        if isinstance(query, SearchRequest):
            if options:
                raise UsageError("it stands beside a whole request - put it into the request", next(iter(options)))
            return query
        return SearchRequest(Query(query) if isinstance(query, str) else query, k=k, **options)

    @staticmethod
    def from_options(values: Mapping[str, Any], image: ImageExample | None = None) -> SearchRequest:
        """A request from values by the names of OPTIONS; None, and a name that is not there, mean the default.

        image: the example image, which the caller has read; box and image_weight are about it.
        """
        given = {name: value for name, value in values.items() if value is not None}
        query = Query(image=image, **{name: given[name] for name in options_of(Query) if name in given})
        chosen = Filter(**{name: given[name] for name in options_of(Filter) if name in given})
        return SearchRequest(
            query, chosen, **{name: given[name] for name in options_of(SearchRequest) if name in given}
        )

    def to_options(self) -> dict[str, Any]:
        """The values by the names of OPTIONS that are not their defaults; of an image its box and weight."""
        values: dict[str, Any] = {"text": self.query.texts} if self.query.texts else {}
        plain = SearchRequest(Query("anything"))
        for record, default in ((self.query, plain.query), (self.filter, plain.filter), (self, plain)):
            for name in options_of(type(record)):
                value = getattr(record, name)
                if name != "text" and value != getattr(default, name):
                    values[name] = value
        for image in self.query.images:
            if image.part is not None:
                values["box"] = ",".join(map(str, image.part))
            values["image_weight"] = image.weight
        return values


OPTIONS: Mapping[str, tuple[Option, Any]] = options_of(Query, ImageExample, Filter, SearchRequest)


def example_from_options(source: str | bytes | None, values: Mapping[str, Any], name: str = "") -> ImageExample | None:
    """The example image of a request from its options. Raises UsageError when a value is about an image not given."""
    if source is not None:
        weight = values.get("image_weight")
        return ImageExample(source, values.get("box"), 1.0 if weight is None else weight, name)
    for parameter in ("box", "image_weight"):
        if values.get(parameter) not in (None, OPTIONS[parameter][1]):
            raise UsageError("there is no image that this applies to - give an image too", parameter)
    return None


def _check_shortlist(shortlist: str | int) -> str:
    """Raises UsageError on anything but auto, all, or a number above 0."""
    text = str(shortlist)
    try:
        number = int(text)
    except ValueError:
        number = 0
    if text not in ("auto", "all") and number < 1:
        raise UsageError(f"{shortlist!r} is no size - use auto, all, or a number of views", "shortlist")
    return text


@dataclass(frozen=True)
class SearchStats:
    """How much work a search was."""

    views_in_filter: int = 0  # Views that the filter lets through.
    views_ranked: int = 0  # Views that were ranked exactly.
    images_not_judged: int = 0  # Photos that might meet the conditions, and were not looked at.
    unseen_words: tuple[str, ...] = ()  # Words of the query that are in no training text of the model.
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)  # By stage.
    backend: str = ""  # What computed the exact scores, and where.


@dataclass(frozen=True)
class SearchResult:
    """The hits of a search, best first: iterate over it. `complete` is False when photos were left out unjudged."""

    hits: tuple[Hit, ...] = ()
    stats: SearchStats = SearchStats()
    warnings: tuple[str, ...] = ()
    complete: bool = True

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, place: int) -> Hit: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, place: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[place]

    def first(self, count: int) -> SearchResult:
        """The same result with at most `count` hits."""
        return replace(self, hits=self.hits[:count])
