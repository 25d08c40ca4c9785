"""flairsearch: type a sentence, get the photos and the place in each photo.

Public are the names below, and nothing else; the README has the map of the rooms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flairsearch.core.errors import FlairSearchError
    from flairsearch.core.filters import Filter
    from flairsearch.core.hits import Hit, Region
    from flairsearch.core.query import ImageExample, Query
    from flairsearch.core.reports import IndexReport
    from flairsearch.core.request import SearchResult
    from flairsearch.engine import Engine
    from flairsearch.model.flair import FLAIR, load_model

__all__ = [
    "FLAIR",
    "Engine",
    "Filter",
    "FlairSearchError",
    "Hit",
    "ImageExample",
    "IndexReport",
    "Query",
    "Region",
    "SearchResult",
    "load_model",
]
__version__ = "0.1.0"

_HOMES = {
    "Engine": "engine",
    "ImageExample": "core.query",
    "FlairSearchError": "core.errors",
    "FLAIR": "model.flair",
    "load_model": "model.flair",
    "IndexReport": "core.reports",
    "Filter": "core.filters",
    "Query": "core.query",
    "Hit": "core.hits",
    "Region": "core.hits",
    "SearchResult": "core.request",
}


def __getattr__(name: str) -> Any:
    """Public names are imported on first use: `flairsearch --help` must not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module 'flairsearch' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"flairsearch.{_HOMES[name]}"), name)
