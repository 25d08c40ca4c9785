"""What texts that nobody asked score over an index: by chance, hits of a query that nothing answers score alike."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flairsearch.cache import is_whole
from flairsearch.confidence import TEXTS, sample_places
from flairsearch.fitting import MakeBank
from flairsearch.grouping import of_photos
from flairsearch.reader import Reader

PHOTOS = 300  # spread over the index, are asked TEXTS texts of the bank: 0.7 s for flair-tiny
CHANGED = 0.25  # of the views of an older state
_KIND = "chance"
_HEAD = 16  # bytes: numbers of texts and views
_PIECE = 32  # views read at once


def bank_scores(reader: Reader, make_bank: MakeBank, exact: bool = False) -> NDArray[np.float32]:
    """f32[M, B]: M photos, spread evenly over the index, for B texts; kept in the index for its next opening.

    Unless `exact`, those of an older state will do that had no more than CHANGED more or fewer views: it is a sample,
    and photos that are forgotten one by one are no reason to load the model.
    """
    kept = _load(reader, reader.cache.find(_KIND))
    if kept is None and not exact:
        kept = _load(reader, reader.cache.find_older(_KIND))
    if kept is not None:
        return kept
    ids = reader.views.id
    views = reader.beside(ids[sample_places(len(ids), PHOTOS)])
    vectors = make_bank(None).vectors
    bank = make_bank(vectors[:: max(1, len(vectors) // TEXTS)][:TEXTS])
    parts = [bank.score(reader.encoded(views[i : i + _PIECE])) for i in range(0, len(views), _PIECE)]
    scores = of_photos(reader.contents(views), np.concatenate([np.zeros((0, len(bank.vectors)), np.float32), *parts]))
    with suppress(OSError), reader.cache.writing(_KIND) as path, path.open("wb") as stream:
        stream.write(np.ascontiguousarray([len(bank.vectors), len(ids)], "<i8").data)
        stream.write(np.ascontiguousarray(scores, "<f4").data)
    return scores


def _load(reader: Reader, file: Path | None) -> NDArray[np.float32] | None:
    """None when there are no whole ones, or of far more or fewer views."""
    try:
        data = file.read_bytes() if file is not None and is_whole(file) else b""
    except OSError:
        return None
    texts, views = (int.from_bytes(data[at : at + 8], "little") for at in (0, 8))
    if not texts or len(data) < _HEAD or (len(data) - _HEAD) % (4 * texts):
        return None
    if abs(len(reader) - views) > CHANGED * views:
        return None
    return np.frombuffer(data, "<f4", offset=_HEAD).reshape(-1, texts)
