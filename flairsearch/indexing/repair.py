"""Damaged views encoded again from their photos."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from flairsearch.core.limits import INGEST_LIMITS, IngestLimits
from flairsearch.core.protocols import Encoder
from flairsearch.core.settings import IndexSettings
from flairsearch.core.types import Frame, ImageFile, Picture
from flairsearch.images import loading
from flairsearch.store.verify import Damage
from flairsearch.store.writer import Writer


def repair(
    writer: Writer, damage: Sequence[Damage], encoder: Encoder, limits: IngestLimits = INGEST_LIMITS
) -> Iterator[Damage]:
    """Encode damaged views again from their photos; yields those whose photo is gone or has changed."""
    of_content: dict[int, list[Damage]] = {}
    for one in damage:
        of_content.setdefault(one.content, []).append(one)
    hashes = writer.catalog.content_hashes(sorted(of_content))
    views: list[int] = []
    pictures: list[Picture] = []
    for content, several in of_content.items():  # Each photo is decoded once.
        again = _decode_again(several[0].paths, hashes[content], writer.settings)
        frames = writer.catalog.frames([one.view for one in several])
        for one in several:
            picture = again.get(frames[one.view])
            if picture is None:
                yield one
                continue
            views.append(one.view)
            pictures.append(picture)
            if len(views) == limits.batch_views:
                writer.replace_views(views, encoder.encode_images(pictures))
                views, pictures = [], []
    if views:
        writer.replace_views(views, encoder.encode_images(pictures))


def _decode_again(paths: Sequence[str], digest: bytes, settings: IndexSettings) -> dict[Frame, Picture]:
    """The views, by their frames, of the first file that still has the bytes it had; none where no file has them."""
    there = [path for path in paths if os.path.isfile(path)]
    candidates = [ImageFile(os.path.dirname(path), os.path.basename(path), 0, 0) for path in there]
    for loaded in loading.load_all(candidates, settings.views, settings.image_size, ()):
        if isinstance(loaded, loading.Loaded) and loaded.hash == digest and loaded.pictures:
            return {picture.frame: picture for picture in loaded.pictures}
    return {}
