"""Measure the store at scale, with synthetic tokens: appending, opening, memory, reads and an incremental scan.

    python -m benchmarks.store [--views 1000000] [--dim 256] [--codec NAME] [--work DIR] [--json FILE] [--keep]

The first views take the whole path (encoded by the codec, written, committed). The rest are copies of their bytes with
new checksums and catalogue rows, which are what takes time to open. Each step that opens the index runs in its own
process, so that its memory can be measured: anonymous memory above that of the imports, sampled every 2 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np

from flairsearch.codecs.codec import needs_basis
from flairsearch.core.limits import INGEST_LIMITS, STORE_LIMITS
from flairsearch.core.query import Query
from flairsearch.core.reports import IndexReport
from flairsearch.core.request import SearchRequest
from flairsearch.core.settings import DEFAULT_CODEC, IndexSettings
from flairsearch.core.timing import StageTimer
from flairsearch.core.types import EncodedQuery, EncodedText, EncodedViews, Frame, ImageFile, PoolWeights
from flairsearch.indexing.lifecycle import create_index
from flairsearch.indexing.pipeline import ingest
from flairsearch.rerank.backend import Backend
from flairsearch.search.index_states import open_snapshot
from flairsearch.search.local_place import LocalPlace
from flairsearch.search.policy import DEFAULT_POLICY
from flairsearch.search.searcher import Searcher
from flairsearch.shortlist.build import PredictorPolicy
from flairsearch.store.catalog import Catalog
from flairsearch.store.changeset import Changeset, NewView
from flairsearch.store.codec_training import train_codec
from flairsearch.store.segments import SegmentWriter, segment_paths
from flairsearch.store.snapshot import Snapshot
from flairsearch.store.writer import Writer

PATCHES = 196
HEADS = 4
ENCODED_VIEWS = 4 * INGEST_LIMITS.commit_views  # Number of views that the codec encodes; the rest are copies.
FILES_PER_FOLDER = 1000
FRAME = Frame(4000, 3000, 0, 0, 4000, 3000)
MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the store at scale.")
    parser.add_argument("--views", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--codec", default=DEFAULT_CODEC)
    parser.add_argument("--work", type=Path, help="folder with enough room (default: the system's temporary folder)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--keep", action="store_true", help="do not delete the index and its empty photos")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(CHILDREN[args.child](args.work)))
        return
    work = Path(tempfile.mkdtemp(prefix="flairsearch-store-", dir=args.work))
    try:
        figures = {"views": args.views, "dim": args.dim, "codec": args.codec}
        for step in (make, *(_in_child(name) for name in CHILDREN)):
            for name, value in step(work, args).items():
                figures[name] = value
                print(f"{name:58} {value:>14,}" if isinstance(value, int) else f"{name:58} {value:>14.3f}", flush=True)
        if args.json:
            args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    finally:
        if not args.keep:
            shutil.rmtree(work)


def _in_child(name: str) -> Callable[[Path, argparse.Namespace], dict[str, float]]:
    def run(work: Path, args: argparse.Namespace) -> dict[str, float]:
        command = [sys.executable, "-m", "benchmarks.store", "--child", name, "--work", str(work)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    return run


def make(work: Path, args: argparse.Namespace) -> dict[str, float]:
    """Make empty files as photos, and an index of them."""
    files = list(_touch(work / "photos", args.views))
    index = work / "index"
    create_index(index, IndexSettings("synthetic", "none", 224, PATCHES, args.dim, "squash", args.codec))
    settings, rng = IndexSettings.load(index), np.random.default_rng(0)
    real, figures = min(ENCODED_VIEWS, args.views), {}
    with _writer(index, settings) as writer:
        writer.catalog.add_root(str(work / "photos"))
        encoded = _tokens(rng, INGEST_LIMITS.commit_views, args.dim)
        if needs_basis(args.codec):  # The basis is fitted first, because views before it would use another codec.
            _append(writer, rng, files[:512], EncodedViews(*(c[:512] for c in _columns(encoded))))
            train_codec(writer, np.eye(args.dim, dtype=np.float32))
        began = time.perf_counter()
        done = writer.catalog.counts()[1]
        first = done
        while done < real:
            batch = files[done : min(done + INGEST_LIMITS.commit_views, real)]
            _append(writer, rng, batch, EncodedViews(*(c[: len(batch)] for c in _columns(encoded))))
            done += len(batch)
        figures["append, encoded by the codec: views/s"] = (real - first) / (time.perf_counter() - began)
        for _ in writer.compactor.compact(writer.target, dead_too=True):
            pass
        figures |= _fill(writer, rng, files, done, settings)
        figures["bytes of a view's tokens"] = writer.snapshot().codecs[writer.catalog.segments()[-1][2]].stride
    figures["catalogue: bytes a view"] = (index / "catalog.sqlite").stat().st_size / args.views
    return figures


def _columns(encoded: EncodedViews) -> list[np.ndarray]:
    return [encoded.pooled, encoded.tokens, encoded.shift, encoded.scale]


def _touch(root: Path, count: int) -> Iterator[ImageFile]:
    """Make empty files in folders of FILES_PER_FOLDER each."""
    for i in range(count):
        path = f"{i // FILES_PER_FOLDER:05d}/{i:08d}.jpg"
        if i % FILES_PER_FOLDER == 0:
            (root / path).parent.mkdir(parents=True)
        descriptor = os.open(root / path, os.O_CREAT | os.O_WRONLY)
        status = os.fstat(descriptor)
        os.close(descriptor)
        yield ImageFile(str(root), path, status.st_size, status.st_mtime_ns)


def _tokens(rng: np.random.Generator, count: int, dim: int) -> EncodedViews:
    """Draw LayerNorm-ed tokens with a falling spectrum. Their content does not matter here."""
    spectrum = np.linspace(1, 0.1, dim, dtype=np.float32)
    tokens = rng.standard_normal((count, PATCHES, dim), np.float32) * spectrum
    tokens /= tokens.std(-1, keepdims=True)
    pooled = rng.standard_normal((count, dim), np.float32)
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    moments = np.ones((count, PATCHES), np.float16)
    return EncodedViews(pooled.astype(np.float16), tokens.astype(np.float16), 0 * moments, moments)


def _append(writer: Writer, rng: np.random.Generator, files: list[ImageFile], encoded: EncodedViews) -> None:
    hashes = [rng.bytes(32) for _ in files]
    writer.add_views(hashes, [FRAME] * len(files), encoded)
    for file, digest in zip(files, hashes, strict=True):
        writer.add_image(file, digest)
    if writer.commit():
        writer.compactor.merge(writer.target)


def _fill(
    writer: Writer, rng: np.random.Generator, files: list[ImageFile], done: int, settings: IndexSettings
) -> dict[str, float]:
    """Append copies of existing rows in segments as compaction makes them, and measure a plain file for comparison."""
    reader = writer.snapshot()
    rows = reader.coded(reader.views.id[: INGEST_LIMITS.commit_views])
    ((label, codec),) = reader.codecs.items()
    seconds, count, catalog = 0.0, len(files) - done, writer.catalog
    segments = writer.folder / "segments"
    while done < len(files):
        batch = files[done : done + STORE_LIMITS.max_segment_views]
        hashes = [rng.bytes(32) for _ in batch]
        unit = rng.standard_normal((len(batch), codec.dim), np.float32)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        began = time.perf_counter()
        views: list[NewView] = []
        with SegmentWriter(segments, catalog.last_segment() + 1, codec) as segment:
            for start in range(0, len(batch), len(rows)):
                piece = unit[start : start + len(rows)].astype(np.float16)
                for checksum in segment.append_rows(rows[: len(piece)], piece):
                    views.append(NewView(hashes[len(views)], len(views), checksum, FRAME))
            segment.finish()
        change = Changeset((segment.number, segment.count, label), views, list(zip(batch, hashes, strict=True)))
        catalog.commit(change)
        seconds += time.perf_counter() - began
        done += len(batch)
    if not count:
        return {}
    plain = segments.parent / "plain"
    began = time.perf_counter()
    with plain.open("wb", buffering=0) as stream:
        for _ in range(8):
            stream.write(rows.data)
        os.fsync(stream.fileno())
    bandwidth = 8 * rows.nbytes / (time.perf_counter() - began)
    plain.unlink()
    return {
        "append, bytes as they are: views/s": count / seconds,
        "append, bytes as they are: MB/s": count * codec.stride / seconds / 1e6,
        "a plain file written and synced: MB/s": bandwidth / 1e6,
    }


@contextmanager
def _writer(index: Path, settings: IndexSettings) -> Iterator[Writer]:
    writer = Writer(index, settings)
    try:
        yield writer
    finally:
        writer.close()


def changed(work: Path) -> dict[str, float]:
    """Open the index without its derived files, which are made again."""
    shutil.rmtree(work / "index" / "prefilter", ignore_errors=True)
    with Peak() as peak:
        seconds = _open(work / "index")[0]
    return {"open, prefilter deleted: s": seconds, "open, prefilter deleted: MiB anonymous, peak": peak.mib}


def opened(work: Path) -> dict[str, float]:
    """Open the index as usual, then search."""
    with Peak() as peak:
        opening, searcher = _open(work / "index")
        before, dim = peak.mib, IndexSettings.load(work / "index").dim
        rng, seconds = np.random.default_rng(1), []
        request = SearchRequest(Query("an encoded text"), k=10, shortlist=2000)
        for i in range(10):
            vector, u = rng.standard_normal(dim, np.float32), rng.standard_normal((HEADS, dim), np.float32) / dim
            query = EncodedText(str(i), vector, u, np.zeros(HEADS, np.float32))
            began = time.perf_counter()
            searcher.search_many([EncodedQuery((query,))], request, StageTimer())
            seconds.append(time.perf_counter() - began)
    return {
        "open: s": opening,
        "open: MiB anonymous, peak": before,
        "search, shortlist 2000: s, median": statistics.median(seconds),
        "open and searched: MiB anonymous, peak": peak.mib,
    }


def _open(index: Path) -> tuple[float, Searcher]:
    """Return the seconds that opening takes, and a searcher with a pool of random weights."""
    settings = IndexSettings.load(index)
    rng, dim = np.random.default_rng(1), settings.dim
    value, zeros = rng.standard_normal((HEADS, dim // HEADS, dim), np.float32), np.zeros(dim, np.float32)
    weights = PoolWeights(value, zeros.reshape(HEADS, -1), np.eye(dim, dtype=np.float32), zeros, 1.0, 0.0)
    import_module("flairsearch.shortlist.faiss_index")  # Loading its libraries is not measured.
    began = time.perf_counter()
    catalog = Catalog(index)
    snapshot = open_snapshot(index, settings, catalog, DEFAULT_POLICY)
    place = LocalPlace(snapshot, catalog, weights, Backend("numba"), DEFAULT_POLICY)
    searcher = Searcher(place, DEFAULT_POLICY)
    return time.perf_counter() - began, searcher


class Peak:
    """Samples the anonymous memory of this process, and keeps its largest growth in MiB."""

    def __init__(self, before: float | None = None) -> None:
        self.before = anonymous_mib() if before is None else before
        self.mib = 0.0

    def __enter__(self) -> Peak:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self.mib = max(self.mib, anonymous_mib() - self.before)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.mib = max(self.mib, anonymous_mib() - self.before)


def anonymous_mib() -> float:
    """Return the RssAnon of this process in MiB."""
    with open("/proc/self/status", encoding="ascii") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith("RssAnon")) / 1024


def read(work: Path) -> dict[str, float]:
    """Compare reading 1,000 random views with reading as many bytes in sequence, from the page cache and from the disk.

    Views come from the two largest segments, which fit in memory; each round reads other views and another stretch.
    """
    index = work / "index"
    settings, catalog = IndexSettings.load(index), Catalog(index)
    rng, figures = np.random.default_rng(2), {}
    reader = Snapshot(index, settings, catalog)
    (number, count, label), *more = sorted(catalog.segments(), key=lambda s: -s[1])[:2]
    numbers = [number, *(n for n, _, other in more if other == label)]
    files = [segment_paths(index / "segments", n)[0] for n in numbers]
    same_codec = reader.views.id[np.isin(reader.views.segment, numbers)]
    wanted, stride = min(1000, count), reader.codecs[label].stride
    for warmth in ("cold", "warm"):
        if warmth == "warm":
            for file in files:
                _read_sequentially(file, 0, file.stat().st_size)
            for _ in reader.rows(same_codec):  # This maps the pages, as in a process that has searched for a while.
                pass
        seconds: dict[str, list[float]] = {"random": [], "in a row": []}
        for _ in range(5 if warmth == "cold" else 21):
            views = np.sort(rng.choice(same_codec, wanted, replace=False))
            first = int(rng.integers(count - wanted + 1)) * stride
            for order, times in seconds.items():
                if warmth == "cold":
                    _drop_from_cache(index)
                began = time.perf_counter()
                if order == "random":
                    for _ in reader.rows(views):  # The re-ranker reads rows in this way.
                        pass
                else:
                    _read_sequentially(files[0], first, wanted * stride)
                times.append(time.perf_counter() - began)
        size = wanted * stride / 1e6
        random, row = (statistics.median(times) for times in seconds.values())
        figures[f"1,000 random views, {warmth}: MB/s"] = size / random
        figures[f"in a row, {warmth}: MB/s"] = size / row
        figures[f"random against in a row, {warmth}"] = row / random
    return figures


def _read_sequentially(file: Path, first: int, size: int) -> None:
    """Read `size` bytes in sequence, a MiB at once into the same memory."""
    memory = np.empty(MIB, np.uint8)
    with file.open("rb", buffering=0) as stream:
        stream.seek(first)
        while size > 0 and (count := stream.readinto(memory[:size])):
            size -= count


def _drop_from_cache(index: Path) -> None:
    """Drop the segments from the page cache."""
    for file in (index / "segments").iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def scan(work: Path) -> dict[str, float]:
    """Run `flairsearch index` when nothing has changed."""
    index = work / "index"
    settings = IndexSettings.load(index)
    with Peak() as peak, _writer(index, settings) as writer:
        began = time.perf_counter()
        # Without an encoder, the run fails if anything is to be encoded; the index has no score predictor to fit.
        policy = PredictorPolicy(exhaustive_views=sys.maxsize)
        steps = ingest(writer, [], None, predictor_policy=policy)
        report = next(step for step in steps if isinstance(step, IndexReport))
        seconds = time.perf_counter() - began
    assert (report.unchanged, report.added, report.removed) == (image_count(index), 0, 0), report
    began = time.perf_counter()
    walked = sum(1 for _ in _walk(work / "photos"))
    return {
        "incremental scan, nothing changed: s": seconds,
        "incremental scan: MiB anonymous, peak": peak.mib,
        "of it, looking at every file: s": time.perf_counter() - began,
        "files": walked,
    }


def _walk(folder: Path) -> Iterator[os.stat_result]:
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _walk(Path(entry.path))
        else:
            yield entry.stat()


def image_count(index: Path) -> int:
    """Return the number of images in the catalogue."""
    catalog = Catalog(index)
    images, _ = catalog.counts()
    catalog.close()
    return images


CHILDREN: dict[str, Callable[[Path], dict[str, float]]] = {
    "changed": changed,
    "open": opened,
    "read": read,
    "scan": scan,
}


if __name__ == "__main__":
    main()
