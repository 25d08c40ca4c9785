"""Flickr-style annotations -> decoded photos, fixed random crops and the teacher's features of them.

Everything that does not change between epochs is computed once and kept in a cache folder:
    photos.npy   u8[N, 224, 224, 3]     decoded photos
    crops.npy    f32[N, C, 4]           crop boxes (left, top, right, bottom) in pixels of the 224 px photo
    targets.npy  f16[N, C, 8, 8, T]     teacher features of each crop at 256 px, on their first T principal axes
Run `python -m training.data --help` for the command that makes it.
"""

from __future__ import annotations

import argparse
import json
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from training.teacher import Teacher

PHOTO_SIZE = 224
TEACHER_SIZE = 256  # stride 32: an 8 x 8 map
TARGET_DIM = 192


@dataclass(frozen=True)
class Annotations:
    """Image file names and, in the same order, the captions of each."""

    names: list[str]
    captions: list[list[str]]

    @staticmethod
    def read(path: Path) -> Annotations:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return Annotations([row["image"] for row in rows], [row["caption"] for row in rows])


def read_photos(archive: Path, names: list[str]) -> NDArray[np.uint8]:
    """Decode the named members of a tar of JPEGs: u8[N, 224, 224, 3]."""
    photos = np.zeros((len(names), PHOTO_SIZE, PHOTO_SIZE, 3), np.uint8)
    position = {name: i for i, name in enumerate(names)}
    with tarfile.open(archive) as tar:
        for member in tar:
            i = position.pop(member.name.removeprefix("./"), None)
            if i is None:
                continue
            stream = tar.extractfile(member)
            assert stream is not None
            picture = Image.open(BytesIO(stream.read())).convert("RGB")
            photos[i] = np.asarray(picture.resize((PHOTO_SIZE, PHOTO_SIZE), Image.Resampling.BICUBIC))
    if position:
        raise SystemExit(f"{archive} lacks {len(position)} annotated photos, for example {next(iter(position))}")
    return photos


def random_crops(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Crop boxes f32[*shape, 4] covering 35-100 % of the photo, aspect 3/4 to 4/3."""
    area = rng.uniform(0.35, 1.0, shape)
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), shape))
    width = np.minimum(np.sqrt(area * ratio), 1)
    height = np.minimum(np.sqrt(area / ratio), 1)
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return (np.stack([left, top, left + width, top + height], -1) * PHOTO_SIZE).astype(np.float32)


def cut(photo: NDArray[np.uint8], box: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """One crop of one photo, resized: u8[size, size, 3]."""
    picture = Image.fromarray(photo)
    left, top, right, bottom = (float(v) for v in box)
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, right, bottom)))


def principal_axes(features: NDArray[np.float32], dim: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """f32[M, F] -> mean f32[F], axes f32[F, dim], the directions of largest variance first."""
    mean = features.mean(0)
    centred = features - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return mean, np.ascontiguousarray(vectors[:, ::-1][:, :dim]).astype(np.float32)


def build_cache(archive: Path, annotations: Path, weights: Path, cache: Path, crops: int, seed: int) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    photos = read_photos(archive, Annotations.read(annotations).names)
    np.save(cache / "photos.npy", photos)
    rng = np.random.default_rng(seed)
    boxes = random_crops(rng, (len(photos), crops))
    boxes[:, 0] = (0, 0, PHOTO_SIZE, PHOTO_SIZE)  # the first crop is the whole photo
    np.save(cache / "crops.npy", boxes)

    teacher = Teacher(weights)

    def features(batch: list[tuple[int, int]]) -> NDArray[np.float32]:
        pictures = np.stack([cut(photos[i], boxes[i, c], TEACHER_SIZE) for i, c in batch])
        result: NDArray[np.float32] = teacher(torch.from_numpy(pictures)).numpy()
        return result

    probe = [(int(i), int(rng.integers(crops))) for i in rng.choice(len(photos), min(800, len(photos)), replace=False)]
    sample = np.concatenate([features(probe[i : i + 16]).reshape(-1, 1280) for i in range(0, len(probe), 16)])
    mean, axes = principal_axes(sample, TARGET_DIM)

    targets = np.lib.format.open_memmap(
        cache / "targets.npy.part", "w+", np.float16, (len(photos), crops, 8, 8, TARGET_DIM)
    )
    pairs = [(i, c) for c in range(crops) for i in range(len(photos))]
    for start in tqdm(range(0, len(pairs), 16), desc="teacher"):
        batch = pairs[start : start + 16]
        values = (features(batch) - mean) @ axes
        rows, columns = np.array(batch).T
        targets[rows, columns] = values.astype(np.float16)
    targets.flush()
    (cache / "targets.npy.part").rename(cache / "targets.npy")


def main() -> None:
    parser = argparse.ArgumentParser(description="Decode photos, choose crops, compute the teacher's targets.")
    parser.add_argument("--archive", type=Path, required=True, help="tar of JPEG photos")
    parser.add_argument("--annotations", type=Path, required=True, help="Flickr30k-style JSON")
    parser.add_argument("--teacher", type=Path, required=True, help="mobilenet_v2.npz")
    parser.add_argument("--cache", type=Path, default=Path("training/runs/cache"))
    parser.add_argument("--crops", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    build_cache(args.archive, args.annotations, args.teacher, args.cache, args.crops, args.seed)


if __name__ == "__main__":
    main()
