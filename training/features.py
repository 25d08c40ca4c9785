"""Photos -> the frozen trunk's features of each, in files: `python -m training.features --help`.

The trunk ends in a 1x1 convolution from 320 to 1280 channels, which is linear up to its ReLU6: the 320 in front of it
hold everything and are a quarter of the bytes. They are kept as int8, `scale` f32[320] times which is the value:
    photos.npy  i8[N, 14, 14, 320]  the whole photo at 448 px
    cells.npy   i8[N, 7, 7, 320]    the whole photo at 224 px: the photo half as large
    mosaics.npy i8[M, 14, 14, 320]  2 x 2 or 3 x 3 photos in one picture of 448 px
    mosaics.photos.npy i64[M, 9]    the numbers of those photos, row by row; -1 behind the fourth of a 2 x 2
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from flairsearch.model.conv_tower import build_trunk
from flairsearch.model.flair import IMAGE_MEAN, IMAGE_STD, ModelConfig
from training.trunk import read_trunk

CONFIG = Path(__file__).parent / "flair-small.json"
SIZE, CELL = 448, 224  # pixels along the side of a photo, and of a mosaic's cell
GRID, NARROW = 14, 320  # tokens along a side, and channels before the last convolution
MOSAICS = {2: 5000, 3: 2500}  # photos along a side -> how many such mosaics
_BATCH, _SPREADS = 8, 8.0  # photos at once; standard deviations that int8 spans to either side


def load_trunk(wheel: Path) -> torch.nn.Module:
    config = ModelConfig.from_json(CONFIG.read_text())
    trunk = build_trunk(config.conv_stages, config.vision_width)
    tensors = read_trunk(wheel)
    trunk.load_state_dict({name.removeprefix("trunk."): t for name, t in tensors.items() if name.startswith("trunk.")})
    return trunk.eval().requires_grad_(False).to(torch.bfloat16).to(memory_format=torch.channels_last)


def read_square(path: Path, size: int) -> Image.Image:
    """A photo, squashed, as an index with the default views sees it."""
    return _read(path, (size, size))


def read_mosaic(paths: Sequence[Path]) -> Image.Image:
    """Four or nine photos, squashed, row by row in one picture."""
    side = round(len(paths) ** 0.5)
    edges = np.round(np.arange(side + 1) * SIZE / side).astype(int).tolist()
    picture = Image.new("RGB", (SIZE, SIZE))
    for cell, path in enumerate(paths):
        row, column = divmod(cell, side)
        size = edges[column + 1] - edges[column], edges[row + 1] - edges[row]
        picture.paste(_read(path, size), (edges[column], edges[row]))
    return picture


def draw_mosaics(photos: int, first: int, seed: int) -> NDArray[np.int64]:
    """i64[M, 9]: photos of random mosaics, -1 where there are fewer; half of all photos are of the `first` ones."""
    rng, rows = np.random.default_rng(seed), []
    for side, count in MOSAICS.items():
        half = count * side**2 // 2
        parts = [_drawn(rng, 0, first, half), _drawn(rng, first, photos, count * side**2 - half)]
        found = np.full((count, max(MOSAICS) ** 2), -1, np.int64)
        found[:, : side**2] = rng.permutation(np.concatenate(parts)).reshape(count, -1)
        rows.append(found)
    return np.concatenate(rows)


def _drawn(rng: np.random.Generator, low: int, high: int, count: int) -> NDArray[np.int64]:
    """`count` numbers from [low, high), none twice before all were there once."""
    rounds = -(-count // (high - low))
    return np.concatenate([rng.permutation(np.arange(low, high)) for _ in range(rounds)])[:count]


def _read(path: Path, size: tuple[int, int]) -> Image.Image:
    photo = Image.open(path)
    photo.draft("RGB", size)  # a JPEG is decoded at the least sufficient of its scales
    return photo.convert("RGB").resize(size, Image.Resampling.BICUBIC)


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


def _part(wheel: Path, paths: list[Path], folder: Path, part: int, parts: int) -> None:
    """Every `parts`-th batch of both files, which are there."""
    extract = Extractor(wheel)
    scale = np.load(folder / "scale.npy")
    photos, cells = (np.load(folder / f"{name}.npy", mmap_mode="r+") for name in ("photos", "cells"))
    for start in tqdm(range(part * _BATCH, len(paths), parts * _BATCH), disable=part > 0, mininterval=10):
        rows = slice(start, min(start + _BATCH, len(paths)))
        photos[rows] = _quantise(extract([read_square(path, SIZE) for path in paths[rows]]), scale)
        cells[rows] = _quantise(extract([read_square(path, CELL) for path in paths[rows]]), scale)


def _mosaic_part(wheel: Path, paths: list[Path], folder: Path, part: int, parts: int) -> None:
    """Every `parts`-th batch of the mosaics."""
    extract = Extractor(wheel)
    scale, drawn = np.load(folder / "scale.npy"), np.load(folder / "mosaics.photos.npy")
    mosaics = np.load(folder / "mosaics.npy", mmap_mode="r+")
    for start in tqdm(range(part * _BATCH, len(drawn), parts * _BATCH), disable=part > 0, mininterval=10):
        pictures = [read_mosaic([paths[i] for i in row[row >= 0]]) for row in drawn[start : start + _BATCH]]
        mosaics[start : start + _BATCH] = _quantise(extract(pictures), scale)


def _quantise(features: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    return np.clip(np.rint(features / scale), -127, 127).astype(np.int8)


def extract(wheel: Path, paths: list[Path], first: int, folder: Path, processes: int) -> None:
    """Make the files of `paths`, in their order, in a folder; half of the mosaics' photos are of the `first` paths.

    Whole files that are there already are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    make: Callable[..., object] = np.lib.format.open_memmap
    if not (folder / "done").is_file():
        some = Extractor(wheel)([read_square(path, SIZE) for path in paths[:: max(1, len(paths) // 64)]])
        np.save(folder / "scale.npy", np.sqrt(np.square(some).mean((0, 1, 2))) * _SPREADS / 127)
        for name, grid in (("photos", GRID), ("cells", GRID // 2)):
            make(folder / f"{name}.npy", "w+", np.int8, (len(paths), grid, grid, NARROW))
        _share(_part, wheel, paths, folder, processes)
        (folder / "done").touch()
    if not (folder / "mosaics.done").is_file():
        drawn = draw_mosaics(len(paths), first, seed=0)
        np.save(folder / "mosaics.photos.npy", drawn)
        make(folder / "mosaics.npy", "w+", np.int8, (len(drawn), GRID, GRID, NARROW))
        _share(_mosaic_part, wheel, paths, folder, processes)
        (folder / "mosaics.done").touch()


def _share(part: Callable[..., None], wheel: Path, paths: list[Path], folder: Path, processes: int) -> None:
    with ProcessPoolExecutor(processes) as pool:
        for task in [pool.submit(part, wheel, paths, folder, i, processes) for i in range(processes)]:
            task.result()
