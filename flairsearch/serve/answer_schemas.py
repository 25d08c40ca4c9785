"""Types of JSON answers that only HTTP has, besides those of core/json_types.py, and their conversion to schemas.

mypy checks the functions that build answers against these types; nothing is validated while the server runs.
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
def model_of(typed_dict: Any) -> type[BaseModel]:
    """Return the pydantic model of a TypedDict, in which Annotated holds the descriptions of fields."""
    hints = get_type_hints(typed_dict, include_extras=True)
    fields: dict[str, Any] = {name: _field_of(hint) for name, hint in hints.items()}
    return create_model(typed_dict.__name__, __doc__=typed_dict.__doc__, **fields)


def _field_of(hint: Any) -> tuple[Any, Any]:
    if get_origin(hint) is not Annotated:
        return _type_of(hint), ...
    kind, text = get_args(hint)
    return _type_of(kind), Field(..., description=text)


def _type_of(hint: Any) -> Any:
    """Return a type with TypedDicts, also as items of a list, replaced by models."""
    if is_typeddict(hint):
        return model_of(hint)
    if get_origin(hint) is list:
        (item,) = get_args(hint)
        return list[_type_of(item)]  # type: ignore[misc]
    return hint
