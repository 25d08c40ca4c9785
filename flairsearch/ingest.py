"""WRITE: files -> decode -> encode -> store -> prefilter. The only place where this order is written."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from flairsearch import decode, files
from flairsearch.errors import UsageError
from flairsearch.fitting import MakeBank, drop_lost, fit_views
from flairsearch.records import Damage, Encoded, Frame, ImageFile, Picture
from flairsearch.reports import Progress, Report, Run, Skipped
from flairsearch.settings import IndexSettings
from flairsearch.shortlist import Shortlist
from flairsearch.store import Writer

BATCH = 32  # views a step of the model, and photos at most
COMMIT_VIEWS = 2048  # A commit follows so many views at the latest: a power cut loses no more.
COMMIT_SECONDS = 60.0  # A commit follows so many seconds at the latest: a power cut loses no more.

EncodePictures = Callable[[Sequence[Picture]], Encoded]


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
    settings: IndexSettings,
    encode: EncodePictures,
    metric: Callable[[], NDArray[np.float32]],
    exclude: Sequence[str] = (),
    make_bank: MakeBank | None = None,
) -> Iterator[Progress | Report]:
    """Bring the index up to date with the folders (none given: all it knows); the last thing it yields is a Report.

    `metric` is asked for (encode.Encoder.token_metric) when the index has views enough to fit its codec to.
    `make_bank` makes what the fitted vectors are fitted to; without it there are none.
    Whatever was committed stays when the run is cut off, and a KeyboardInterrupt commits what is encoded first.
    Raises UsageError when a folder was never there.
    """
    began = time.monotonic()
    work = _survey(writer, folders, exclude)
    drop_lost(writer.reader())
    yield Progress(0, len(work.fresh), len(work.skipped))
    try:
        yield from _read(writer, work, settings, encode, metric)
        gone = [image for images in work.gone.values() for image in images]
        writer.remove_images(gone)
        work.removed = len(gone)
    finally:
        writer.commit()
    writer.catalog.census.replace_skipped(work.skipped)
    if writer.wants_basis:
        writer.fit(metric())
    if writer.has_basis:
        for _ in writer.compact(dead_too=False):
            pass
    if writer.catalog.counts()[1]:
        reader = writer.reader()
        if make_bank is not None:
            for _ in fit_views(reader, make_bank):
                yield Progress(len(work.fresh), len(work.fresh), len(work.skipped))
            reader = writer.reader()
        Shortlist(reader)  # so that the first query finds both made
    run = Run(time.time(), time.monotonic() - began, *work.counts, len(work.skipped), work.videos)
    writer.catalog.census.save_run(run)
    yield Report(*work.counts, tuple(work.skipped), tuple(work.warnings), work.videos)


def _survey(writer: Writer, folders: Sequence[str], exclude: Sequence[str]) -> _Work:
    """Walk the folders and compare them with the catalogue."""
    roots = writer.catalog.roots()
    chosen = []
    for folder in folders or sorted(roots):
        path = os.path.abspath(os.path.expanduser(folder))
        parents = [root for root in roots if _inside(path, root)]
        if not parents and not os.path.isdir(path):
            what = "is not a folder" if os.path.exists(path) else "is not there"
            raise UsageError(f"{files.printable(path)} {what} - give a folder of photos")
        if path != files.printable(path):
            raise UsageError(f"{files.printable(path)} has a name that is not UTF-8 - rename the folder")
        root = max(parents, key=len) if parents else path
        roots.setdefault(root, 0)
        chosen += [root, *(other for other in sorted(roots) if _inside(other, path))]
    work = _Work()
    gone: list[int] = []
    for root in dict.fromkeys(chosen):
        nested = [other for other in roots if other != root and _inside(other, root)]
        changes = files.compare(root, writer.catalog.known(writer.catalog.add_root(root)), exclude, nested)
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


def _read(
    writer: Writer,
    work: _Work,
    settings: IndexSettings,
    encode: EncodePictures,
    metric: Callable[[], NDArray[np.float32]],
) -> Iterator[Progress]:
    """Decode ahead, encode in batches, hand to the writer; commit every so often."""
    if not work.fresh:
        return
    batch = _Batch(writer, work, encode)
    last_commit = time.monotonic()
    loader = decode.load_all(work.fresh, settings.views, settings.image_size, writer.hashes)
    for done, loaded in enumerate(loader, 1):
        if isinstance(loaded, decode.Failed):
            work.skipped.append(Skipped(loaded.file.absolute, loaded.reason))
        else:
            batch.add(loaded)
        if writer.pending >= COMMIT_VIEWS or (writer.pending and time.monotonic() - last_commit > COMMIT_SECONDS):
            writer.commit()
            last_commit = time.monotonic()
            if writer.wants_basis:
                writer.fit(metric())
        yield Progress(done, len(work.fresh), len(work.skipped))
    batch.flush()


class _Batch:
    """Photos that were read, until there are views enough for a step of the model. A photo's views stay together."""

    def __init__(self, writer: Writer, work: _Work, encode: EncodePictures) -> None:
        self._writer, self._work, self._encode = writer, work, encode
        self._photos: list[decode.Loaded] = []
        self._hashes: set[bytes] = set()
        self._views: list[tuple[bytes, Picture]] = []

    def add(self, loaded: decode.Loaded) -> None:
        """One more photo; those before it are handed to the writer when its views would be too many."""
        known = loaded.hash in self._writer.hashes or loaded.hash in self._hashes  # its twin is in this very batch
        pictures = () if known else loaded.pictures or ()
        if len(self._views) + len(pictures) > BATCH:
            self.flush()
        self._photos.append(loaded)
        self._hashes.add(loaded.hash)
        self._views += [(loaded.hash, picture) for picture in pictures]
        if max(len(self._views), len(self._photos)) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Encode, and hand to the writer."""
        if self._views:
            pictures = [picture for _, picture in self._views]
            encoded = _encode_all(self._encode, pictures)
            frames, dates = [p.frame for p in pictures], [p.taken for p in pictures]
            self._writer.add_views([digest for digest, _ in self._views], frames, encoded, dates)
        for loaded in self._photos:
            _record(self._writer, self._work, loaded)
        self._photos, self._hashes, self._views = [], set(), []


def _encode_all(encode: EncodePictures, pictures: Sequence[Picture]) -> Encoded:
    """No more than BATCH at once."""
    parts = [encode(pictures[start : start + BATCH]) for start in range(0, len(pictures), BATCH)]
    if len(parts) == 1:
        return parts[0]
    return Encoded(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Encoded)))


def _record(writer: Writer, work: _Work, loaded: decode.Loaded) -> None:
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


def repair(
    writer: Writer, damage: Sequence[Damage], settings: IndexSettings, encode: EncodePictures
) -> Iterator[Damage]:
    """Encode damaged views again from their photos; yields those whose photo is gone or has changed."""
    of_content: dict[int, list[Damage]] = {}
    for one in damage:
        of_content.setdefault(one.content, []).append(one)
    hashes = writer.catalog.content_hashes(sorted(of_content))
    views: list[int] = []
    pictures: list[Picture] = []
    for content, several in of_content.items():  # each photo is decoded once
        again = _decode_again(several[0].paths, hashes[content], settings)
        frames = writer.catalog.frames([one.view for one in several])
        for one in several:
            picture = again.get(frames[one.view])
            if picture is None:
                yield one
                continue
            views.append(one.view)
            pictures.append(picture)
            if len(views) == BATCH:
                writer.replace_views(views, encode(pictures))
                views, pictures = [], []
    if views:
        writer.replace_views(views, encode(pictures))


def _decode_again(paths: Sequence[str], digest: bytes, settings: IndexSettings) -> dict[Frame, Picture]:
    """The views, by their frames, of the first of these files that still has the bytes it had; else none."""
    there = [path for path in paths if os.path.isfile(path)]
    candidates = [ImageFile(os.path.dirname(path), os.path.basename(path), 0, 0) for path in there]
    for loaded in decode.load_all(candidates, settings.views, settings.image_size, ()):
        if isinstance(loaded, decode.Loaded) and loaded.hash == digest and loaded.pictures:
            return {picture.frame: picture for picture in loaded.pictures}
    return {}
