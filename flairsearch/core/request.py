"""SearchRequest, the input of a search, and SearchResult, its output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, overload

from flairsearch.core.errors import UsageError
from flairsearch.core.filters import NO_FILTER, Filter
from flairsearch.core.hits import Hit
from flairsearch.core.option import Option, option, options_of
from flairsearch.core.query import ImageExample, Query
from flairsearch.core.types import GLOBAL_SHARES

MAX_HITS = 200  # One answer over HTTP holds at most this many hits.
MAX_OFFSET = 1_000_000  # HTTP accepts no larger offset.
MAX_BODY_BYTES = 32_000_000  # The body of one request over HTTP has at most this many bytes.


@dataclass(frozen=True)
class SearchRequest:
    """A query, the filter of the photos to search, and which of the hits to return.

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
        if self.k < 1:
            raise UsageError(f"{self.k} hits - ask for at least one", "k")
        if self.offset < 0:
            raise UsageError(f"{self.offset} hits - give how many to leave out before the first", "offset")
        if self.score is not None and self.score not in GLOBAL_SHARES:
            raise UsageError(f"there is no {self.score!r} - use one of {', '.join(GLOBAL_SHARES)}", "score")
        object.__setattr__(self, "shortlist", _check_shortlist(self.shortlist))

    @property
    def besides_query(self) -> tuple[object, ...]:
        """All fields but the query; requests in which these are equal can be answered together."""
        return self.filter, self.k, self.offset, self.shortlist, self.min_score, self.score

    @property
    def global_share(self) -> float | None:
        """The share of the global token's cosine in the score; None for the model's default."""
        return None if self.score is None else GLOBAL_SHARES[self.score]

    @staticmethod
    def of(query: str | Query | SearchRequest, k: int = 10, **options: Any) -> SearchRequest:
        """Return a request from a text or a query; a request is returned as it is.

        options: fields of SearchRequest besides query and k.
        """
        if isinstance(query, SearchRequest):
            return query
        return SearchRequest(Query(query) if isinstance(query, str) else query, k=k, **options)

    @staticmethod
    def from_options(values: Mapping[str, Any], image: ImageExample | None = None) -> SearchRequest:
        """Return a request from the values of OPTIONS, by name; a missing name and None stand for the default.

        image: the example image, which the caller makes with `example_from_options`.
        """
        present = {name: value for name, value in values.items() if value is not None}

        def values_for(record: type) -> dict[str, Any]:
            return {name: present[name] for name in options_of(record) if name in present}

        query = Query(image=image, **values_for(Query))
        return SearchRequest(query, Filter(**values_for(Filter)), **values_for(SearchRequest))

    def to_options(self) -> dict[str, Any]:
        """Return the values of OPTIONS that are not defaults, by name; of an example image only box and weight."""
        values: dict[str, Any] = {"text": self.query.texts} if self.query.texts else {}
        default_request = SearchRequest(Query("anything"))
        for record, default in (
            (self.query, default_request.query),
            (self.filter, default_request.filter),
            (self, default_request),
        ):
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
"""All options of a search by name, each with its default."""


def example_from_options(source: str | bytes | None, values: Mapping[str, Any], name: str = "") -> ImageExample | None:
    """Return the example image of a request, from the values of its options; None without a source.

    source: the path or the bytes of the image. name: the name of the image in the hits.
    Raises UsageError when box or image_weight is set without a source.
    """
    if source is not None:
        weight = values.get("image_weight")
        return ImageExample(source, values.get("box"), 1.0 if weight is None else weight, name)
    for parameter in ("box", "image_weight"):
        if values.get(parameter) not in (None, OPTIONS[parameter][1]):
            raise UsageError("there is no image that this applies to - give an image too", parameter)
    return None


def _check_shortlist(shortlist: str | int) -> str:
    """Return the size of a shortlist as text.

    Raises UsageError unless it is auto, all, or a number above 0.
    """
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
    """Statistics of the work that a search did."""

    views_in_filter: int = 0  # Views that the filter lets through.
    views_ranked: int = 0  # Views that were ranked exactly.
    images_not_judged: int = 0  # Photos on which the conditions of the query were not judged.
    unseen_words: tuple[str, ...] = ()  # Words of the query that are in no training text of the model.
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)  # The seconds of each stage.
    backend: str = ""  # The backend and the device that computed the exact scores.


@dataclass(frozen=True)
class SearchResult:
    """The hits of a search, best first; a sequence of Hit.

    complete: False when damaged photos could not be searched, or the conditions were not judged on all photos.
    """

    hits: tuple[Hit, ...] = ()
    stats: SearchStats = SearchStats()
    warnings: tuple[str, ...] = ()
    complete: bool = True

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, position: int) -> Hit: ...
    @overload
    def __getitem__(self, position: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, position: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[position]

    def first(self, count: int) -> SearchResult:
        """Return the same result with at most `count` hits."""
        return replace(self, hits=self.hits[:count])
