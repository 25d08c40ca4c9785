"""The JSON of answers over HTTP: beside core/json_types.py what only HTTP has, and how both become schemas.

Functions that build an answer are checked against these types by mypy; nothing is validated while the server runs.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

from pydantic import BaseModel, Field, create_model

from flairsearch.core.json_types import HitFieldsJson, PhraseJson, SearchJson


class FailureJson(TypedDict):
    """Any error."""

    error: Annotated[str, "One line: what was found, and what to do."]


class HeatPhraseJson(PhraseJson):
    """What one phrase of the query finds in a photo, with its heat map."""

    heat: Annotated[list[list[float]], "G rows of G numbers over the part of the photo in `view`."]
    view: Annotated[list[float], "Left, top, right, bottom: pixels of the upright photo."]


class HeatHitJson(HitFieldsJson):
    """One photo, with heat maps."""

    phrases: list[HeatPhraseJson]


class BatchJson(TypedDict):
    """The answers to several searches, in their order."""

    results: list[SearchJson]


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
    """That the server answers."""

    status: str


@cache
def model_of(described: Any) -> type[BaseModel]:
    """The pydantic model of a TypedDict, whose fields' descriptions are texts in Annotated."""
    hints = get_type_hints(described, include_extras=True)
    fields: dict[str, Any] = {name: _field_of(hint) for name, hint in hints.items()}
    return create_model(described.__name__, __doc__=described.__doc__, **fields)


def _field_of(hint: Any) -> tuple[Any, Any]:
    if get_origin(hint) is not Annotated:
        return _type_of(hint), ...
    kind, text = get_args(hint)
    return _type_of(kind), Field(..., description=text)


def _type_of(hint: Any) -> Any:
    """A type with models in place of TypedDicts, which may be the items of a list."""
    if is_typeddict(hint):
        return model_of(hint)
    if get_origin(hint) is list:
        (item,) = get_args(hint)
        return list[_type_of(item)]  # type: ignore[misc]
    return hint
