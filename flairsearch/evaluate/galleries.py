"""Build galleries, the views and texts that a measurement runs on.

A gallery holds annotated photos, mosaics of them, or the views of an index. A box gallery also holds true boxes: of
mosaics, of photos pasted on photos, or of photos whose annotations have boxes. Views come encoded, in batches and in a
fixed order, so that the tokens of all views need not fit in memory.
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
from flairsearch.evaluate.box_datasets import BoxDataset
from flairsearch.evaluate.caption_datasets import LABELLED, CaptionDataset
from flairsearch.evaluate.mosaics import (
    MosaicPlan,
    assign_cells,
    cell_boxes,
    make_mosaics,
    make_pastes,
    plan_mosaics,
    plan_pastes,
)
from flairsearch.evaluate.results import GroundTruth
from flairsearch.images import loading
from flairsearch.model.prompts import phrases
from flairsearch.store.catalog import Catalog
from flairsearch.store.snapshot import READ_VIEWS, Snapshot

ENCODE_PICTURES = 32  # Pictures encoded at once, to bound memory.

EncodePictures = Callable[[Sequence[Picture]], EncodedViews]


@dataclass(frozen=True)
class Gallery:
    """N views and T texts.

    encoded: batches of the views; can be consumed once. relevant: bool[N, T], which views are relevant to which text,
    or None when unknown. notes: messages for the user, one per line.
    """

    views: int
    encoded: Iterator[EncodedViews]
    texts: list[str]
    relevant: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BoxGallery:
    """N views and T texts, and the true boxes of the texts in the views.

    encoded: batches of the views with their frames; can be consumed once. notes: messages for the user, one per line.
    """

    views: int
    encoded: Iterator[tuple[EncodedViews, list[Frame]]]
    texts: list[str]
    truth: GroundTruth
    notes: tuple[str, ...] = ()


def caption_gallery(
    dataset: CaptionDataset,
    encode: EncodePictures,
    policy: str,
    size: int,
    mosaics: MosaicPlan | None = None,
    max_texts: int | None = None,
) -> Gallery:
    """Build a gallery of annotated photos, or of mosaics of them, with all captions or about `max_texts` of them.

    policy: "center" or "squash", how a photo becomes a view. size: side of a view in pixels.
    Raises UsageError when no mosaic shows a photo that a caption describes.
    """
    photo_of_caption = np.asarray(dataset.photo_of_caption)
    captions = np.arange(len(photo_of_caption))
    if max_texts is not None and max_texts < len(captions):
        captions = _sample_captions(photo_of_caption, max_texts)
    pictures = load_pictures(dataset.folder, dataset.photos, policy, size)
    cells = np.arange(len(dataset.photos))[:, None]
    if mosaics:
        cells = assign_cells(len(dataset.photos), mosaics.count, mosaics.seed, mosaics.side)
        pictures = make_mosaics(pictures, cells, mosaics.factor)
    relevant_photos = _relevance(dataset, captions)
    relevant = np.zeros((len(cells), len(captions)), np.bool_)
    for photos in cells.T:
        relevant |= relevant_photos[photos]
    if not relevant.any():
        raise UsageError(f"none of {len(cells):,} mosaics shows what the captions speak of - make more: --mosaics")
    texts = [dataset.captions[i] for i in captions.tolist()]
    return Gallery(len(cells), encode_batches(encode, pictures), texts, relevant, _skipped_note(dataset))


def _relevance(dataset: CaptionDataset, captions: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which photos are relevant to which captions, bool[photos, captions].

    A photo is relevant to its own captions; of labels, to all captions that are the same label.
    """
    photo_of_caption = np.asarray(dataset.photo_of_caption)
    if dataset.format != LABELLED:
        return np.asarray(np.arange(len(dataset.photos))[:, None] == photo_of_caption[captions])
    labels, label_of_caption = np.unique(dataset.captions, return_inverse=True)
    has_label = np.zeros((len(dataset.photos), len(labels)), np.bool_)
    has_label[photo_of_caption, label_of_caption] = True
    return has_label[:, label_of_caption[captions]]


def mosaic_gallery(
    dataset: CaptionDataset, encode: EncodePictures, policy: str, size: int, plan: MosaicPlan
) -> BoxGallery:
    """Build mosaics of annotated photos with a caption for each cell.

    True boxes of a caption are all cells that show its photo, in any mosaic.
    """
    captions = _captions_of_photos(dataset)
    cells, chosen = plan_mosaics([len(numbers) for numbers in captions], plan)
    pictures = make_mosaics(load_pictures(dataset.folder, dataset.photos, policy, size), cells, plan.factor)
    photo, mosaic = cells.ravel(), np.repeat(np.arange(plan.count), cells.shape[1])
    boxes = np.tile(cell_boxes(plan.factor * size, plan.side), (plan.count, 1)).astype(np.float64)
    annotated = np.stack([mosaic, np.arange(len(mosaic))], 1)
    texts = [dataset.captions[captions[p][n]] for p, n in zip(photo.tolist(), chosen.ravel().tolist(), strict=True)]
    truth = GroundTruth(mosaic, photo, boxes, photo, annotated)
    return BoxGallery(plan.count, encode_batches_with_frames(encode, pictures), texts, truth, _skipped_note(dataset))


def paste_gallery(
    dataset: CaptionDataset, encode: EncodePictures, policy: str, size: int, count: int, seed: int = 0
) -> BoxGallery:
    """Paste annotated photos on other ones, with a caption for each. Raises UsageError for fewer than two photos."""
    if len(dataset.photos) < 2:
        raise UsageError("one photo cannot be pasted on another - give annotations of two photos at least")
    captions = _captions_of_photos(dataset)
    plan = plan_pastes([len(numbers) for numbers in captions], count, size, seed)
    backgrounds, pasted = (
        load_pictures(dataset.folder, [dataset.photos[i] for i in photos.tolist()], policy, size)
        for photos in (plan.background, plan.pasted)
    )
    pictures = make_pastes(backgrounds, pasted, plan.box)
    texts = [dataset.captions[captions[p][n]] for p, n in zip(plan.pasted.tolist(), plan.caption.tolist(), strict=True)]
    views = np.arange(count)
    truth = GroundTruth(views, plan.pasted, plan.box.astype(np.float64), plan.pasted, np.stack([views, views], 1))
    return BoxGallery(count, encode_batches_with_frames(encode, pictures), texts, truth, _skipped_note(dataset))


def box_gallery(dataset: BoxDataset, encode: EncodePictures, policy: str, size: int) -> BoxGallery:
    """Build a gallery of photos whose annotations have boxes."""
    pictures = _check_sizes(load_pictures(dataset.folder, dataset.photos, policy, size), dataset)
    truth = GroundTruth(
        np.array([labelled.photo for labelled in dataset.boxes], np.int64),
        np.array([labelled.label for labelled in dataset.boxes], np.int64),
        np.array([labelled.box for labelled in dataset.boxes], np.float64),
        np.array(dataset.label_of_text, np.int64),
        np.array(dataset.annotated_pairs, np.int64),
    )
    texts = [dataset.labels[label] for label in dataset.label_of_text]
    return BoxGallery(len(dataset.photos), encode_batches_with_frames(encode, pictures), texts, truth, dataset.notes)


def _check_sizes(pictures: Iterable[Picture], dataset: BoxDataset) -> Iterator[Picture]:
    """Yield the pictures. Raises UsageError when a photo has another size than its boxes assume."""
    for picture, name, (width, height) in zip(pictures, dataset.photos, dataset.sizes, strict=True):
        if (picture.frame.width, picture.frame.height) != (width, height):
            raise UsageError(
                f"{dataset.folder / name} has {picture.frame.width} x {picture.frame.height} pixels upright, its boxes "
                f"are in {width} x {height} - give the photos that were annotated: --photos DIR"
            )
        yield picture


def _captions_of_photos(dataset: CaptionDataset) -> list[list[int]]:
    """Return the numbers of each photo's captions."""
    numbers: list[list[int]] = [[] for _ in dataset.photos]
    for caption, photo in enumerate(dataset.photo_of_caption):
        numbers[photo].append(caption)
    return numbers


def _skipped_note(dataset: CaptionDataset) -> tuple[str, ...]:
    return (f"{dataset.empty_captions:,} empty captions were left out",) if dataset.empty_captions else ()


def index_gallery(
    folder: Path,
    settings: IndexSettings,
    max_views: int | None = None,
    max_texts: int | None = None,
    batch: int = READ_VIEWS,
) -> Gallery:
    """Build a gallery of the views of an index and the phrases of the prompt bank.

    max_views: take this many views, evenly spaced. max_texts: take this many first phrases. batch: views read at once.
    Raises UsageError when the index is empty.
    """
    catalog = Catalog(folder)
    snapshot = Snapshot(folder, settings, catalog)
    catalog.close()
    total = len(snapshot)
    if not total:
        raise UsageError(f"{folder} holds no photo - run flairsearch index FOLDER first")
    count = min(max_views or total, total)
    views = snapshot.views.id[np.arange(count) * total // count]
    encoded = (snapshot.encoded(part) for part in chunks(views, batch))
    notes = (*snapshot.damage, *((f"{count:,} views of {total:,}, evenly spaced",) if count < total else ()))
    return Gallery(count, encoded, phrases()[:max_texts], None, notes)


def _sample_captions(photo_of_caption: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the numbers of about `count` captions, in order: the first captions of evenly chosen photos."""
    photos = int(photo_of_caption.max()) + 1
    per_photo = -(-count // photos)
    order = np.argsort(photo_of_caption, kind="stable")
    rank = np.empty_like(photo_of_caption)  # Position of each caption among those of its photo.
    rank[order] = np.arange(len(order)) - np.searchsorted(photo_of_caption[order], photo_of_caption[order])
    step = max(1, per_photo * photos // count)
    return np.flatnonzero((rank < per_photo) & (photo_of_caption % step == 0))


def load_pictures(folder: Path, names: Sequence[str], policy: str, size: int) -> Iterator[Picture]:
    """Yield the view of each annotated photo, decoding a bounded number ahead.

    Raises UsageError when a photo cannot be read.
    """
    files = (ImageFile(str(folder), name, 0, 0) for name in names)
    for loaded in loading.load_all(files, policy, size, ()):
        if not isinstance(loaded, loading.Loaded) or not loaded.pictures:
            reason = loaded.reason if isinstance(loaded, loading.Failed) else "it has no view"
            raise UsageError(
                f"{loaded.file.absolute} cannot be used ({reason}) - repair it, or take it out of the annotations"
            )
        yield loaded.pictures[0]


def encode_batches(
    encode: EncodePictures, pictures: Iterable[Picture], batch: int = ENCODE_PICTURES
) -> Iterator[EncodedViews]:
    """Encode pictures, `batch` at once."""
    return (encoded for encoded, _ in encode_batches_with_frames(encode, pictures, batch))


def encode_batches_with_frames(
    encode: EncodePictures, pictures: Iterable[Picture], batch: int = ENCODE_PICTURES
) -> Iterator[tuple[EncodedViews, list[Frame]]]:
    """Encode pictures, `batch` at once, and return their frames with them."""
    remaining = iter(pictures)
    while part := list(islice(remaining, batch)):
        yield encode(part), [picture.frame for picture in part]


def concatenate(batches: Iterable[EncodedViews]) -> EncodedViews:
    """Join batches of encoded views into one."""
    parts = list(batches)
    return EncodedViews(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("pooled", "tokens", "shift", "scale"))
    )
