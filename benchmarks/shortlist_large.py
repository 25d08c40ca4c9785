"""Measure shortlists and queries at scale, on views that are recombined from patches of real views.

    python -m benchmarks.shortlist_large INDEX val.json [--views 100000] [--codes 1000000] [--work FOLDER] [--faiss]

INDEX is an index of real photos (benchmarks/shortlist.py makes FOLDER/photos.index). Each recombined view has the four
quarters of the grid from four random views of it, and goes through the store, the codec and the score predictor like
any view. The million codes are codes of recombined views, each moved by a third of the difference of two others,
because scoring a million views takes an hour, and random codes would not behave like real ones. The queries are real
captions.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.flickr import FRAME, Annotations
from flairsearch import Engine
from flairsearch.core.query import Query
from flairsearch.core.request import SearchRequest, SearchResult
from flairsearch.core.settings import IndexSettings
from flairsearch.core.timing import StageTimer
from flairsearch.core.types import EncodedQuery, EncodedText, EncodedViews, ImageFile
from flairsearch.indexing.lifecycle import create_index
from flairsearch.rerank.backend import choose_backend
from flairsearch.search.index_states import open_snapshot
from flairsearch.search.local_place import LocalPlace
from flairsearch.search.policy import DEFAULT_POLICY
from flairsearch.search.searcher import Searcher
from flairsearch.shortlist.build import fit_views
from flairsearch.shortlist.code_scan import CodeScan, prefix_of
from flairsearch.shortlist.predictor_file import CODES_OFFSET_BYTES, PredictorFile
from flairsearch.shortlist.shortlist import Shortlist
from flairsearch.store.catalog import Catalog
from flairsearch.store.codec_training import needs_training, train_codec
from flairsearch.store.snapshot import Snapshot
from flairsearch.store.writer import Writer

BATCH_VIEWS = 1024  # Views that are recombined and committed at once.


def recombined(reader: Snapshot, count: int) -> Iterator[EncodedViews]:
    """Yield batches of views made of the quarters of four views; the global vector is the mean of the four."""
    real, rng = reader.encoded(reader.views.id[:: max(1, len(reader) // 4000)]), np.random.default_rng(0)
    grid = round(reader.patches**0.5)
    row, column = np.divmod(np.arange(reader.patches), grid)
    quarter = 2 * (row >= grid // 2) + (column >= grid // 2)
    for start in range(0, count, BATCH_VIEWS):
        picked = rng.integers(len(real.tokens), size=(min(BATCH_VIEWS, count - start), 4))
        shape = picked[:, quarter], np.arange(reader.patches)[None]
        pooled = real.pooled[picked].astype(np.float32).mean(1)
        pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
        yield EncodedViews(pooled.astype(np.float16), real.tokens[shape], real.shift[shape], real.scale[shape])


def make_index(engine: Engine, folder: Path, views: int) -> None:
    """Write the recombined views through the store, as `flairsearch index` does."""
    create_index(folder, IndexSettings(**vars(engine.settings)))
    rng, done = np.random.default_rng(1), 0
    reader = Snapshot(engine.folder, engine.settings, engine._catalog)
    writer = Writer(folder, engine.settings)
    writer.catalog.add_root("/recombined")
    began = time.perf_counter()
    for encoded in recombined(reader, views):
        hashes = [rng.bytes(32) for _ in encoded.tokens]
        writer.add_views(hashes, [FRAME] * len(hashes), encoded)
        for number, digest in enumerate(hashes, done):
            writer.add_image(ImageFile("/recombined", f"{number:07d}.jpg", 1, 1), digest)
        done += len(hashes)
        if writer.commit():
            writer.compactor.merge(writer.target)
        if needs_training(writer):
            train_codec(writer, engine.encoder.token_metric)
    for _ in writer.compactor.compact(writer.target, dead_too=True):
        pass
    print(f"{views:,} views stored in {time.perf_counter() - began:.0f} s", flush=True)
    writer.close()


def search(searcher: Searcher, query: EncodedText, shortlist: str | int) -> SearchResult:
    """Return the 10 best images for an encoded text."""
    request = SearchRequest(Query("an encoded text"), k=10, shortlist=shortlist)
    return searcher.search_many([EncodedQuery((query,))], request, StageTimer())[0]


def milliseconds(work: Callable[[EncodedText], object], queries: list[EncodedText]) -> str:
    """Return the median and the 95th percentile of the time of a query."""
    work(queries[0])
    times = []
    for query in queries:
        began = time.perf_counter()
        work(query)
        times.append(1e3 * (time.perf_counter() - began))
    return f"p50 {statistics.median(times):.1f} ms, p95 {np.percentile(times, 95):.1f} ms"


def recalls(scan: CodeScan, codes: NDArray[np.int8], features: list[NDArray[np.float32]], count: int) -> float:
    """Return the mean share of the best `count` views by all inner products that the scan finds."""
    found = []
    for query in features:
        exact = np.concatenate([codes[i : i + 65536].astype(np.float32) @ query for i in range(0, len(codes), 65536)])
        found.append(np.isin(np.argsort(-exact)[:count], scan.search(query, count).views).mean())
    return float(np.mean(found))


def compare_faiss(codes: NDArray[np.int8], features: list[NDArray[np.float32]], count: int = 100) -> None:
    """Print time and recall of an inverted file of FAISS with the same codes, by the number of searched lists."""
    import faiss

    width = codes.shape[1]
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(width), width, 4096, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    began = time.perf_counter()
    index.train(codes[:: max(1, len(codes) // 160_000)].astype(np.float32))
    for start in range(0, len(codes), 65536):
        index.add(codes[start : start + 65536].astype(np.float32))
    print(f"  FAISS IVF4096,SQ8: made in {time.perf_counter() - began:.0f} s")
    best = []
    for query in features:
        exact = np.concatenate([codes[i : i + 65536].astype(np.float32) @ query for i in range(0, len(codes), 65536)])
        best.append(np.argsort(-exact)[:count])
    for lists in (4, 16, 64, 256):
        index.nprobe, times, found = lists, [], []
        for query, top in zip(features, best, strict=True):
            began = time.perf_counter()
            _, places = index.search(query[None], 1000)
            times.append(1e3 * (time.perf_counter() - began))
            found.append(np.isin(top, places[0]).mean())
        print(f"  {lists} lists: p50 {statistics.median(times):.1f} ms, recall@{count} in 1,000: {np.mean(found):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure shortlists and queries at scale.")
    parser.add_argument("index", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("--views", type=int, default=100_000)
    parser.add_argument("--codes", type=int, default=1_000_000)
    parser.add_argument("--work", type=Path, default=Path("shortlist-work"))
    parser.add_argument("--faiss", action="store_true", help="Also measure FAISS's inverted file with the same codes.")
    args = parser.parse_args()
    texts = [captions[0] for captions in Annotations.read(args.annotations).captions[:100]]
    folder = args.work / f"recombined-{args.views}.index"
    with Engine.open(args.index, create=False) as engine:
        queries = engine.encoder.encode_texts(texts)
        if not folder.exists():
            make_index(engine, folder, args.views)
        catalog = Catalog(folder)
        began = time.perf_counter()
        # Views that an earlier run has fitted are skipped.
        done = list(fit_views(Snapshot(folder, engine.settings, catalog), engine.encoder))
        if done:
            print(f"fitted vectors of {done[-1] - done[0]:,} views in {time.perf_counter() - began:.0f} s", flush=True)
        reader = open_snapshot(folder, engine.settings, catalog, DEFAULT_POLICY)
        backend = choose_backend(engine.encoder.device, len(queries) * len(reader))
        place = LocalPlace(reader, catalog, engine.encoder.pool_weights, backend, DEFAULT_POLICY)
        searcher = Searcher(place, DEFAULT_POLICY)
    print(f"{len(reader):,} views, {len(queries)} captions, warm, without the text encoder")
    for size in (1000, "auto"):
        time_ = milliseconds(lambda q, s=size: search(searcher, q, s), queries)
        print(f"  query, shortlist {size}: {time_}")
    ranked = [search(searcher, query, "auto").stats.views_ranked for query in queries]
    print(f"  auto ranks {statistics.median(ranked):,.0f} views, median")
    shortlist = Shortlist(reader)
    print(f"  shortlist, 1,000 views: {milliseconds(lambda q: shortlist.search(q.vector, 1000), queries)}")
    files = [folder / "fitted/codes", *(folder / "prefilter").glob("*")]
    print("  bytes a view:", {str(f.relative_to(folder)): round(f.stat().st_size / len(reader)) for f in files})

    fitted = PredictorFile(folder, reader.dim)
    fit = fitted.load()
    assert fit is not None
    real = fitted.rows(fit, reader.generation)["codes"]
    rng, width = np.random.default_rng(2), len(fit.quant_steps)
    rows = np.zeros((args.codes, CODES_OFFSET_BYTES + width + 4), np.int8)
    codes = rows[:, CODES_OFFSET_BYTES : CODES_OFFSET_BYTES + width]
    for start in range(0, args.codes, 50_000):
        first, second, third = (real[rng.integers(len(real), size=50_000)].astype(np.int16) for _ in range(3))
        codes[start : start + 50_000] = (first + (second - third) // 3).clip(-127, 127)[: args.codes - start]
    scan = CodeScan(np.arange(args.codes), prefix_of(codes), np.arange(args.codes), rows, CODES_OFFSET_BYTES)
    features = [fit.features(query.vector) for query in queries]
    print(f"{args.codes:,} codes")
    for count in (100, 1000, 10_000):
        time_ = milliseconds(lambda q, n=count: scan.search(fit.features(q.vector), n), queries)
        print(f"  shortlist, {count:,} views: {time_}")
    for count in (100, 1000):
        print(f"  recall@{count:,} against all inner products: {recalls(scan, codes, features[:40], count):.4f}")
    if args.faiss:
        compare_faiss(codes, features[:40])


if __name__ == "__main__":
    main()
