"""WRITE: folders -> images -> model -> codecs -> store -> shortlist. The only place where this order is written."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.arrays import chunks
from flairsearch.core.errors import UsageError
from flairsearch.core.limits import INGEST_LIMITS, IngestLimits
from flairsearch.core.reports import IndexReport, IndexRun, Progress, Skipped
from flairsearch.core.types import EncodedViews, ImageFile, Picture
from flairsearch.images import discovery, loading
from flairsearch.shortlist.build import MakeBank, drop_lost, fit_views
from flairsearch.shortlist.shortlist import Shortlist
from flairsearch.store.writer import Writer

if TYPE_CHECKING:
    from flairsearch.model.encoder import Encoder

EncodePictures = Callable[[Sequence[Picture]], EncodedViews]


class HasEncoder(Protocol):
    """An engine, as far as indexing needs it."""

    @property
    def encoder(self) -> Encoder:
        """The model in torch."""


@dataclass(frozen=True)
class EncoderCalls:
    """What an indexing run asks of the model, which may load when it is first asked."""

    encode: EncodePictures
    metric: Callable[[], NDArray[np.float32]]  # model/encoder.Encoder.token_metric, asked when a basis is to be fitted
    make_bank: MakeBank | None = None  # what fitted vectors are fitted to; without it there are none

    @staticmethod
    def of(source: HasEncoder, make_bank: MakeBank) -> EncoderCalls:
        """Calls of an object whose `encoder` loads the model when it is first read."""
        return EncoderCalls(
            lambda pictures: source.encoder.encode_pictures(pictures), lambda: source.encoder.token_metric, make_bank
        )


@dataclass
class _Work:
    """What one run has to do and has done."""

    fresh: list[ImageFile] = field(default_factory=list)
    changed: dict[tuple[str, str], int] = field(default_factory=dict)  # root, path -> image id
    gone: dict[bytes, list[int]] = field(default_factory=dict)  # content hash -> image ids whose file is not there
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
    encoder: EncoderCalls,
    exclude: Sequence[str] = (),
    limits: IngestLimits = INGEST_LIMITS,
) -> Iterator[Progress | IndexReport]:
    """Bring the index up to date with the folders (none given: all it knows); the last thing it yields is a Report.

    Whatever was committed stays when the run is cut off, and a KeyboardInterrupt commits what is encoded first.
    Raises UsageError when a folder was never there.
    """
    began = time.monotonic()
    work = _survey(writer, folders, exclude)
    drop_lost(writer.reader())
    yield Progress(0, len(work.fresh), len(work.skipped))
    try:
        yield from _read(writer, work, encoder, limits)
        gone = [image for images in work.gone.values() for image in images]
        writer.remove_images(gone)
        work.removed = len(gone)
    finally:
        writer.commit()
    writer.catalog.statistics.replace_skipped(work.skipped)
    if writer.wants_basis:
        writer.fit(encoder.metric())
    if writer.has_basis:
        for _ in writer.compact(dead_too=False):
            pass
    if writer.catalog.counts()[1]:
        reader = writer.reader()
        if encoder.make_bank is not None:
            for _ in fit_views(reader, encoder.make_bank):
                yield Progress(len(work.fresh), len(work.fresh), len(work.skipped))
            reader = writer.reader()
        Shortlist(reader)  # so that the first query finds both made
    run = IndexRun(time.time(), time.monotonic() - began, *work.counts, len(work.skipped), work.videos)
    writer.catalog.statistics.save_run(run)
    yield IndexReport(*work.counts, tuple(work.skipped), tuple(work.warnings), work.videos)


def _survey(writer: Writer, folders: Sequence[str], exclude: Sequence[str]) -> _Work:
    """Walk the folders and compare them with the catalogue."""
    roots = writer.catalog.roots()
    chosen = []
    for folder in folders or sorted(roots):
        path = os.path.abspath(os.path.expanduser(folder))
        parents = [root for root in roots if _inside(path, root)]
        if not parents and not os.path.isdir(path):
            what = "is not a folder" if os.path.exists(path) else "is not there"
            raise UsageError(f"{discovery.printable(path)} {what} - give a folder of photos")
        if path != discovery.printable(path):
            raise UsageError(f"{discovery.printable(path)} has a name that is not UTF-8 - rename the folder")
        root = max(parents, key=len) if parents else path
        roots.setdefault(root, 0)
        chosen += [root, *(other for other in sorted(roots) if _inside(other, path))]
    work = _Work()
    gone: list[int] = []
    for root in dict.fromkeys(chosen):
        nested = [other for other in roots if other != root and _inside(other, root)]
        changes = discovery.compare(root, writer.catalog.known(writer.catalog.add_root(root)), exclude, nested)
        work.fresh += changes.fresh + [file for file, _ in changes.changed]
        work.changed |= {(file.root, file.path): image for file, image in changes.changed}
        work.unchanged += changes.unchanged
        work.skipped += changes.skipped
        work.warnings += changes.warnings
        work.videos += changes.videos
        gone += changes.gone
    for image, digest in writer.catalog.image_hashes(gone).items():
        work.gone.setdefault(digest, []).append(image)
    return work


def _inside(path: str, folder: str) -> bool:
    """Whether a path is a folder or lies below it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _read(writer: Writer, work: _Work, encoder: EncoderCalls, limits: IngestLimits) -> Iterator[Progress]:
    """Decode ahead, encode in batches, hand to the writer; commit every so often."""
    if not work.fresh:
        return
    batch = _Batch(writer, work, encoder.encode, limits.batch)
    last_commit = time.monotonic()
    loader = loading.load_all(work.fresh, writer.settings.views, writer.settings.image_size, writer.hashes)
    for done, loaded in enumerate(loader, 1):
        if isinstance(loaded, loading.Failed):
            work.skipped.append(Skipped(loaded.file.absolute, loaded.reason))
        else:
            batch.add(loaded)
        waited = time.monotonic() - last_commit
        if writer.pending >= limits.commit_views or (writer.pending and waited > limits.commit_seconds):
            writer.commit()
            last_commit = time.monotonic()
            if writer.wants_basis:
                writer.fit(encoder.metric())
        yield Progress(done, len(work.fresh), len(work.skipped))
    batch.flush()


class _Batch:
    """Photos that were read, until there are views enough for a step of the model. A photo's views stay together."""

    def __init__(self, writer: Writer, work: _Work, encode: EncodePictures, size: int) -> None:
        """size: views that a step of the model takes at most, and photos."""
        self._writer, self._work, self._encode, self._size = writer, work, encode, size
        self._photos: list[loading.Loaded] = []
        self._hashes: set[bytes] = set()
        self._views: list[tuple[bytes, Picture]] = []

    def add(self, loaded: loading.Loaded) -> None:
        """One more photo; those before it are handed to the writer when its views would be too many."""
        known = loaded.hash in self._writer.hashes or loaded.hash in self._hashes  # its twin is in this very batch
        pictures = () if known else loaded.pictures or ()
        if len(self._views) + len(pictures) > self._size:
            self.flush()
        self._photos.append(loaded)
        self._hashes.add(loaded.hash)
        self._views += [(loaded.hash, picture) for picture in pictures]
        if max(len(self._views), len(self._photos)) >= self._size:
            self.flush()

    def flush(self) -> None:
        """Encode, and hand to the writer."""
        if self._views:
            pictures = [picture for _, picture in self._views]
            encoded = _encode_all(self._encode, pictures, self._size)
            frames, dates = [p.frame for p in pictures], [p.taken for p in pictures]
            self._writer.add_views([digest for digest, _ in self._views], frames, encoded, dates)
        for loaded in self._photos:
            _record(self._writer, self._work, loaded)
        self._photos, self._hashes, self._views = [], set(), []


def _encode_all(encode: EncodePictures, pictures: Sequence[Picture], size: int) -> EncodedViews:
    """No more than `size` at once."""
    parts = [encode(some) for some in chunks(pictures, size)]
    if len(parts) == 1:
        return parts[0]
    return EncodedViews(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(EncodedViews)))


def _record(writer: Writer, work: _Work, loaded: loading.Loaded) -> None:
    """One image whose content has views now: changed, moved or new."""
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
