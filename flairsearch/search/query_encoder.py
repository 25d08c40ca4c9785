"""Encode queries: their texts, and their example images after reading them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice

from flairsearch.core.errors import PictureError
from flairsearch.core.protocols import Encoder
from flairsearch.core.query import ImageExample, Query
from flairsearch.core.types import EncodedQuery, EncodedText, Picture


def encode_queries(queries: Sequence[Query], encoder: Encoder, size: int) -> list[EncodedQuery]:
    """Encode queries, all their texts at once. size: the side of a view in pixels.

    Raises PictureError when an image cannot be read, UsageError when a box lies outside of its image.
    """
    texts = [text for query in queries for text in (*query.texts, *query.excluded)]
    encoded_texts = iter(encoder.encode_texts(texts) if texts else [])
    return [_encode(query, encoded_texts, encoder, size) for query in queries]


def _encode(query: Query, encoded_texts: Iterator[EncodedText], encoder: Encoder, size: int) -> EncodedQuery:
    """Encode a query. encoded_texts: begins with the texts of this query, which are taken from it."""
    phrases = list(islice(encoded_texts, len(query.texts)))
    exclusions = tuple(islice(encoded_texts, len(query.excluded)))
    weights = [1.0] * len(phrases)
    if query.images:
        pictures = [_read(image, size) for image in query.images]
        phrases += encoder.encode_image_queries(pictures, [image.name for image in query.images])
        weights += [image.weight for image in query.images]
    return EncodedQuery(tuple(phrases), tuple(weights), exclusions, query.positions, query.min_share)


def _read(image: ImageExample, size: int) -> Picture:
    from flairsearch.images.decoding import read_part  # A query of texts alone need not import the image library.

    try:
        source = image.source if isinstance(image.source, bytes) else os.path.expanduser(image.source)
        return read_part(source, image.part, size)
    except PictureError as error:
        raise PictureError(f"{error} - give an image to look for", "image") from None
