"""Terms -> Asked: what a query asks for, its texts encoded and its pictures read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from flairsearch.core.errors import PictureError
from flairsearch.core.query import ImageExample, Query
from flairsearch.core.types import EncodedQuery, EncodedText, Picture
from flairsearch.model.text_encoder import TextEncoder

Look = Callable[[list[Picture], list[str]], list[EncodedText]]  # model/encoder.Encoder.encode_examples


def fold(several: Sequence[str | Query], encoder: TextEncoder, look: Look, size: int) -> list[EncodedQuery]:
    """Queries, folded; all their texts are encoded together.

    look: encodes pictures; not called where there are none. size: of the model's square, pixels.

    Raises UsageError when a text is empty or a picture's box lies outside of it, PictureError when one cannot be read.
    """
    queries = [Query.of(one) if isinstance(one, str) else one for one in several]
    texts = [text for one in queries for text in (*one.texts, *one.without)]
    folded = iter(encoder.encode_texts(texts) if texts else [])
    return [_fold(one, folded, look, size) for one in queries]


def _fold(terms: Query, folded: Iterator[EncodedText], look: Look, size: int) -> EncodedQuery:
    """folded: the next ones are those of this query's texts."""
    phrases, without = list(islice(folded, len(terms.texts))), tuple(islice(folded, len(terms.without)))
    weights = [1.0] * len(phrases)
    if terms.pictures:
        pictures = [_read(one, size) for one in terms.pictures]
        phrases += look(pictures, [os.path.basename(one.path) for one in terms.pictures])
        weights += [one.weight for one in terms.pictures]
    return EncodedQuery(tuple(phrases), tuple(weights), without, terms.at, terms.min_area)


def _read(example: ImageExample, size: int) -> Picture:
    from flairsearch.images.decoding import read_part  # texts alone need no library of pictures

    try:
        if example.data is not None:
            return read_part(example.data, example.box, size)
        return read_part(os.path.expanduser(example.path), example.box, size)
    except PictureError as error:
        raise PictureError(f"{error} - give a picture to look for: --image FILE") from None
