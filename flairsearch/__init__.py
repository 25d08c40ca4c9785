"""flairsearch: type a sentence, get the photos and the place in each photo.

The names in `__all__` are public; everything else is private. The README describes the subpackages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flairsearch.core.errors import FlairSearchError, PictureError, StoreError, UsageError, WeightsError
    from flairsearch.core.filters import Filter
    from flairsearch.core.hits import Hit, PhraseMatch, Region
    from flairsearch.core.query import ImageExample, Query
    from flairsearch.core.reports import IndexReport
    from flairsearch.core.request import SearchRequest, SearchResult, SearchStats
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
    "PhraseMatch",
    "PictureError",
    "Query",
    "Region",
    "SearchRequest",
    "SearchResult",
    "SearchStats",
    "StoreError",
    "UsageError",
    "WeightsError",
    "load_model",
]
__version__ = "0.1.0"

# The module, below flairsearch, of each public name.
_HOMES = {
    "Engine": "engine",
    "FLAIR": "model.flair",
    "Filter": "core.filters",
    "FlairSearchError": "core.errors",
    "Hit": "core.hits",
    "ImageExample": "core.query",
    "IndexReport": "core.reports",
    "PhraseMatch": "core.hits",
    "PictureError": "core.errors",
    "Query": "core.query",
    "Region": "core.hits",
    "SearchRequest": "core.request",
    "SearchResult": "core.request",
    "SearchStats": "core.request",
    "StoreError": "core.errors",
    "UsageError": "core.errors",
    "WeightsError": "core.errors",
    "load_model": "model.flair",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: `flairsearch --help` must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'flairsearch' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"flairsearch.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
