"""The JSON of hits and results, as the command line prints it and HTTP sends it.

The text beside a type describes the field: serve/answer_schemas.py publishes it.
"""

from __future__ import annotations

from typing import Annotated, TypedDict


class RegionJson(TypedDict):
    """A place in a photo."""

    box: Annotated[list[int], "Left, top, right, bottom: pixels of the upright photo."]
    score: float


class PhraseJson(TypedDict):
    """What one phrase of the query finds in a photo."""

    text: str
    score: float
    regions: list[RegionJson]


class HitFieldsJson(TypedDict):
    """What every description of a hit has."""

    rank: int
    id: int
    path: str
    score: float
    score_global: float
    logit: float
    width_px: int
    height_px: int
    date: Annotated[str | None, "ISO 8601, local time without a zone: from the camera, else from the file."]
    regions: list[RegionJson]
    weakest: Annotated[str | None, "The phrase with the lowest score; null with one phrase."]


class HitJson(HitFieldsJson):
    """A photo that answers the query."""

    phrases: list[PhraseJson]


class SearchJson(TypedDict):
    """Hits, best first."""

    hits: list[HitJson]
    next: Annotated[int | None, "The offset of the next page; null when there are no more hits."]
    complete: Annotated[bool, "False when some photos could not be searched or judged: a warning says why."]
    in_scope: Annotated[int, "The number of views that the filter lets through."]
    ranked: Annotated[int, "The number of these views that were ranked exactly."]
    unseen: Annotated[list[str], "Words of the query that are in no training text of the model."]
    warnings: list[str]
    seconds: Annotated[float, "From the request to the answer."]
