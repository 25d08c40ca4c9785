"""Zero-shot segmentation of photos with masks: which class's text each patch is most similar to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from flairsearch.locate import patch_cosine
from flairsearch.records import Encoded, Frame, Query
from flairsearch.results import SegmentationRow
from flairsearch.segmentation import Confusion, MaskedPhotos, label, read_mask


def segmentation(
    pieces: Iterable[tuple[Encoded, list[Frame]]], texts: Sequence[Query], masked: MaskedPhotos
) -> SegmentationRow:
    """Views of the photos, in order, and a text for each class -> one row.

    Raises UsageError when a mask cannot be used.
    """
    vectors = np.stack([text.vector for text in texts])
    confusion = Confusion(masked.classes)
    masks = iter(masked.masks)
    for encoded, frames in pieces:
        similarity = patch_cosine(encoded.tokens, encoded.shift, vectors)
        grid = round(similarity.shape[2] ** 0.5)
        for one, frame in zip(similarity, frames, strict=True):
            mask = read_mask(masked.folder / next(masks), frame, len(masked.classes))
            for rows, found in label(one.reshape(-1, grid, grid), frame):
                confusion.add(mask[rows], found)
    return confusion.row()
