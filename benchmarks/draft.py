"""Measure what JPEG draft mode saves and changes: photos enlarged to 12 megapixels are decoded with and without it.

python -m benchmarks.draft PHOTOS [--model NAME] [--count 24]
"""

from __future__ import annotations

import argparse
import time
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from flairsearch.core.types import ImageFile
from flairsearch.images.decoding import decode
from flairsearch.images.discovery import walk
from flairsearch.model.encoder import TorchEncoder


def enlarge(path: str, megapixels: float = 12) -> bytes:
    """Return a photo as a JPEG file of `megapixels`, as a phone makes it."""
    with Image.open(path) as picture:
        factor = (megapixels * 1e6 / (picture.width * picture.height)) ** 0.5
        large = picture.convert("RGB").resize((round(picture.width * factor), round(picture.height * factor)))
    stream = BytesIO()
    large.save(stream, "JPEG", quality=92)
    return stream.getvalue()


def cosine(a: NDArray[np.float16], b: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return the cosine of each pair of vectors."""
    x, y = a.astype(np.float32), b.astype(np.float32)
    values: NDArray[np.float32] = (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description="Cosine of embeddings with and without JPEG draft mode.")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="flair-small")
    parser.add_argument("--count", type=int, default=24)
    args = parser.parse_args()
    encoder = TorchEncoder(args.model, "cpu", torch.float32)
    found = (f for f in walk(str(args.photos.absolute())) if isinstance(f, ImageFile))
    seconds, encoded = {True: 0.0, False: 0.0}, {}
    data = [enlarge(file.absolute) for file in islice(found, args.count)]
    for draft in (True, False):
        began = time.perf_counter()
        pictures = [decode(photo, "squash", encoder.config.image_size, draft)[0] for photo in data]
        seconds[draft] = time.perf_counter() - began
        encoded[draft] = encoder.encode_images(pictures)
    pooled = cosine(encoded[True].pooled, encoded[False].pooled)
    tokens = cosine(encoded[True].tokens, encoded[False].tokens)
    milliseconds = {draft: value / len(data) * 1e3 for draft, value in seconds.items()}
    print(f"{len(data)} photos at 12 megapixels, {args.model}, fp32")
    print(f"decoding: {milliseconds[False]:.0f} ms a photo, with draft {milliseconds[True]:.0f} ms")
    print("cosine of the embeddings with draft to those without:")
    print(f"global mean {pooled.mean():.5f}, min {pooled.min():.5f}; local mean {tokens.mean():.5f}")


if __name__ == "__main__":
    main()
