"""Photos -> the frozen trunk's features of each, in files: `python -m training.features --help`.

The trunk ends in a 1x1 convolution from 320 to 1280 channels, which is linear up to its ReLU6: the 320 in front of it
hold everything and are a quarter of the bytes. They are kept as int8, `scale` f32[320] times which is the value:
    photos.npy  i8[N, 14, 14, 320]  the whole photo at 448 px
    crops.npy   i8[N, 14, 14, 320]  a random part of it, in other colours, often blurred, half of them mirrored
    cells.npy   i8[N, 7, 7, 320]    the whole photo at 224 px: a cell of a 2 x 2 mosaic
    boxes.npy   f32[N, 5]           of `crops`: left, top, right, bottom as shares of the photo; 1 where it is mirrored
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from tqdm import tqdm

from flairsearch.convtower import build_trunk
from flairsearch.model import IMAGE_MEAN, IMAGE_STD, ModelConfig
from training.trunk import read_trunk

CONFIG = Path(__file__).parent / "flair-small.json"
SIZE, CELL = 448, 224  # pixels along the side of a photo, and of a mosaic's cell
GRID, NARROW = 14, 320  # tokens along a side, and channels before the last convolution
_BATCH, _SPREADS = 8, 8.0  # photos at once; standard deviations that int8 spans to either side
_LEAST_AREA = 0.35  # of a crop, as a share of its photo
_SHARPEST, _COARSEST = 224, 80  # pixels that a blurred crop is squeezed through


def load_trunk(wheel: Path) -> torch.nn.Module:
    config = ModelConfig.from_json(CONFIG.read_text())
    trunk = build_trunk(config.conv_stages, config.vision_width)
    tensors = read_trunk(wheel)
    trunk.load_state_dict({name.removeprefix("trunk."): t for name, t in tensors.items() if name.startswith("trunk.")})
    return trunk.eval().requires_grad_(False).to(torch.bfloat16).to(memory_format=torch.channels_last)


def read_square(path: Path, size: int) -> Image.Image:
    """A photo, squashed, as an index with the default views sees it."""
    return Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)


def random_crop(path: Path, seed: int) -> tuple[Image.Image, NDArray[np.float32]]:
    """A random part of a photo, SIZE pixels along its side, and its row of `boxes`."""
    rng = np.random.default_rng(seed)
    photo = Image.open(path).convert("RGB")
    area, aspect = rng.uniform(_LEAST_AREA, 1), np.exp(rng.uniform(-0.3, 0.3))
    width, height = min(1, np.sqrt(area * aspect)), min(1, np.sqrt(area / aspect))
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    box = (left * photo.width, top * photo.height, (left + width) * photo.width, (top + height) * photo.height)
    small = SIZE if rng.random() < 0.5 else int(rng.uniform(_COARSEST, _SHARPEST))
    crop = photo.resize((small, small), Image.Resampling.BICUBIC, box).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        crop = kind(crop).enhance(rng.uniform(0.75, 1.3))
    mirrored = rng.random() < 0.5
    if mirrored:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return crop, np.array([left, top, left + width, top + height, mirrored], np.float32)


class Extractor:
    """The trunk up to its narrow end, one thread: several processes share the cores."""

    def __init__(self, wheel: Path) -> None:
        torch.set_num_threads(1)
        self._trunk = load_trunk(wheel)[:-1]

    @torch.inference_mode()
    def __call__(self, pictures: list[Image.Image]) -> NDArray[np.float32]:
        """-> f32[B, S/32, S/32, 320]."""
        mean, std = (torch.tensor(value).mul(255) for value in (IMAGE_MEAN, IMAGE_STD))
        pixels = (torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).float() - mean) / std
        features = self._trunk(pixels.to(torch.bfloat16).permute(0, 3, 1, 2))
        return features.permute(0, 2, 3, 1).float().numpy()


def _wholes(wheel: Path, paths: list[Path], folder: Path, part: int, parts: int) -> None:
    """Every `parts`-th batch of `photos` and of `cells`, written into the files that are there."""
    extract = Extractor(wheel)
    scale, photos, cells = np.load(folder / "scale.npy"), _open(folder, "photos"), _open(folder, "cells")
    for rows in _batches(len(paths), part, parts):
        photos[rows] = _quantise(extract([read_square(path, SIZE) for path in paths[rows]]), scale)
        cells[rows] = _quantise(extract([read_square(path, CELL) for path in paths[rows]]), scale)


def _crops(wheel: Path, paths: list[Path], folder: Path, part: int, parts: int) -> None:
    """Every `parts`-th batch of `crops`, likewise."""
    extract = Extractor(wheel)
    scale, crops, boxes = np.load(folder / "scale.npy"), _open(folder, "crops"), _open(folder, "boxes")
    for rows in _batches(len(paths), part, parts):
        cut = [random_crop(path, rows.start + i) for i, path in enumerate(paths[rows])]
        crops[rows] = _quantise(extract([crop for crop, _ in cut]), scale)
        boxes[rows] = np.stack([box for _, box in cut])


def _open(folder: Path, name: str) -> NDArray[Any]:
    return np.load(folder / f"{name}.npy", mmap_mode="r+")


def _batches(count: int, part: int, parts: int) -> Iterator[slice]:
    for start in tqdm(range(part * _BATCH, count, parts * _BATCH), disable=part > 0, mininterval=10):
        yield slice(start, min(start + _BATCH, count))


def _quantise(features: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    return np.clip(np.rint(features / scale), -127, 127).astype(np.int8)


def extract(wheel: Path, paths: list[Path], folder: Path, processes: int) -> None:
    """Make the files of `paths`, in their order, in a folder; of a run that was cut off, whole files are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "scale.npy").is_file():
        some = Extractor(wheel)([read_square(path, SIZE) for path in paths[:: max(1, len(paths) // 64)]])
        np.save(folder / "scale.npy", np.sqrt(np.square(some).mean((0, 1, 2))) * _SPREADS / 127)
    make: Callable[..., object] = np.lib.format.open_memmap
    steps = (
        (_wholes, {"photos": (np.int8, GRID, GRID, NARROW), "cells": (np.int8, GRID // 2, GRID // 2, NARROW)}),
        (_crops, {"crops": (np.int8, GRID, GRID, NARROW), "boxes": (np.float32, 5)}),
    )
    for step, files in steps:
        done = folder / f"{'-'.join(files)}.done"
        if done.is_file():
            continue
        for name, (kind, *shape) in files.items():
            make(folder / f"{name}.npy", "w+", kind, (len(paths), *shape))
        with ProcessPoolExecutor(processes) as pool:
            for task in [pool.submit(step, wheel, paths, folder, i, processes) for i in range(processes)]:
                task.result()
        done.touch()
