"""The shapes of JSON that hits, searches and status have, over HTTP and as lines: FastAPI publishes them as schemas.

What builds them is checked against them by types alone, so that `flairsearch query` loads none of this.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict  # Pydantic takes that of typing only from Python 3.12 on.

_FOUR = Field(min_length=4, max_length=4, description="left, top, right, bottom: pixels of the upright photo.")


class FailureJson(TypedDict):
    """Any error."""

    error: Annotated[str, Field(description="One line: what was found, and what to do.")]


class RegionJson(TypedDict):
    """A place in a photo."""

    box: Annotated[list[int], _FOUR]
    score: float


class PhraseJson(TypedDict):
    """What one phrase of the query finds in a photo."""

    text: str
    score: float
    regions: list[RegionJson]


class HeatPhraseJson(PhraseJson):
    """With where in the photo it is seen."""

    heat: Annotated[list[list[float]], Field(description="G rows of G numbers.")]
    view: Annotated[list[float], _FOUR]  # The part of the photo that the rows cover.


class _HitFields(TypedDict):
    rank: int
    id: int
    path: str
    score: float
    score_global: float
    logit: float
    width_px: int
    height_px: int
    date: Annotated[str | None, Field(description="ISO 8601, no zone: of the camera, else of the file.")]
    regions: list[RegionJson]
    weakest: Annotated[str | None, Field(description="The phrase that the photo answers least; null with one phrase.")]


class HitJson(_HitFields):
    """A photo that answers the query."""

    phrases: list[PhraseJson]


class HeatHitJson(_HitFields):
    """One photo, with heat."""

    phrases: list[HeatPhraseJson]


class SearchJson(TypedDict):
    """Hits, best first."""

    hits: list[HitJson]
    next: Annotated[int | None, Field(description="The offset of the next page; null when there are no more.")]
    in_scope: Annotated[int, Field(description="Views that were searched.")]
    ranked: Annotated[int, Field(description="Of them, ranked exactly.")]
    unseen: Annotated[list[str], Field(description="Words that the model was never trained on.")]
    warnings: list[str]
    seconds: float


class FolderJson(TypedDict):
    """A folder of photos."""

    path: str
    photos: int


class DefaultsJson(TypedDict):
    """What a search has where nothing else is asked for, and the most hits that it gives."""

    k: int
    shortlist: str
    most_k: int


class StatusJson(TypedDict):
    """What is served."""

    version: str
    index: str
    photos: int
    views: int
    bytes: int
    model: str
    codec: str
    views_policy: str
    generation: int
    folders: list[FolderJson]
    skipped: int
    device: str
    default: DefaultsJson


class HealthJson(TypedDict):
    """That it answers."""

    status: str
