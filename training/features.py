"""Compute the frozen trunk's features of photos and store them in files.

The trunk ends in a 1x1 convolution from 320 to 1280 channels and a ReLU6. The 320 channels before it carry the same
information in a quarter of the bytes. They are stored as int8; a value is the integer times `scale` f32[320]:
    photos.npy  i8[N, 14, 14, 320]  the whole photo at 448 px
    cells.npy   i8[N, 7, 7, 320]    the whole photo at 224 px
    mosaics.npy i8[M, 14, 14, 320]  2 x 2 or 3 x 3 photos in one picture of 448 px
    mosaics.photos.npy i64[M, 9]    the numbers of the mosaics' photos, row by row; -1 after the fourth of a 2 x 2
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
SIZE = 448  # Side of a photo or mosaic in pixels.
CELL = 224  # Side of a photo at half size in pixels.
GRID = 14  # Tokens along a side.
NARROW = 320  # Channels before the last convolution.
MOSAICS = {2: 5000, 3: 2500}  # Number of mosaics by photos along a side.
_BATCH = 8  # Photos that go through the trunk at once.
_DEVIATIONS = 8.0  # int8 spans this many standard deviations to either side.


def load_trunk(wheel: Path) -> torch.nn.Module:
    """Load the frozen trunk from the wheel, in bfloat16."""
    config = ModelConfig.from_json(CONFIG.read_text())
    trunk = build_trunk(config.conv_stages, config.vision_width)
    tensors = read_trunk(wheel)
    trunk.load_state_dict({name.removeprefix("trunk."): t for name, t in tensors.items() if name.startswith("trunk.")})
    return trunk.eval().requires_grad_(False).to(torch.bfloat16).to(memory_format=torch.channels_last)


def read_square(path: Path, size: int) -> Image.Image:
    """Read a photo squashed to a square, as with the view policy `squash`."""
    return _read(path, (size, size))


def read_mosaic(paths: Sequence[Path]) -> Image.Image:
    """Read four or nine photos, squashed, into one picture, row by row."""
    side = round(len(paths) ** 0.5)
    edges = np.round(np.arange(side + 1) * SIZE / side).astype(int).tolist()
    picture = Image.new("RGB", (SIZE, SIZE))
    for cell, path in enumerate(paths):
        row, column = divmod(cell, side)
        size = edges[column + 1] - edges[column], edges[row + 1] - edges[row]
        picture.paste(_read(path, size), (edges[column], edges[row]))
    return picture


def draw_mosaics(photos: int, first: int, seed: int) -> NDArray[np.int64]:
    """Draw the photos of random mosaics, i64[M, 9], padded with -1; half of the draws are from the `first` photos."""
    rng, rows = np.random.default_rng(seed), []
    for side, count in MOSAICS.items():
        half = count * side**2 // 2
        parts = [_draw(rng, 0, first, half), _draw(rng, first, photos, count * side**2 - half)]
        numbers = np.full((count, max(MOSAICS) ** 2), -1, np.int64)
        numbers[:, : side**2] = rng.permutation(np.concatenate(parts)).reshape(count, -1)
        rows.append(numbers)
    return np.concatenate(rows)


def _draw(rng: np.random.Generator, low: int, high: int, count: int) -> NDArray[np.int64]:
    """Draw `count` numbers from [low, high); no number repeats before all were drawn."""
    rounds = -(-count // (high - low))
    return np.concatenate([rng.permutation(np.arange(low, high)) for _ in range(rounds)])[:count]


def _read(path: Path, size: tuple[int, int]) -> Image.Image:
    photo = Image.open(path)
    photo.draft("RGB", size)  # A JPEG is decoded at the smallest scale that suffices.
    return photo.convert("RGB").resize(size, Image.Resampling.BICUBIC)


class Extractor:
    """The trunk without its last convolution, in one thread, since several processes share the cores."""

    def __init__(self, wheel: Path) -> None:
        torch.set_num_threads(1)
        self._trunk = load_trunk(wheel)[:-1]

    @torch.inference_mode()
    def __call__(self, pictures: list[Image.Image]) -> NDArray[np.float32]:
        """Compute the features of pictures, f32[B, S/32, S/32, 320]."""
        mean, std = (torch.tensor(value).mul(255) for value in (IMAGE_MEAN, IMAGE_STD))
        pixels = (torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).float() - mean) / std
        features = self._trunk(pixels.to(torch.bfloat16).permute(0, 3, 1, 2))
        return features.permute(0, 2, 3, 1).float().numpy()


def _extract_photos(wheel: Path, paths: list[Path], folder: Path, part: int, parts: int) -> None:
    """Fill in every `parts`-th batch of the files of photos and cells, from batch `part` on."""
    extract = Extractor(wheel)
    scale = np.load(folder / "scale.npy")
    photos, cells = (np.load(folder / f"{name}.npy", mmap_mode="r+") for name in ("photos", "cells"))
    for start in tqdm(range(part * _BATCH, len(paths), parts * _BATCH), disable=part > 0, mininterval=10):
        rows = slice(start, min(start + _BATCH, len(paths)))
        photos[rows] = _quantise(extract([read_square(path, SIZE) for path in paths[rows]]), scale)
        cells[rows] = _quantise(extract([read_square(path, CELL) for path in paths[rows]]), scale)


def _extract_mosaics(wheel: Path, paths: list[Path], folder: Path, part: int, parts: int) -> None:
    """Fill in every `parts`-th batch of the file of mosaics, from batch `part` on."""
    extract = Extractor(wheel)
    scale, drawn = np.load(folder / "scale.npy"), np.load(folder / "mosaics.photos.npy")
    mosaics = np.load(folder / "mosaics.npy", mmap_mode="r+")
    for start in tqdm(range(part * _BATCH, len(drawn), parts * _BATCH), disable=part > 0, mininterval=10):
        pictures = [read_mosaic([paths[i] for i in row[row >= 0]]) for row in drawn[start : start + _BATCH]]
        mosaics[start : start + _BATCH] = _quantise(extract(pictures), scale)


def _quantise(features: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    return np.clip(np.rint(features / scale), -127, 127).astype(np.int8)


def extract(wheel: Path, paths: list[Path], first: int, folder: Path, processes: int) -> None:
    """Make the files of the photos at `paths`, in that order, in a folder; complete files are kept.

    first: half of the mosaics' photos are drawn from this many photos at the start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    make: Callable[..., object] = np.lib.format.open_memmap
    if not (folder / "done").is_file():
        sample = Extractor(wheel)([read_square(path, SIZE) for path in paths[:: max(1, len(paths) // 64)]])
        np.save(folder / "scale.npy", np.sqrt(np.square(sample).mean((0, 1, 2))) * _DEVIATIONS / 127)
        for name, grid in (("photos", GRID), ("cells", GRID // 2)):
            make(folder / f"{name}.npy", "w+", np.int8, (len(paths), grid, grid, NARROW))
        _share(_extract_photos, wheel, paths, folder, processes)
        (folder / "done").touch()
    if not (folder / "mosaics.done").is_file():
        drawn = draw_mosaics(len(paths), first, seed=0)
        np.save(folder / "mosaics.photos.npy", drawn)
        make(folder / "mosaics.npy", "w+", np.int8, (len(drawn), GRID, GRID, NARROW))
        _share(_extract_mosaics, wheel, paths, folder, processes)
        (folder / "mosaics.done").touch()


def _share(part: Callable[..., None], wheel: Path, paths: list[Path], folder: Path, processes: int) -> None:
    """Run a part of the work in each of several processes."""
    with ProcessPoolExecutor(processes) as pool:
        for task in [pool.submit(part, wheel, paths, folder, i, processes) for i in range(processes)]:
            task.result()
