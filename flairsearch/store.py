"""Tokens and catalogue as one index: commit order, recovery, whole states for readers.

Commit order: segment files -> fsync -> rename -> one catalogue transaction. A visible row always has its bytes;
bytes without a row are garbage that the next writer removes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from flairsearch.catalog import Catalog, Changeset, NewView, Place, ViewColumns
from flairsearch.codec import AVERAGE_BITS, Basis, Codec, Coordinates, fit_basis, make_codec, needs_basis
from flairsearch.errors import StoreError
from flairsearch.records import Damage, Encoded, Frame, ImageFile
from flairsearch.settings import IndexSettings
from flairsearch.tokens import Segment, SegmentWriter, sync_folder

PIECE = 128  # views a read
PLAIN = "int8"  # codec of the first views of an index whose own codec has no basis yet
BASIS_VIEWS = 256  # so many views make a basis,
SAMPLE_VIEWS = 300  # and no more are looked at: some 60,000 tokens
DEAD_SHARE = 0.2  # a segment with more dead rows is rewritten by compaction
REWRITE_VIEWS = 2048  # in one new segment


def create_index(folder: Path, settings: IndexSettings) -> None:
    """An empty index; the settings are written last, so that a folder without them is no index."""
    (folder / "segments").mkdir(parents=True, exist_ok=True)
    Catalog(folder, create=True).close()
    settings.save(folder)


def open_codec(folder: Path, label: str, settings: IndexSettings) -> Codec:
    """`NAME` or `NAME:BASIS`, as the catalogue has it of each segment."""
    name, _, number = label.partition(":")
    basis = Basis.load(folder / "codecs" / f"{number}.npz") if number else None
    return make_codec(name, settings.patches, settings.dim, basis)


class Writer:
    """The one writer of an index. Collects changes; `commit` makes them visible, all at once."""

    def __init__(self, folder: Path, settings: IndexSettings) -> None:
        """Raises StoreError when another process is writing, or the index cannot be written."""
        self._lock = FileLock(folder / "writer.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise StoreError(f"{folder} is being written by another process - wait until it has finished") from None
        except OSError as error:
            raise StoreError(f"{folder} cannot be written ({error.strerror}) - check its permissions") from None
        self._index, self._settings = folder, settings
        self._folder = folder / "segments"
        self._segment: SegmentWriter | None = None
        self._change = Changeset()
        try:
            self.catalog = Catalog(folder)
            self._label = self._newest_label()
            self._codec = open_codec(folder, self._label, settings)
            self.hashes = self.catalog.hashes()
            self._remove_garbage()
        except OSError as error:
            self._lock.release()
            raise StoreError(f"{error.filename} cannot be written ({error.strerror}) - check its permissions") from None
        except StoreError:
            self._lock.release()
            raise

    def _remove_garbage(self) -> None:
        """Files of a segment that never was committed."""
        live = self.catalog.segment_numbers()
        for file in self._folder.iterdir():
            stem = file.name.split(".")[0]
            if file.suffix == ".part" or not stem.isdigit() or int(stem) not in live:
                file.unlink()
        bases = {label.partition(":")[2] for _, _, label in self.catalog.state().segments}
        for file in (self._index / "codecs").glob("*"):
            if file.suffix != ".npz" or file.stem not in bases | {self._label.partition(":")[2]}:
                file.unlink()

    def _newest_label(self) -> str:
        """What new segments are written in: the index's codec in its newest basis, or PLAIN until there is one."""
        if not needs_basis(self._settings.codec):
            return self._settings.codec
        labels = (codec for _, _, codec in self.catalog.state().segments)
        own = [label for label in labels if label.startswith(f"{self._settings.codec}:")]
        return max(own, default=PLAIN)

    @property
    def pending(self) -> int:
        """Views written but not committed yet."""
        return len(self._change.views)

    def add_views(self, hashes: Sequence[bytes], frames: Sequence[Frame], encoded: Encoded) -> None:
        """N views of contents that have none yet."""
        if self._segment is None:
            self._segment = SegmentWriter(self._folder, self.catalog.last_segment() + 1, self._codec)
        first = self._segment.count
        for i, checksum in enumerate(self._segment.append(encoded)):
            self._change.views.append(NewView(hashes[i], first + i, checksum, frames[i]))
        self.hashes.update(hashes)

    def add_image(self, file: ImageFile, digest: bytes) -> None:
        self._change.added.append((file, digest))

    def update_image(self, image: int, file: ImageFile, digest: bytes) -> None:
        """An image whose file changed or moved; its id stays."""
        self._change.updated.append((image, file, digest))

    def remove_images(self, images: Sequence[int]) -> None:
        self._change.removed.extend(images)

    def commit(self) -> None:
        """Raises OSError when the disk is full; nothing committed before is touched."""
        if self._segment is not None:
            self._segment.finish()
            self._change.segment = (self._segment.number, self._segment.count, self._label)
            self._segment = None
        if self._change:
            self.catalog.commit(self._change)
            self._change = Changeset()

    # -- codecs and compaction

    @property
    def wants_basis(self) -> bool:
        """Whether the index has views enough to fit its codec to, and has not done so."""
        return self._label == PLAIN != self._settings.codec and self.catalog.counts()[1] >= BASIS_VIEWS

    @property
    def has_basis(self) -> bool:
        return ":" in self._label

    def fit(self, metric: NDArray[np.float32]) -> None:
        """Fit a basis to the views there are, and write all later segments in it.

        metric f32[D, D]: how much an error of a token matters to the pool (encode.Encoder.token_metric).
        """
        self.commit()
        name = self._settings.codec
        reader = Reader(self._index, self._settings, self.catalog)
        every = max(1, len(reader) // SAMPLE_VIEWS)
        chosen = reader.views.id[::every][:SAMPLE_VIEWS]
        checksums = self.catalog.checksums()
        chosen = chosen[~reader.damaged(chosen, np.array([checksums[view] for view in chosen.tolist()], np.int64))]
        if not len(chosen):
            raise StoreError(f"{self._index} has no view that is whole - run flairsearch verify --repair first")
        sample = np.concatenate([x.reshape(-1, x.shape[-1]) for x in reader.local_tokens(chosen)])
        folder = self._index / "codecs"
        folder.mkdir(exist_ok=True)
        number = f"{max((int(file.stem) for file in folder.glob('*.npz')), default=0) + 1:06d}"
        part = folder / f"{number}.part"
        fit_basis(sample, metric, AVERAGE_BITS[name]).save(part)
        part.rename(folder / f"{number}.npz")
        sync_folder(folder)
        self._label = f"{name}:{number}"
        self._codec = open_codec(self._index, self._label, self._settings)

    def compact(self, dead_too: bool = True) -> Iterator[tuple[int, int]]:
        """Rewrite segments of another codec, and those with many dead rows; yields (views done, views in all).

        Each new segment is one commit, readers of the old ones keep them open, and a run that is cut off goes on.
        """
        stale = []
        for number, count, label in self.catalog.state().segments:
            if label == self._label and not dead_too:
                continue
            views = self.catalog.segment_views(number)  # fewer than its rows where some were written anew elsewhere
            if label != self._label or views.live.sum() < (1 - DEAD_SHARE) * count:
                stale.append((number, label == self._label, views))
        total, done = sum(int(views.live.sum()) for _, _, views in stale), 0
        for number, as_is, views in stale:
            live = np.flatnonzero(views.live)
            old = Reader(self._index, self._settings, self.catalog)
            if set(views.id[live].tolist()) & set(old.lost.id.tolist()):
                raise StoreError(f"segment {number} is damaged - run flairsearch verify --repair first")
            if old.damaged(views.id[live], views.checksum[live]).any():
                raise StoreError(f"views of segment {number} are damaged - run flairsearch verify --repair first")
            for start in range(0, len(live), REWRITE_VIEWS):
                some = live[start : start + REWRITE_VIEWS]
                last = start + REWRITE_VIEWS >= len(live)
                self._rewrite(old, views.id[some], as_is, [number] if last else [])
                done += len(some)
                yield done, total
            if not len(live):
                self.catalog.rewrite(None, [], [number])
        self._remove_garbage()

    def replace_views(self, views: Sequence[int], encoded: Encoded) -> None:
        """Write views anew that were damaged; their ids stay. One commit."""
        with SegmentWriter(self._folder, self.catalog.last_segment() + 1, self._codec) as segment:
            checksums = segment.append(encoded)
            segment.finish()
        places = [Place(view, row, checksum) for row, (view, checksum) in enumerate(zip(views, checksums, strict=True))]
        self.catalog.rewrite((segment.number, segment.count, self._label), places, [])

    def _rewrite(self, old: Reader, views: NDArray[np.int64], as_is: bool, emptied: list[int]) -> None:
        """Copy views to a new segment: their bytes `as_is`, or decoded and encoded in the codec of today."""
        places: list[Place] = []
        with SegmentWriter(self._folder, self.catalog.last_segment() + 1, self._codec) as segment:
            for start in range(0, len(views), PIECE):
                some = views[start : start + PIECE]
                sums = (
                    segment.append_rows(old.coded(some), old.pooled(some))
                    if as_is
                    else segment.append(old.encoded(some))
                )
                for view, checksum in zip(some.tolist(), sums, strict=True):
                    places.append(Place(view, len(places), checksum))
            segment.finish()
        self.catalog.rewrite((segment.number, segment.count, self._label), places, emptied)

    def close(self) -> None:
        """Give up what is not committed, and the lock."""
        if self._segment is not None:
            self._segment.discard()
        self.catalog.close()
        self._lock.release()


def verify(reader: Reader, catalog: Catalog) -> Iterator[tuple[int, int, list[Damage]]]:
    """Compare every byte with the checksums: yields (views done, views in all, what is damaged among them)."""
    total = len(reader) + len(reader.lost.id)
    paths = catalog.images_of(np.unique(reader.lost.content).tolist())
    lost = zip(reader.lost.id.tolist(), reader.lost.content.tolist(), strict=True)
    yield len(reader.lost.id), total, [Damage(v, c, tuple(p for _, p in paths.get(c, []))) for v, c in lost]
    done = len(reader.lost.id)
    checksums = catalog.checksums()
    if catalog.generation() != reader.generation:
        raise StoreError("another process has written the index meanwhile - run flairsearch verify again")
    for start in range(0, len(reader), PIECE):
        views = reader.views.id[start : start + PIECE]
        expected = np.array([checksums[view] for view in views.tolist()], np.int64)
        bad = np.flatnonzero(reader.damaged(views, expected))
        contents = reader.contents(views[bad]).tolist()
        paths = catalog.images_of(contents)
        found = zip(views[bad].tolist(), contents, strict=True)
        done += len(views)
        yield done, total, [Damage(v, c, tuple(p for _, p in paths.get(c, []))) for v, c in found]


class Reader:
    """One committed state: its views, and every segment of it open.

    A segment that is missing or cut leaves its views out; `damage` has one line for each.
    """

    def __init__(self, folder: Path, settings: IndexSettings, catalog: Catalog) -> None:
        self._open(folder, settings, catalog)
        if self.damage:  # or a compaction has replaced segments between the two looks: look once more
            self._open(folder, settings, catalog)

    def _open(self, folder: Path, settings: IndexSettings, catalog: Catalog) -> None:
        state = catalog.state()
        self.generation = state.generation
        self.patches = settings.patches
        used = set(np.unique(state.views.segment).tolist())
        self.codecs: dict[str, Codec] = {}
        self.damage: list[str] = []
        self._labels: dict[int, str] = {}
        self._segments: dict[int, Segment] = {}
        for number, count, label in state.segments:
            if number in used:
                try:
                    self.codecs[label] = self.codecs.get(label) or open_codec(folder, label, settings)
                    self._segments[number] = Segment(folder / "segments", number, count, self.codecs[label])
                    self._labels[number] = label
                except StoreError as error:
                    self.damage.append(str(error))
        columns, readable = state.views, np.isin(state.views.segment, list(self._segments))
        self.lost = columns.only(~readable)
        self.views: ViewColumns = columns.only(readable)

    def __len__(self) -> int:
        return len(self.views.id)

    def all_pooled(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
        """View ids i64[n] and their unit global vectors f16[n, D], in pieces."""
        for number, segment in self._segments.items():
            here = np.flatnonzero(self.views.segment == number)
            yield self.views.id[here], segment.pooled[self.views.row[here]]

    def pooled(self, views: NDArray[np.int64]) -> NDArray[np.float16]:
        """View ids i64[K] -> unit global vectors f16[K, D]."""
        positions = self._positions(views)
        places = zip(self.views.segment[positions].tolist(), self.views.row[positions].tolist(), strict=True)
        return np.stack([self._segments[number].pooled[row] for number, row in places])

    def contents(self, views: NDArray[np.int64]) -> NDArray[np.int64]:
        """View ids i64[K] -> content ids i64[K]."""
        return self.views.content[self._positions(views)]

    def damaged(self, views: NDArray[np.int64], checksums: NDArray[np.int64]) -> NDArray[np.bool_]:
        """View ids i64[K] and the checksums they should have -> bool[K]."""
        positions = self._positions(views)
        segments, rows = self.views.segment[positions], self.views.row[positions]
        result = np.zeros(len(views), np.bool_)
        for number in np.unique(segments).tolist():
            here = segments == number
            result[here] = self._segments[number].damaged(rows[here], checksums[here])
        return result

    def by_codec(self, views: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """View ids i64[K] -> for each codec (its label, which of the K are written in it)."""
        segments = self.views.segment[self._positions(views)]
        labels = {label: [n for n, other in self._labels.items() if other == label] for label in self.codecs}
        for label, numbers in labels.items():
            here = np.flatnonzero(np.isin(segments, numbers))
            if len(here):
                yield label, here

    def tokens(self, views: NDArray[np.int64]) -> Iterator[Coordinates]:
        """View ids i64[K] of one codec -> its coordinates [n, P, C] in the same order, in pieces."""
        for codec, rows in self._pieces(views):
            yield codec.decode(rows)

    def local_tokens(self, views: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
        """View ids i64[K] -> x f32[n, P, D] in the same order, in pieces."""
        for start in range(0, len(views), PIECE):
            yield self.encoded(views[start : start + PIECE]).tokens.astype(np.float32)

    def encoded(self, views: NDArray[np.int64]) -> Encoded:
        """View ids i64[K] -> all that is stored of them, x restored from whatever codec they are in."""
        positions = self._positions(views)
        segments, rows = self.views.segment[positions], self.views.row[positions]
        parts = [(np.flatnonzero(segments == n), self._segments[n]) for n in np.unique(segments).tolist()]
        order = np.argsort(np.concatenate([here for here, _ in parts]))
        found = [segment.encoded(rows[here]) for here, segment in parts]
        columns = ("pooled", "tokens", "shift", "scale")
        return Encoded(*(np.concatenate([getattr(f, name) for f in found])[order] for name in columns))

    def coded(self, views: NDArray[np.int64]) -> NDArray[np.uint8]:
        """View ids i64[K] of one codec -> their rows as they are, u8[K, stride]."""
        return np.concatenate([rows for _, rows in self._pieces(views)])

    def _pieces(self, views: NDArray[np.int64]) -> Iterator[tuple[Codec, NDArray[np.uint8]]]:
        """View ids of one codec -> (codec, rows u8[n, stride]) in the same order, in pieces."""
        positions = self._positions(views)
        for start in range(0, len(views), PIECE):
            here = positions[start : start + PIECE]
            segments, rows = self.views.segment[here], self.views.row[here]
            numbers = np.unique(segments).tolist()
            codec = self._segments[numbers[0]].codec
            piece = np.empty((len(here), codec.stride), np.uint8)
            for number in numbers:
                chosen = segments == number
                piece[chosen] = self._segments[number].coded(rows[chosen])
            yield codec, piece

    def _positions(self, views: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self.views.id, views).astype(np.int64)


def replace_index(folder: Path, fresh: Path) -> None:
    """Put a finished index in the place of another one."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def undo_replacement(folder: Path) -> None:
    """A kill between the two renames of `replace_index` left no index here: put the old one back."""
    old = folder.with_name(f"{folder.name}.old")
    if not folder.exists() and (old / "index.json").is_file():
        old.rename(folder)


def index_bytes(folder: Path) -> int:
    """Size on disk."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
