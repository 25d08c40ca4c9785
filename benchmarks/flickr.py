"""Read Flickr8k for the benchmarks: names and captions of its photos, and the photos as squares."""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flairsearch.core.types import Frame

SIZE = 448  # Side of a photo in pixels, as flair-small reads it.
FRAME = Frame(SIZE, SIZE, 0, 0, SIZE, SIZE)


@dataclass(frozen=True)
class Annotations:
    """Image file names and, in the same order, the captions of each image."""

    names: list[str]
    captions: list[list[str]]

    @staticmethod
    def read(path: Path) -> Annotations:
        """Read a Flickr30k-style JSON file."""
        rows = json.loads(path.read_text(encoding="utf-8"))
        return Annotations([row["image"] for row in rows], [row["caption"] for row in rows])


def read_photos(source: Path, names: list[str]) -> NDArray[np.uint8]:
    """Decode the named photos of a folder or a tar file, u8[N, SIZE, SIZE, 3]. Exits when a photo is missing."""
    photos = np.zeros((len(names), SIZE, SIZE, 3), np.uint8)

    def put(i: int, stream: BytesIO | Path) -> None:
        picture = Image.open(stream).convert("RGB")
        photos[i] = np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC))

    position = {name: i for i, name in enumerate(names)}
    if source.is_dir():
        for name in [name for name in names if (source / name).is_file()]:
            put(position.pop(name), source / name)
    else:
        with tarfile.open(source) as tar:
            for member in tar:
                i = position.pop(member.name.removeprefix("./"), None)
                stream = tar.extractfile(member) if i is not None else None
                if i is not None and stream is not None:
                    put(i, BytesIO(stream.read()))
    if position:
        raise SystemExit(f"{source} lacks {len(position)} annotated photos, for example {next(iter(position))}")
    return photos
