"""What is measured on: annotated photos, mosaics of them, or the views of an index; and texts to ask them.

With boxes: mosaics, photos pasted on photos, photos whose annotations have boxes.
Views come encoded, in pieces, in an order that is kept: tokens of all of them need not fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.arrays import chunks
from flairsearch.core.errors import UsageError
from flairsearch.core.settings import IndexSettings
from flairsearch.core.types import EncodedViews, Frame, ImageFile, Picture
from flairsearch.evaluate.box_datasets import BoxAnnotations
from flairsearch.evaluate.caption_datasets import LABELLED, Annotations
from flairsearch.evaluate.mosaics import (
    Mosaics,
    cell_boxes,
    make_mosaics,
    make_pastes,
    plan_mosaics,
    plan_pastes,
    shuffle,
)
from flairsearch.evaluate.results import Truth
from flairsearch.images import loading
from flairsearch.model.prompts import phrases
from flairsearch.store.catalog import Catalog
from flairsearch.store.snapshot import PIECE, Snapshot

BATCH = 32  # pictures encoded at once

Encode = Callable[[Sequence[Picture]], EncodedViews]


@dataclass(frozen=True)
class Gallery:
    """N views and T texts."""

    views: int
    encoded: Iterator[EncodedViews]  # once
    texts: list[str]
    right: NDArray[np.bool_] | None = None  # [N, T] which views answer which text, where anybody knows
    notes: tuple[str, ...] = ()  # what a person should know of it, a line each


@dataclass(frozen=True)
class PlacedGallery:
    """N views, T texts, and where in the views is what they speak of."""

    views: int
    encoded: Iterator[tuple[EncodedViews, list[Frame]]]  # once
    texts: list[str]
    truth: Truth
    notes: tuple[str, ...] = ()


def of_photos(
    notes: Annotations,
    encode: Encode,
    views: str,
    size: int,
    mosaics: Mosaics | None = None,
    count: int | None = None,
) -> Gallery:
    """Annotated photos, or mosaics of them, with all captions, or about `count`: the first of some photos."""
    owner = np.asarray(notes.owner)
    chosen = np.arange(len(owner)) if count is None or count >= len(owner) else _choose(owner, count)
    pictures, shown = load_pictures(notes.folder, notes.photos, views, size), np.arange(len(notes.photos))[:, None]
    if mosaics:
        shown = shuffle(len(notes.photos), mosaics.count, mosaics.seed, mosaics.side)
        pictures = make_mosaics(pictures, shown, mosaics.factor)
    answers = _answers(notes, chosen)
    right = np.zeros((len(shown), len(chosen)), np.bool_)
    for cell in shown.T:
        right |= answers[cell]
    if not right.any():
        raise UsageError(f"none of {len(shown):,} mosaics shows what the captions speak of - make more: --mosaics")
    texts = [notes.captions[i] for i in chosen.tolist()]
    return Gallery(len(shown), encode_in_pieces(encode, pictures), texts, right, _empty(notes))


def _answers(notes: Annotations, chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which photos answer which of the chosen captions, bool[photos, chosen]: of labels, all that have the same."""
    owner = np.asarray(notes.owner)
    if notes.format != LABELLED:
        return np.asarray(np.arange(len(notes.photos))[:, None] == owner[chosen])
    names, label = np.unique(notes.captions, return_inverse=True)
    said = np.zeros((len(notes.photos), len(names)), np.bool_)
    said[owner, label] = True
    return said[:, label[chosen]]


def of_mosaics(notes: Annotations, encode: Encode, views: str, size: int, plan: Mosaics) -> PlacedGallery:
    """Mosaics of annotated photos, a caption for each cell: any cell that shows its photo is right, in any mosaic."""
    numbers = _captions(notes)
    shown, said = plan_mosaics([len(several) for several in numbers], plan)
    pictures = make_mosaics(load_pictures(notes.folder, notes.photos, views, size), shown, plan.factor)
    photo, mosaic = shown.ravel(), np.repeat(np.arange(plan.count), shown.shape[1])
    boxes = np.tile(cell_boxes(plan.factor * size, plan.side), (plan.count, 1)).astype(np.float64)
    given = np.stack([mosaic, np.arange(len(mosaic))], 1)
    texts = [notes.captions[numbers[p][n]] for p, n in zip(photo.tolist(), said.ravel().tolist(), strict=True)]
    truth = Truth(mosaic, photo, boxes, photo, given)
    return PlacedGallery(plan.count, encode_with_frames(encode, pictures), texts, truth, _empty(notes))


def of_pastes(notes: Annotations, encode: Encode, views: str, size: int, count: int, seed: int = 0) -> PlacedGallery:
    """Annotated photos pasted on others, a caption for each. Raises UsageError when there is only one photo."""
    if len(notes.photos) < 2:
        raise UsageError("one photo cannot be pasted on another - give annotations of two photos at least")
    numbers = _captions(notes)
    plan = plan_pastes([len(several) for several in numbers], count, size, seed)
    grounds, pasted = (
        load_pictures(notes.folder, [notes.photos[i] for i in photos.tolist()], views, size)
        for photos in (plan.ground, plan.pasted)
    )
    pictures = make_pastes(grounds, pasted, plan.box)
    texts = [notes.captions[numbers[p][n]] for p, n in zip(plan.pasted.tolist(), plan.said.tolist(), strict=True)]
    each = np.arange(count)
    truth = Truth(each, plan.pasted, plan.box.astype(np.float64), plan.pasted, np.stack([each, each], 1))
    return PlacedGallery(count, encode_with_frames(encode, pictures), texts, truth, _empty(notes))


def of_boxes(boxed: BoxAnnotations, encode: Encode, views: str, size: int) -> PlacedGallery:
    """Photos whose annotations have boxes."""
    pictures = _of_these_sizes(load_pictures(boxed.folder, boxed.photos, views, size), boxed)
    truth = Truth(
        np.array([place.photo for place in boxed.places], np.int64),
        np.array([place.thing for place in boxed.places], np.int64),
        np.array([place.box for place in boxed.places], np.float64),
        np.array(boxed.asked, np.int64),
        np.array(boxed.given, np.int64),
    )
    texts = [boxed.things[thing] for thing in boxed.asked]
    return PlacedGallery(len(boxed.photos), encode_with_frames(encode, pictures), texts, truth, boxed.notes)


def _of_these_sizes(pictures: Iterable[Picture], boxed: BoxAnnotations) -> Iterator[Picture]:
    """The pictures, where boxes mean their pixels. Raises UsageError otherwise."""
    for picture, name, (width, height) in zip(pictures, boxed.photos, boxed.sizes, strict=True):
        if (picture.frame.width, picture.frame.height) != (width, height):
            raise UsageError(
                f"{boxed.folder / name} has {picture.frame.width} x {picture.frame.height} pixels upright, its boxes "
                f"are in {width} x {height} - give the photos that were annotated: --photos DIR"
            )
        yield picture


def _captions(notes: Annotations) -> list[list[int]]:
    """Of each photo, the numbers of its captions."""
    numbers: list[list[int]] = [[] for _ in notes.photos]
    for caption, photo in enumerate(notes.owner):
        numbers[photo].append(caption)
    return numbers


def _empty(notes: Annotations) -> tuple[str, ...]:
    return (f"{notes.empty:,} empty captions were left out",) if notes.empty else ()


def of_index(
    folder: Path, settings: IndexSettings, most: int | None = None, count: int | None = None, piece: int = PIECE
) -> Gallery:
    """All views of an index, or `most` of them, evenly spaced; and all phrases of the bank, or the first `count`.

    piece: views at once. Raises UsageError when the index is empty.
    """
    catalog = Catalog(folder)
    reader = Snapshot(folder, settings, catalog)
    catalog.close()
    total = len(reader)
    if not total:
        raise UsageError(f"{folder} holds no photo - run flairsearch index FOLDER first")
    kept = min(most or total, total)
    views = reader.views.id[np.arange(kept) * total // kept]
    pieces = (reader.encoded(some) for some in chunks(views, piece))
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
    for loaded in loading.load_all(files, views, size, ()):
        if not isinstance(loaded, loading.Loaded) or not loaded.pictures:
            reason = loaded.reason if isinstance(loaded, loading.Failed) else "it has no view"
            raise UsageError(
                f"{loaded.file.absolute} cannot be used ({reason}) - repair it, or take it out of the annotations"
            )
        yield loaded.pictures[0]


def encode_in_pieces(encode: Encode, pictures: Iterable[Picture], batch: int = BATCH) -> Iterator[EncodedViews]:
    """Pictures -> Encoded, a batch at once."""
    return (encoded for encoded, _ in encode_with_frames(encode, pictures, batch))


def encode_with_frames(
    encode: Encode, pictures: Iterable[Picture], batch: int = BATCH
) -> Iterator[tuple[EncodedViews, list[Frame]]]:
    """Pictures -> Encoded and where they lie, a batch at once."""
    todo = iter(pictures)
    while piece := list(islice(todo, batch)):
        yield encode(piece), [picture.frame for picture in piece]


def join(pieces: Iterable[EncodedViews]) -> EncodedViews:
    """Encoded of some views each -> one of all."""
    parts = list(pieces)
    return EncodedViews(
        *(np.concatenate([getattr(p, n) for p in parts]) for n in ("pooled", "tokens", "shift", "scale"))
    )
