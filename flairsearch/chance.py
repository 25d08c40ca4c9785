"""What texts that nobody asked score over an index: by chance, hits of a query that nothing answers score alike."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from flairsearch.cache import is_whole
from flairsearch.confidence import TEXTS, sample_places
from flairsearch.fitting import MakeBank
from flairsearch.grouping import of_photos
from flairsearch.reader import Reader

PHOTOS = 300  # spread over the index, are asked TEXTS texts of the bank: 0.7 s for flair-tiny
_KIND = "chance"
_PIECE = 32  # views read at once


def bank_scores(reader: Reader, make_bank: MakeBank) -> NDArray[np.float32]:
    """f32[M, B]: M photos, spread evenly over the index, for B texts; kept in the index for its next opening."""
    kept = _load(reader)
    if kept is not None:
        return kept
    ids = reader.views.id
    views = reader.beside(ids[sample_places(len(ids), PHOTOS)])
    vectors = make_bank(None).vectors
    bank = make_bank(vectors[:: max(1, len(vectors) // TEXTS)][:TEXTS])
    parts = [bank.score(reader.encoded(views[i : i + _PIECE]).tokens) for i in range(0, len(views), _PIECE)]
    scores = of_photos(reader.contents(views), np.concatenate([np.zeros((0, len(bank.vectors)), np.float32), *parts]))
    with suppress(OSError), reader.cache.writing(_KIND) as path, path.open("wb") as stream:
        stream.write(np.ascontiguousarray([len(bank.vectors)], "<i8").data)
        stream.write(np.ascontiguousarray(scores, "<f4").data)
    return scores


def _load(reader: Reader) -> NDArray[np.float32] | None:
    """None when the cache has no whole ones."""
    file = reader.cache.find(_KIND)
    try:
        data = file.read_bytes() if file is not None and is_whole(file) else b""
    except OSError:
        return None
    texts = int.from_bytes(data[:8], "little")
    if not texts or len(data) % (4 * texts) != 8 % (4 * texts):
        return None
    return np.frombuffer(data, "<f4", offset=8).reshape(-1, texts)
