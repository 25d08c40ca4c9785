"""Flickr-style annotations -> decoded photos and the teacher's features of them.

What does not change between epochs is computed once and kept in a cache folder:
    photos.npy    u8[N, 224, 224, 3]       decoded photos
    features.npy  f16[N, 14, 14, 1280]     the teacher's features of each photo at 448 px
    coarse.npy    f16[N, 7, 7, 1280]       the same, 2 x 2 places averaged: the cells of mosaics
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from training.teacher import WIDTH, Teacher

PHOTO_SIZE = 224
GRID = 14
_BATCH = 8


@dataclass(frozen=True)
class Annotations:
    """Image file names and, in the same order, the captions of each."""

    names: list[str]
    captions: list[list[str]]

    @staticmethod
    def read(path: Path) -> Annotations:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return Annotations([row["image"] for row in rows], [row["caption"] for row in rows])


def read_photos(source: Path, names: list[str]) -> NDArray[np.uint8]:
    """Decode the named photos of a folder, or of a tar: u8[N, 224, 224, 3]. Exits when some are not there."""
    photos = np.zeros((len(names), PHOTO_SIZE, PHOTO_SIZE, 3), np.uint8)

    def put(i: int, stream: BytesIO | Path) -> None:
        picture = Image.open(stream).convert("RGB")
        photos[i] = np.asarray(picture.resize((PHOTO_SIZE, PHOTO_SIZE), Image.Resampling.BICUBIC))

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


def random_crops(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Crop boxes f32[*shape, 4] covering 35-100 % of the photo, aspect 3/4 to 4/3."""
    area = rng.uniform(0.35, 1.0, shape)
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), shape))
    width = np.minimum(np.sqrt(area * ratio), 1)
    height = np.minimum(np.sqrt(area / ratio), 1)
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return (np.stack([left, top, left + width, top + height], -1) * PHOTO_SIZE).astype(np.float32)


def cut(photo: NDArray[np.uint8], box: NDArray[np.float32], width: int, height: int) -> NDArray[np.uint8]:
    """One crop of one photo, resized: u8[height, width, 3]."""
    left, top, right, bottom = (float(v) for v in box)
    picture = Image.fromarray(photo)
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box=(left, top, right, bottom)))


def to_teacher(pictures: Tensor) -> Tensor:
    """Values 0-255, [B, S, S, 3] -> [B, 3, S, S] in [-1, 1]."""
    return (pictures.float() / 127.5 - 1).permute(0, 3, 1, 2)


def build_cache(source: Path, annotations: Path, teacher: Teacher, cache: Path) -> None:
    """Write the three files, unless they are there."""
    if (cache / "features.npy").is_file():
        return
    cache.mkdir(parents=True, exist_ok=True)
    photos = read_photos(source, Annotations.read(annotations).names)
    np.save(cache / "photos.npy", photos)
    features = np.lib.format.open_memmap(
        cache / "features.npy.part", "w+", np.float16, (len(photos), GRID, GRID, WIDTH)
    )
    coarse = np.lib.format.open_memmap(
        cache / "coarse.npy", "w+", np.float16, (len(photos), GRID // 2, GRID // 2, WIDTH)
    )
    for start in tqdm(range(0, len(photos), _BATCH), desc="teacher", mininterval=5):
        rows = slice(start, start + _BATCH)
        doubled = F.interpolate(to_teacher(torch.from_numpy(photos[rows])), scale_factor=2, mode="bicubic").clamp(-1, 1)
        maps = teacher(doubled).float()
        features[rows] = maps.permute(0, 2, 3, 1).half().cpu().numpy()
        coarse[rows] = F.avg_pool2d(maps, 2).permute(0, 2, 3, 1).half().cpu().numpy()
    features.flush()
    coarse.flush()
    (cache / "features.npy.part").rename(cache / "features.npy")


def cache_tokens(cache: Path, tokens: Callable[[Tensor], Tensor]) -> None:
    """tokens.npy f16[N, 14, 14, D]: the local tokens that the cached features give, unless it is there."""
    if (cache / "tokens.npy").is_file():
        return
    features = np.load(cache / "features.npy", mmap_mode="r")
    pieces = range(0, len(features), 64)
    made = [
        tokens(torch.from_numpy(np.array(features[i : i + 64]))).half().cpu().numpy()
        for i in tqdm(pieces, desc="tokens", mininterval=5)
    ]
    part = cache / "tokens.part.npy"
    np.save(part, np.concatenate(made))
    part.rename(cache / "tokens.npy")
