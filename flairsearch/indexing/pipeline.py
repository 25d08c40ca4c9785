"""WRITE: folders -> images -> model -> codecs -> store -> shortlist. The only place where this order is written."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from flairsearch.core.arrays import chunks
from flairsearch.core.errors import UsageError
from flairsearch.core.limits import INGEST_LIMITS, IngestLimits
from flairsearch.core.protocols import Encoder
from flairsearch.core.reports import IndexReport, IndexRun, Progress, Skipped
from flairsearch.core.types import EncodedViews, ImageFile, Picture
from flairsearch.images import discovery, loading
from flairsearch.shortlist.build import PREDICTOR_POLICY, PredictorPolicy, drop_lost, fit_views
from flairsearch.store.codec_training import is_trained, needs_training, train_codec
from flairsearch.store.writer import Writer


@dataclass
class _Work:
    """What one indexing run has to do, and counts of what it has done."""

    unread: list[ImageFile] = field(default_factory=list)  # The files that are new or changed, and must be read.
    changed: dict[tuple[str, str], int] = field(default_factory=dict)  # The changed files: root and path -> image id.
    gone: dict[bytes, list[int]] = field(default_factory=dict)  # Content hash -> ids of images whose file is gone.
    unchanged: int = 0
    added: int = 0
    updated: int = 0
    moved: int = 0
    removed: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    videos: int = 0

    @property
    def counts(self) -> tuple[int, int, int, int, int]:
        return self.added, self.updated, self.moved, self.removed, self.unchanged


def ingest(
    writer: Writer,
    folders: Sequence[str],
    encoder: Encoder,
    ignore: Sequence[str] = (),
    limits: IngestLimits = INGEST_LIMITS,
    predictor_policy: PredictorPolicy = PREDICTOR_POLICY,
) -> Iterator[Progress | IndexReport]:
    """Bring the index up to date with its folders; yield Progress after every file and, at the end, the report.

    folders: the folders to scan; without any, all folders of the index. ignore: globs of names or paths to leave out.
    An interrupted run keeps what is committed; it commits what is already encoded before it ends.
    Raises UsageError when a folder does not exist and is not part of the index.
    """
    start = time.monotonic()
    work = _survey(writer, folders, ignore)
    drop_lost(writer.snapshot())
    yield Progress(0, len(work.unread), len(work.skipped))
    try:
        yield from _read(writer, work, encoder, limits)
        gone = [image for images in work.gone.values() for image in images]
        writer.remove_images(gone)
        work.removed = len(gone)
    finally:
        _commit(writer)
    writer.catalog.statistics.replace_skipped(work.skipped)
    _train_if_needed(writer, encoder)
    if is_trained(writer):
        for _ in writer.compactor.compact(writer.target, dead_too=False):
            pass  # Segments in the fallback codec are rewritten in the trained codec.
    if writer.catalog.counts()[1]:
        for _ in fit_views(writer.snapshot(), encoder, predictor_policy):
            yield Progress(len(work.unread), len(work.unread), len(work.skipped))
    run = IndexRun(time.time(), time.monotonic() - start, *work.counts, len(work.skipped), work.videos)
    writer.catalog.statistics.save_run(run)
    yield IndexReport(*work.counts, tuple(work.skipped), tuple(work.warnings), work.videos)


def _commit(writer: Writer) -> None:
    """Commit, and merge small segments if there are too many of them."""
    if writer.commit():
        writer.compactor.merge(writer.target)


def _train_if_needed(writer: Writer, encoder: Encoder) -> None:
    if needs_training(writer):
        train_codec(writer, encoder.token_metric)


def _survey(writer: Writer, folders: Sequence[str], ignore: Sequence[str]) -> _Work:
    """Walk the folders, compare them with the catalogue, and return what is to be done."""
    roots = writer.catalog.roots()
    scanned = []
    for folder in folders or sorted(roots):
        path = os.path.abspath(os.path.expanduser(folder))
        parents = [root for root in roots if _is_inside(path, root)]
        if not parents and not os.path.isdir(path):
            reason = "is not a folder" if os.path.exists(path) else "is not there"
            raise UsageError(f"{discovery.printable(path)} {reason} - give a folder of photos")
        if path != discovery.printable(path):
            raise UsageError(f"{discovery.printable(path)} has a name that is not UTF-8 - rename the folder")
        root = max(parents, key=len) if parents else path
        roots.setdefault(root, 0)
        scanned += [root, *(other for other in sorted(roots) if _is_inside(other, path))]
    work = _Work()
    gone: list[int] = []
    for root in dict.fromkeys(scanned):
        nested = [other for other in roots if other != root and _is_inside(other, root)]
        changes = discovery.compare(root, writer.catalog.known(writer.catalog.add_root(root)), ignore, nested)
        work.unread += changes.added + [file for file, _ in changes.updated]
        work.changed |= {(file.root, file.path): image for file, image in changes.updated}
        work.unchanged += changes.unchanged
        work.skipped += changes.skipped
        work.warnings += changes.warnings
        work.videos += changes.videos
        gone += changes.removed
    for image, digest in writer.catalog.image_hashes(gone).items():
        work.gone.setdefault(digest, []).append(image)
    return work


def _is_inside(path: str, folder: str) -> bool:
    """Return whether a path is a folder or lies below it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _read(writer: Writer, work: _Work, encoder: Encoder, limits: IngestLimits) -> Iterator[Progress]:
    """Decode files, encode them in batches and pass them to the writer; commit when the limits require it."""
    if not work.unread:
        return
    batch = _Batch(writer, work, encoder, limits.batch_views)
    last_commit = time.monotonic()
    loader = loading.load_all(work.unread, writer.settings.views, writer.settings.image_size, writer.hashes)
    for done, loaded in enumerate(loader, 1):
        if isinstance(loaded, loading.Failed):
            work.skipped.append(Skipped(loaded.file.absolute, loaded.reason))
        else:
            batch.add(loaded)
        seconds = time.monotonic() - last_commit
        if writer.pending >= limits.commit_views or (writer.pending and seconds > limits.commit_seconds):
            _commit(writer)
            last_commit = time.monotonic()
            _train_if_needed(writer, encoder)
        yield Progress(done, len(work.unread), len(work.skipped))
    batch.flush()


class _Batch:
    """Collects photos until their views are enough for one step of the model; all views of a photo stay together."""

    def __init__(self, writer: Writer, work: _Work, encoder: Encoder, size: int) -> None:
        """size: the largest number of views, and of photos, in one step of the model."""
        self._writer, self._work, self._encoder, self._size = writer, work, encoder, size
        self._photos: list[loading.Loaded] = []
        self._hashes: set[bytes] = set()
        self._views: list[tuple[bytes, Picture]] = []

    def add(self, loaded: loading.Loaded) -> None:
        """Add a photo; pass the earlier photos to the writer first if its views would be too many."""
        # A photo needs no views if an identical photo has views in the index or in this batch.
        is_known = loaded.hash in self._writer.hashes or loaded.hash in self._hashes
        pictures = () if is_known else loaded.pictures or ()
        if len(self._views) + len(pictures) > self._size:
            self.flush()
        self._photos.append(loaded)
        self._hashes.add(loaded.hash)
        self._views += [(loaded.hash, picture) for picture in pictures]
        if max(len(self._views), len(self._photos)) >= self._size:
            self.flush()

    def flush(self) -> None:
        """Encode the views, and pass them and their photos to the writer."""
        if self._views:
            pictures = [picture for _, picture in self._views]
            encoded = _encode_all(self._encoder, pictures, self._size)
            frames, dates = [p.frame for p in pictures], [p.taken for p in pictures]
            self._writer.add_views([digest for digest, _ in self._views], frames, encoded, dates)
        for loaded in self._photos:
            _record(self._writer, self._work, loaded)
        self._photos, self._hashes, self._views = [], set(), []


def _encode_all(encoder: Encoder, pictures: Sequence[Picture], size: int) -> EncodedViews:
    """Encode views, at most `size` at once."""
    parts = [encoder.encode_images(batch) for batch in chunks(pictures, size)]
    if len(parts) == 1:
        return parts[0]
    return EncodedViews(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(EncodedViews)))


def _record(writer: Writer, work: _Work, loaded: loading.Loaded) -> None:
    """Pass an image to the writer as changed, moved or new; its content has views already."""
    file = loaded.file
    image = work.changed.get((file.root, file.path))
    if image is not None:
        writer.update_image(image, file, loaded.hash)
        work.updated += 1
    elif work.gone.get(loaded.hash):
        writer.update_image(work.gone[loaded.hash].pop(0), file, loaded.hash)
        work.moved += 1
    else:
        writer.add_image(file, loaded.hash)
        work.added += 1
