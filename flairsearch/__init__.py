"""flairsearch: type a sentence, get the photos and the place in each photo.

The map, in the order data flow:
    errors, records, settings, tiles, clock ground: imports nothing of ours
    paths, dates, arrays, npz               where indexes live; dates as numbers; long arrays in parts, and in files
    reports, results                        what an indexing run says of itself; what evaluations find
    scope, terms                            which photos a query is about, what it asks for
    files -> decode -> encode -> store      WRITE, in ingest.py
    loading, formats, watch                 many decoded at once; HEIC, AVIF and RAW; when photos change
    encode -> prefilter -> store -> rerank -> region   READ, in query.py
    asking, grouping, answer                its other steps: Terms -> Asked, views -> photos, photos -> hits
    scorer, ranker, search_policy           exact scores of views; how many are needed; its thresholds
    locate, region                          what a part of a view scores alone; heat, boxes
    shortlist, scan, fit, fitted, fitting   the prefilter by fitted vectors, and how these are made
    model, convtower, architecture          FLAIR, its image tower for small models, its tensors
    weights, published                      its files: names, ours, published ones
    text -> tensors, tokenizer, folding     a query's text in numpy: the file of weights mapped, no torch
    store, compaction, garbage              one Writer; segments written anew; files that no row names removed
    limits                                  how much is written at once, and when segments are written anew
    reader, verify, repair                  one state of the index; its checksums; damaged views from their photos
    codec, basis, tokens                    tokens to bytes, and their files
    catalog, changeset, within              what exists; what one commit changes of it; a scope as SQL
    database, schema, migrations            catalog.sqlite opened; its tables; older formats
    census                                  what a person asks of an index: flairsearch status
    rerank_numpy, rerank_torch              rerank's path for few views, and the reference for all devices
    rerank_cpu -> numba_kernels             its fused path on a processor,
    rerank_triton -> triton_kernels         and that on a GPU; residence: segments that stay there
    rerank_many                             exact scores of thousands of texts
    compiled, vectors, scan_loops           what compiled loops need, and those of scan
    views, cache                            what can be made again: columns of a state, files by generation
    annotations, annotation_files           captions of photos; files of annotations, read within limits
    box_annotations, box_formats, bank      boxes, their formats, and texts for photos without any
    gallery, collage                        MEASURE: what is asked, on photos, mosaics of them, photos on photos;
    evaluate -> retrieval, codec_comparison scores of all pairs, ranks and recall; by codec;
    evaluate_regions, shelf -> localization boxes and maps against true boxes;
    segmentation                            and against masks
    engine, rebuild, agreement              the facade: Engine; an index made anew; one made, opened, replaced
    model_source, prompt_banks              the model of an index, loaded late; what its fitted vectors are fitted to
    present, status                         hits as text and JSON; an index and its runs likewise
    draw, terminal, tables                  hits as pictures, as those of a terminal; measurements
    question -> remote                      a query with all its conditions; asked of a server
    web, wire, wire_answers, guard          SERVE: routes, their JSON, what is refused;
    web_errors, web_files, originals        errors as answers, the page in static/, photos as they are;
    service, thumbnails, metrics, serving   the thread that owns the Engine; small photos; counts; socket
    cli: cli_index, cli_watch, cli_query, cli_serve, cli_store, cli_models, cli_eval, cli_regions, cli_demo
    options, cli_output, demo               what several verbs have; sample photos
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flairsearch.engine import Engine
    from flairsearch.errors import FlairSearchError
    from flairsearch.model import FLAIR, load_model
    from flairsearch.records import Hit, Region
    from flairsearch.reports import Report
    from flairsearch.scope import Scope
    from flairsearch.terms import Example, Terms

__all__ = [
    "FLAIR",
    "Engine",
    "Example",
    "FlairSearchError",
    "Hit",
    "Region",
    "Report",
    "Scope",
    "Terms",
    "load_model",
]
__version__ = "0.1.0"

_HOMES = {
    "Engine": "engine",
    "Example": "terms",
    "FlairSearchError": "errors",
    "FLAIR": "model",
    "load_model": "model",
    "Report": "reports",
    "Scope": "scope",
    "Terms": "terms",
}


def __getattr__(name: str) -> Any:
    """Public names are imported on first use: `flairsearch --help` must not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module 'flairsearch' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"flairsearch.{_HOMES.get(name, 'records')}"), name)
