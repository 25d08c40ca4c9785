"""What is measured on: annotated photos, mosaics of them, or the views of an index; and texts to ask them.

Views come encoded, in pieces, in an order that is kept: tokens of all of them need not fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flairsearch import decode
from flairsearch.annotations import Annotations
from flairsearch.bank import phrases
from flairsearch.catalog import Catalog
from flairsearch.errors import UsageError
from flairsearch.reader import PIECE, Reader
from flairsearch.records import Encoded, Frame, ImageFile, Picture
from flairsearch.settings import IndexSettings

_BATCH = 32  # pictures encoded at once


@dataclass(frozen=True)
class Gallery:
    """N views and T texts."""

    views: int
    encoded: Iterator[Encoded]  # once
    texts: list[str]
    right: NDArray[np.bool_] | None = None  # [N, T] which views answer which text, where anybody knows
    notes: tuple[str, ...] = ()  # what a person should know of it, a line each


def of_photos(
    notes: Annotations,
    encode: Callable[[Sequence[Picture]], Encoded],
    views: str,
    size: int,
    mosaics: int = 0,
    count: int | None = None,
) -> Gallery:
    """Annotated photos, or so many mosaics of them, with all captions, or about `count`: the first of some photos."""
    owner = np.asarray(notes.owner)
    chosen = np.arange(len(owner)) if count is None or count >= len(owner) else _choose(owner, count)
    pictures, shown = load_pictures(notes.folder, notes.photos, views, size), np.arange(len(notes.photos))[:, None]
    if mosaics:
        shown = shuffle(len(notes.photos), mosaics, seed=0)
        pictures = make_mosaics(pictures, shown)
    right = np.zeros((len(shown), len(chosen)), np.bool_)
    for cell in shown.T:
        right |= cell[:, None] == owner[chosen]
    if not right.any():
        raise UsageError(f"none of {mosaics:,} mosaics shows what the captions speak of - make more: --mosaics")
    empty = (f"{notes.empty:,} empty captions were left out",) if notes.empty else ()
    texts = [notes.captions[i] for i in chosen.tolist()]
    return Gallery(len(shown), encode_in_pieces(encode, pictures), texts, right, empty)


def of_index(folder: Path, settings: IndexSettings, most: int | None = None, count: int | None = None) -> Gallery:
    """All views of an index, or `most` of them, evenly spaced; and all phrases of the bank, or the first `count`.

    Raises UsageError when the index is empty.
    """
    catalog = Catalog(folder)
    reader = Reader(folder, settings, catalog)
    catalog.close()
    total = len(reader)
    if not total:
        raise UsageError(f"{folder} holds no photo - run flairsearch index FOLDER first")
    kept = min(most or total, total)
    views = reader.views.id[np.arange(kept) * total // kept]
    pieces = (reader.encoded(views[start : start + PIECE]) for start in range(0, kept, PIECE))
    notes = (*reader.damage, *((f"{kept:,} views of {total:,}, evenly spaced",) if kept < total else ()))
    return Gallery(kept, pieces, phrases()[:count], None, notes)


def _choose(owner: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """About `count` captions, the first of each of some photos, evenly chosen: their numbers, in order."""
    photos = int(owner.max()) + 1
    each = -(-count // photos)
    order = np.argsort(owner, kind="stable")
    nth = np.empty_like(owner)  # of its photo's captions
    nth[order] = np.arange(len(owner)) - np.searchsorted(owner[order], owner[order])
    return np.flatnonzero((nth < each) & (owner % max(1, each * photos // count) == 0))


def load_pictures(folder: Path, names: Sequence[str], views: str, size: int) -> Iterator[Picture]:
    """The views of annotated photos, a bounded number ahead. Raises UsageError when one cannot be read."""
    files = (ImageFile(str(folder), name, 0, 0) for name in names)
    for loaded in decode.load_all(files, views, size, ()):
        if not isinstance(loaded, decode.Loaded) or not loaded.pictures:
            reason = loaded.reason if isinstance(loaded, decode.Failed) else "it has no view"
            raise UsageError(
                f"{loaded.file.absolute} cannot be used ({reason}) - repair it, or take it out of the annotations"
            )
        yield loaded.pictures[0]


def shuffle(photos: int, count: int, seed: int) -> NDArray[np.int64]:
    """Which photos each 2 x 2 mosaic shows, row by row, i64[count, 4]; shuffled again and again when used up."""
    rng = np.random.default_rng(seed)
    rounds = [rng.permutation(photos) for _ in range(-(-4 * count // photos))]
    return np.concatenate(rounds)[: 4 * count].reshape(count, 4)


def make_mosaics(pictures: Iterable[Picture], shown: NDArray[np.int64]) -> Iterator[Picture]:
    """The mosaics, one by one; of every photo a quarter of its pixels stays in memory."""
    small, size = [], 0
    for picture in pictures:
        size = len(picture.pixels)
        quarter = picture.pixels.reshape(size // 2, 2, size // 2, 2, 3).mean((1, 3))
        small.append(quarter.round().astype(np.uint8))
    frame = Frame(size, size, 0, 0, size, size)
    for a, b, c, d in shown.tolist():
        yield Picture(np.vstack([np.hstack([small[a], small[b]]), np.hstack([small[c], small[d]])]), frame)


def encode_in_pieces(encode: Callable[[Sequence[Picture]], Encoded], pictures: Iterable[Picture]) -> Iterator[Encoded]:
    """Pictures -> Encoded, some at once."""
    todo = iter(pictures)
    while piece := list(islice(todo, _BATCH)):
        yield encode(piece)


def join(pieces: Iterable[Encoded]) -> Encoded:
    """Encoded of some views each -> one of all."""
    parts = list(pieces)
    return Encoded(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("pooled", "tokens", "shift", "scale")))
