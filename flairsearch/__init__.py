"""flairsearch: type a sentence, get the photos and the place in each photo.

The map, in the order data flow:
    errors, records, settings, scope        ground: imports nothing of ours; scope: which photos a query is about
    files -> decode -> encode -> store      WRITE, in ingest.py
    encode -> prefilter -> store -> rerank -> region   READ, in query.py
    model, convtower, architecture, weights FLAIR, its image tower for small models, and its files
    store                                   one Writer; reader: one state of the index, for any number of processes
    codec, basis, tokens                    tokens to bytes, and their files
    catalog, schema, within, database       what exists, its tables, a scope as SQL, their formats
    rerank_cpu, rerank_triton, residence    its two fused paths; segments that stay on the GPU
    views, cache                            what can be made again: columns of a state, files by generation
    annotations, bank                       captions of photos, and texts for photos without any
    gallery -> evaluate -> retrieval        MEASURE: what is asked, scores of all pairs or by codec, ranks and recall
    rerank_many                             exact scores of thousands of texts
    engine                                  the facade: Engine
    present, cli, cli_query, cli_eval, options   what people see
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flairsearch.engine import Engine
    from flairsearch.errors import FlairSearchError
    from flairsearch.model import FLAIR, load_model
    from flairsearch.records import Hit, Region, Report
    from flairsearch.scope import Scope

__all__ = ["FLAIR", "Engine", "FlairSearchError", "Hit", "Region", "Report", "Scope", "load_model"]
__version__ = "0.1.0"

_HOMES = {"Engine": "engine", "FlairSearchError": "errors", "FLAIR": "model", "load_model": "model", "Scope": "scope"}


def __getattr__(name: str) -> Any:
    """Public names are imported on first use: `flairsearch --help` must not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module 'flairsearch' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"flairsearch.{_HOMES.get(name, 'records')}"), name)
