"""The store at scale, with synthetic tokens: appending, opening, memory, reads, an incremental scan.

    python -m benchmarks.store [--views 1000000] [--dim 256] [--codec NAME] [--work DIR] [--json FILE] [--keep]

The first views go all the way (encoded by the codec, written, committed); the rest are copies of their bytes under new
checksums and catalogue rows, which is what takes time to open. What opens the index runs in a process of its own, so
that its memory is its own: anonymous memory above what the imports take, sampled every 2 ms.
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
from flairsearch.core.reports import IndexReport
from flairsearch.core.settings import DEFAULT_CODEC, IndexSettings
from flairsearch.core.types import EncodedQuery, EncodedText, EncodedViews, Frame, ImageFile, PoolWeights
from flairsearch.indexing.lifecycle import create_index
from flairsearch.indexing.pipeline import EncoderCalls, ingest
from flairsearch.search.searcher import Searcher
from flairsearch.store.catalog import Catalog
from flairsearch.store.changeset import Changeset, NewView
from flairsearch.store.segments import SegmentWriter, segment_paths
from flairsearch.store.snapshot import Snapshot
from flairsearch.store.writer import Writer

PATCHES, HEADS = 196, 4
REAL = 4 * INGEST_LIMITS.commit_views  # views that go all the way
FOLDER = 1000  # files in one
FRAME = Frame(4000, 3000, 0, 0, 4000, 3000)
MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description="The store at scale.")
    parser.add_argument("--views", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--codec", default=DEFAULT_CODEC)
    parser.add_argument("--work", type=Path, help="where there is room; the system's temporary folder otherwise")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--keep", action="store_true", help="leave the index and its empty photos there")
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


# -- making it


def make(work: Path, args: argparse.Namespace) -> dict[str, float]:
    """The photos, empty files; the index of them."""
    files = list(_touch(work / "photos", args.views))
    index = work / "index"
    create_index(index, IndexSettings("synthetic", "none", 224, PATCHES, args.dim, codec=args.codec))
    settings, rng = IndexSettings.load(index), np.random.default_rng(0)
    real, figures = min(REAL, args.views), {}
    with _writer(index, settings) as writer:
        writer.catalog.add_root(str(work / "photos"))
        encoded = _tokens(rng, INGEST_LIMITS.commit_views, args.dim)
        if needs_basis(args.codec):  # its first views come in another codec: have the basis first
            _append(writer, rng, files[:512], EncodedViews(*(c[:512] for c in _columns(encoded))))
            writer.fit(np.eye(args.dim, dtype=np.float32))
        began = time.perf_counter()
        done = writer.catalog.counts()[1]
        first = done
        while done < real:
            some = files[done : min(done + INGEST_LIMITS.commit_views, real)]
            _append(writer, rng, some, EncodedViews(*(c[: len(some)] for c in _columns(encoded))))
            done += len(some)
        figures["append, encoded by the codec: views/s"] = (real - first) / (time.perf_counter() - began)
        for _ in writer.compact():
            pass
        figures |= _fill(writer, rng, files, done, settings)
        figures["bytes of a view's tokens"] = writer.snapshot().codecs[writer.catalog.segments()[-1][2]].stride
    figures["catalogue: bytes a view"] = (index / "catalog.sqlite").stat().st_size / args.views
    return figures


def _columns(encoded: EncodedViews) -> list[np.ndarray]:
    return [encoded.pooled, encoded.tokens, encoded.shift, encoded.scale]


def _touch(root: Path, count: int) -> Iterator[ImageFile]:
    """So many empty files in folders of a thousand."""
    for i in range(count):
        path = f"{i // FOLDER:05d}/{i:08d}.jpg"
        if i % FOLDER == 0:
            (root / path).parent.mkdir(parents=True)
        descriptor = os.open(root / path, os.O_CREAT | os.O_WRONLY)
        status = os.fstat(descriptor)
        os.close(descriptor)
        yield ImageFile(str(root), path, status.st_size, status.st_mtime_ns)


def _tokens(rng: np.random.Generator, count: int, dim: int) -> EncodedViews:
    """LayerNorm-ed tokens with a falling spectrum, neighbours alike; what they say does not matter here."""
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
    writer.commit()


def _fill(
    writer: Writer, rng: np.random.Generator, files: list[ImageFile], done: int, settings: IndexSettings
) -> dict[str, float]:
    """Copies of the bytes there are, in segments as compaction makes them; and the same bytes as a plain file."""
    reader = writer.snapshot()
    rows = reader.coded(reader.views.id[: INGEST_LIMITS.commit_views])
    ((label, codec),) = reader.codecs.items()
    seconds, count, folder = 0.0, len(files) - done, writer.catalog
    segments = writer_folder(writer)
    while done < len(files):
        some = files[done : done + STORE_LIMITS.max_segment_views]
        hashes = [rng.bytes(32) for _ in some]
        unit = rng.standard_normal((len(some), codec.dim), np.float32)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        began = time.perf_counter()
        views: list[NewView] = []
        with SegmentWriter(segments, folder.last_segment() + 1, codec) as segment:
            for start in range(0, len(some), len(rows)):
                piece = unit[start : start + len(rows)].astype(np.float16)
                for checksum in segment.append_rows(rows[: len(piece)], piece):
                    views.append(NewView(hashes[len(views)], len(views), checksum, FRAME))
            segment.finish()
        change = Changeset((segment.number, segment.count, label), views, list(zip(some, hashes, strict=True)))
        folder.commit(change)
        seconds += time.perf_counter() - began
        done += len(some)
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


def writer_folder(writer: Writer) -> Path:
    return writer.folder / "segments"


@contextmanager
def _writer(index: Path, settings: IndexSettings) -> Iterator[Writer]:
    writer = Writer(index, settings)
    try:
        yield writer
    finally:
        writer.close()


# -- using it; each in a process of its own


def changed(work: Path) -> dict[str, float]:
    """Open as the first process after a change that was not indexing: what can be made again is made again."""
    shutil.rmtree(work / "index" / "prefilter", ignore_errors=True)
    with Peak() as peak:
        seconds = _open(work / "index")[0]
    return {"open, prefilter deleted: s": seconds, "open, prefilter deleted: MiB anonymous, peak": peak.mib}


def opened(work: Path) -> dict[str, float]:
    """Open as every process after that; then search."""
    with Peak() as peak:
        opening, searcher = _open(work / "index")
        before, dim = peak.mib, searcher.reader.dim
        rng, seconds = np.random.default_rng(1), []
        for i in range(10):
            vector, u = rng.standard_normal(dim, np.float32), rng.standard_normal((HEADS, dim), np.float32) / dim
            query = EncodedText(str(i), vector, u, np.zeros(HEADS, np.float32))
            began = time.perf_counter()
            searcher.search(EncodedQuery((query,)), 10, 2000)
            seconds.append(time.perf_counter() - began)
    return {
        "open: s": opening,
        "open: MiB anonymous, peak": before,
        "search, shortlist 2000: s, median": statistics.median(seconds),
        "open and searched: MiB anonymous, peak": peak.mib,
    }


def _open(index: Path) -> tuple[float, Searcher]:
    """Seconds, and the index ready for queries with a pool of random weights."""
    settings = IndexSettings.load(index)
    rng, dim = np.random.default_rng(1), settings.dim
    value, zeros = rng.standard_normal((HEADS, dim // HEADS, dim), np.float32), np.zeros(dim, np.float32)
    weights = PoolWeights(value, zeros.reshape(HEADS, -1), np.eye(dim, dtype=np.float32), zeros, 1.0, 0.0)
    import_module("flairsearch.shortlist.faiss_index")  # its libraries are not what is measured
    began = time.perf_counter()
    catalog = Catalog(index)
    searcher = Searcher(Snapshot(index, settings, catalog), catalog, weights, "cpu")
    return time.perf_counter() - began, searcher


class Peak:
    """The largest anonymous memory of this process while it is entered, above what it was before; MiB."""

    def __init__(self, before: float | None = None) -> None:
        self.before = anonymous() if before is None else before
        self.mib = 0.0

    def __enter__(self) -> Peak:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self.mib = max(self.mib, anonymous() - self.before)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.mib = max(self.mib, anonymous() - self.before)


def anonymous() -> float:
    """RssAnon of this process, MiB."""
    with open("/proc/self/status", encoding="ascii") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith("RssAnon")) / 1024


def read(work: Path) -> dict[str, float]:
    """1,000 views drawn at random against as many bytes in a row, from the page cache and from the disk.

    Of the two largest segments, so that they fit in memory; other views and another stretch every time.
    """
    index = work / "index"
    settings, catalog = IndexSettings.load(index), Catalog(index)
    rng, figures = np.random.default_rng(2), {}
    reader = Snapshot(index, settings, catalog)
    (number, count, label), *more = sorted(catalog.segments(), key=lambda s: -s[1])[:2]
    numbers = [number, *(n for n, _, other in more if other == label)]
    files = [segment_paths(index / "segments", n)[0] for n in numbers]
    alike = reader.views.id[np.isin(reader.views.segment, numbers)]
    wanted, stride = min(1000, count), reader.codecs[label].stride
    for warmth in ("cold", "warm"):
        if warmth == "warm":
            for file in files:
                _plain(file, 0, file.stat().st_size)
            for _ in reader.rows(alike):  # and mapped: as in a process that has searched for a while
                pass
        seconds: dict[str, list[float]] = {"random": [], "in a row": []}
        for _ in range(5 if warmth == "cold" else 21):
            views = np.sort(rng.choice(alike, wanted, replace=False))
            first = int(rng.integers(count - wanted + 1)) * stride
            for way, times in seconds.items():
                if warmth == "cold":
                    _drop(index)
                began = time.perf_counter()
                if way == "random":
                    for _ in reader.rows(views):  # as the re-ranker reads them
                        pass
                else:
                    _plain(files[0], first, wanted * stride)
                times.append(time.perf_counter() - began)
        size = wanted * stride / 1e6
        random, row = (statistics.median(times) for times in seconds.values())
        figures[f"1,000 random views, {warmth}: MB/s"] = size / random
        figures[f"in a row, {warmth}: MB/s"] = size / row
        figures[f"random against in a row, {warmth}"] = row / random
    return figures


def _plain(file: Path, first: int, size: int) -> None:
    """As many bytes in a row, a megabyte at once into the same memory."""
    memory = np.empty(MIB, np.uint8)
    with file.open("rb", buffering=0) as stream:
        stream.seek(first)
        while size > 0 and (count := stream.readinto(memory[:size])):
            size -= count


def _drop(index: Path) -> None:
    """Out of the page cache with the segments."""
    for file in (index / "segments").iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def scan(work: Path) -> dict[str, float]:
    """`index` when nothing has changed."""
    index = work / "index"
    settings = IndexSettings.load(index)
    with Peak() as peak, _writer(index, settings) as writer:
        began = time.perf_counter()
        report = next(
            step for step in ingest(writer, [], EncoderCalls(_never, _never)) if isinstance(step, IndexReport)
        )
        seconds = time.perf_counter() - began
    assert (report.unchanged, report.added, report.removed) == (writer_count(index), 0, 0), report
    began = time.perf_counter()
    walked = sum(1 for _ in _walk(work / "photos"))
    return {
        "incremental scan, nothing changed: s": seconds,
        "incremental scan: MiB anonymous, peak": peak.mib,
        "of it, looking at every file: s": time.perf_counter() - began,
        "files": walked,
    }


def _never(*_: object) -> EncodedViews:
    raise AssertionError("nothing has changed")


def _walk(folder: Path) -> Iterator[os.stat_result]:
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _walk(Path(entry.path))
        else:
            yield entry.stat()


def writer_count(index: Path) -> int:
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
