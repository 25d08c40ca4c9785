"""Compare the indexing speed in float32 and bfloat16 with a plain float32 loop over single photos, with one model.

    python -m benchmarks.indexing PHOTOS [--model NAME] [--count N] [--rounds 3] [--megapixels 12]

`--model random-vit-b-16` uses the big model's configuration with random weights, to measure speed only.
It also measures the model alone on decoded pictures (the difference is the decoding time that is not hidden), a rescan
of the unchanged folder, and how much bfloat16 changes the vectors.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.draft import enlarge
from flairsearch.core.paths import cache_folder
from flairsearch.core.types import ImageFile, Picture
from flairsearch.engine import Engine
from flairsearch.images import decoding as decoding_module
from flairsearch.images.discovery import walk
from flairsearch.model import checkpoints
from flairsearch.model.encoder import TorchEncoder
from flairsearch.model.flair import FLAIR, ModelConfig, load_model

RANDOM_MODEL = "random-vit-b-16"


def save_random_model() -> None:
    """Save random weights of the big configuration in the cache."""
    torch.manual_seed(0)
    config = ModelConfig.from_json(checkpoints.published_config())
    cache_folder().mkdir(parents=True, exist_ok=True)
    target = cache_folder() / f"{RANDOM_MODEL}.safetensors"
    checkpoints.save(FLAIR(config).flair_state(), config.to_json(), RANDOM_MODEL, target)


@torch.inference_mode()
def plain_loop(model: FLAIR, paths: list[str]) -> None:
    """Open, resize, normalise and encode the photos one by one in float32, as the simplest program would."""
    size = (model.config.image_size, model.config.image_size)
    for path in paths:
        with Image.open(path) as picture:
            image = model.preprocess(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC))
        model.encode_image(image[None])


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that the work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def index_once(photos: Path, home: Path, model: str, encoder: TorchEncoder) -> float:
    """Return the seconds that a new index of the photos takes."""
    shutil.rmtree(home, ignore_errors=True)
    with Engine.open(home, model) as engine:
        engine.encoder = encoder
        return timed(lambda: engine.add(photos))


def encode_only(encoder: TorchEncoder, pictures: list[Picture]) -> float:
    """Return the seconds that the model takes for decoded pictures."""
    batches = [pictures[i : i + 32] for i in range(0, len(pictures), 32)]
    return timed(lambda: [encoder.encode_images(batch) for batch in batches])


def main() -> None:
    parser = argparse.ArgumentParser(description="Indexing against a plain loop.")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="flair-small")
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megapixels", type=float, help="enlarge the photos to this size first")
    args = parser.parse_args()
    if args.model == RANDOM_MODEL:
        save_random_model()

    found = (f for f in walk(str(args.photos.absolute())) if isinstance(f, ImageFile))
    chosen = list(islice(found, args.count))
    with tempfile.TemporaryDirectory() as scratch:
        photos, home = Path(scratch) / "photos", Path(scratch) / "index"
        photos.mkdir()
        for i, file in enumerate(chosen):
            if args.megapixels:
                (photos / f"{i:06d}.jpg").write_bytes(enlarge(file.absolute, args.megapixels))
            else:
                shutil.copy(file.absolute, photos / f"{i:06d}{Path(file.path).suffix}")
        paths = sorted(str(path) for path in photos.iterdir())
        model = load_model(args.model)
        fp32 = TorchEncoder(args.model, "cpu", torch.float32)
        bf16 = TorchEncoder(args.model, "cpu", torch.bfloat16)
        size = model.config.image_size
        pictures = [decoding_module.decode(Path(path).read_bytes(), "squash", size)[0] for path in paths]
        for encoder in (fp32, bf16):
            encoder.encode_images(pictures[:32])
        plain_loop(model, paths[:8])

        seconds: dict[str, list[float]] = {}
        for _ in range(args.rounds):
            seconds.setdefault("plain loop, fp32", []).append(timed(lambda: plain_loop(model, paths)))
            for name, encoder in (("fp32", fp32), ("bf16", bf16)):
                seconds.setdefault(f"index, {name}", []).append(index_once(photos, home, args.model, encoder))
                seconds.setdefault(f"model alone, {name}", []).append(encode_only(encoder, pictures))
            with Engine.open(home, args.model) as engine:
                seconds.setdefault("rescan, unchanged", []).append(timed(lambda: engine.add(photos)))
        decoding = [timed(lambda: [decoding_module.decode(Path(p).read_bytes(), "squash", size) for p in paths])]

    exact, fast = fp32.encode_images(pictures[:64]), bf16.encode_images(pictures[:64])
    cosine = (exact.pooled.astype(np.float32) * fast.pooled.astype(np.float32)).sum(-1)
    x, y = exact.tokens.astype(np.float32), fast.tokens.astype(np.float32)
    token_cosine = (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)

    median = {name: statistics.median(values) for name, values in seconds.items()}
    base = median["plain loop, fp32"]
    print(f"{args.model}, {len(paths)} photos, median of {args.rounds}; {os.cpu_count()} cores, {platform.processor()}")
    print("| path | photos/s | against the plain loop |\n|---|---|---|")
    for name, value in median.items():
        print(f"| {name} | {len(paths) / value:.1f} | {base / value:.2f}x |")
    print(f"| decoding alone, one thread | {len(paths) / decoding[0]:.1f} | |")
    shares = {name: median[f"model alone, {name}"] / median[f"index, {name}"] for name in ("fp32", "bf16")}
    print(f"model's share of the indexing time: fp32 {shares['fp32']:.0%}, bf16 {shares['bf16']:.0%}")
    print(f"rescan: {median['rescan, unchanged'] / median['index, bf16']:.2%} of the first run (bf16)")
    print(f"cosine bf16 to fp32: global min {cosine.min():.4f}, local mean {token_cosine.mean():.4f}")
    print(json.dumps({name: [round(v, 3) for v in values] for name, values in seconds.items()}))


if __name__ == "__main__":
    main()
