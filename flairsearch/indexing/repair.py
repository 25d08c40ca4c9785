"""Repair an index: encode damaged views again from their photos."""

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
    """Encode damaged views again from their photos; yield the damage whose photo is gone or has changed."""
    by_content: dict[int, list[Damage]] = {}
    for damaged_view in damage:
        by_content.setdefault(damaged_view.content, []).append(damaged_view)
    hashes = writer.catalog.content_hashes(sorted(by_content))
    views: list[int] = []
    pictures: list[Picture] = []
    for content, damaged_views in by_content.items():  # Each photo is decoded once for all its views.
        decoded = _decode_again(damaged_views[0].paths, hashes[content], writer.settings)
        frames = writer.catalog.frames([damaged_view.view for damaged_view in damaged_views])
        for damaged_view in damaged_views:
            picture = decoded.get(frames[damaged_view.view])
            if picture is None:
                yield damaged_view
                continue
            views.append(damaged_view.view)
            pictures.append(picture)
            if len(views) == limits.batch_views:
                writer.replace_views(views, encoder.encode_images(pictures))
                views, pictures = [], []
    if views:
        writer.replace_views(views, encoder.encode_images(pictures))


def _decode_again(paths: Sequence[str], digest: bytes, settings: IndexSettings) -> dict[Frame, Picture]:
    """Return the views, by frame, of the first file whose content hash is still `digest`; none without such a file."""
    existing = [path for path in paths if os.path.isfile(path)]
    files = [ImageFile(os.path.dirname(path), os.path.basename(path), 0, 0) for path in existing]
    for loaded in loading.load_all(files, settings.views, settings.image_size, ()):
        if isinstance(loaded, loading.Loaded) and loaded.hash == digest and loaded.pictures:
            return {picture.frame: picture for picture in loaded.pictures}
    return {}
