"""Which vector of a picture finds it again, and how a picture and a text go together: on 2x2 mosaics of photos.

    python -m benchmarks.picture_queries --archive images.tar --annotations val.json --others train.json [--photos 300]

Each of so many photos is looked for in mosaics of 112-pixel cells, one of which shows it: flipped, cropped to 85-100 %,
brighter or darker. `alike` is the mean likeness of captions (cosine of word counts, rare words count more) between it
and the best cell of each of the first 10 others. Then photo and caption: one mosaic shows a photo A so and a photo B,
two more only A, two only B; the query is A with a caption of B. Choose on training photos.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch.nn import functional as F

from benchmarks.flickr import Annotations, read_photos
from flairsearch.core.types import EncodedViews, Frame, Picture
from flairsearch.evaluate.galleries import concatenate, encode_batches
from flairsearch.evaluate.mosaics import make_mosaics
from flairsearch.model import prompts
from flairsearch.model.encoder import TorchEncoder
from flairsearch.rerank.many_texts import TextBatchScorer
from flairsearch.rerank.torch_backend import TorchPool

Array = NDArray[np.float32]
PER_PHOTO = 4  # other photos in the gallery for each that is looked for
WEIGHTS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the picture


def show(pixels: NDArray[np.uint8]) -> Picture:
    size = len(pixels)
    return Picture(pixels, Frame(size, size, 0, 0, size, size))


def alter(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The same photo, as somebody else might have it."""
    size = len(pixels)
    side = round(rng.uniform(0.85, 1) * size)
    left, top = rng.integers(size - side + 1, size=2).tolist()
    part = Image.fromarray(pixels[:, ::-1].copy()).crop((left, top, left + side, top + side))
    photo = part.resize((size, size), Image.Resampling.BICUBIC)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        photo = change(photo).enhance(rng.uniform(0.8, 1.2))
    return np.asarray(photo)


def unit(vectors: Array) -> Array:
    return F.normalize(torch.from_numpy(vectors), dim=-1).numpy()


@torch.inference_mode()
def vectors_of(encoder: TorchEncoder, pictures: list[Picture]) -> dict[str, Array]:
    """Of each kind, f32[N, D]."""
    parts = [encoder._encode_views(pictures[i : i + 32]) for i in range(0, len(pictures), 32)]
    g, local = (torch.cat(column) for column in zip(*parts, strict=True))
    mean = torch.from_numpy(unit(np.stack([query.vector for query in encoder.encode_texts(prompts.texts(200))]))).mean(
        0
    )

    def pool(t: torch.Tensor) -> torch.Tensor:
        found = [encoder._model.visual_proj(t[i : i + 32, None], local[i : i + 32])[0] for i in range(0, len(t), 32)]
        return F.normalize(torch.cat(found)[:, 0], dim=-1)

    examples = [
        query
        for i in range(0, len(pictures), 32)
        for query in encoder.encode_image_queries(pictures[i : i + 32], [""] * len(pictures[i : i + 32]))
    ]
    moved = g + mean
    kinds = {
        "g": g,
        "mean of L": local.mean(1),
        "mean of unit L": F.normalize(local, dim=-1).mean(1),
        "pool(mean text, L)": pool(mean.expand_as(g)),
        "pool(g, L)": pool(g),
        "g + mean text": moved,
        "unit(g + m) + pool(g + m, L) + m, m the mean text": F.normalize(moved, dim=-1) + pool(moved) + mean,
        "g + pool(g, L): encode_image_queries": torch.from_numpy(np.stack([query.vector for query in examples])),
    }
    return {name: kind.numpy() for name, kind in kinds.items()}


class Mosaics:
    """N mosaics of some of the photos."""

    def __init__(self, encoder: TorchEncoder, photos: list[NDArray[np.uint8]], shown: NDArray[np.int64]) -> None:
        self.encoder, self.shown = encoder, shown
        pictures = make_mosaics(map(show, photos), shown)
        self.encoded: EncodedViews = concatenate(encode_batches(encoder.encode_images, pictures))

    def score(self, vectors: Array) -> Array:
        """f32[T, N]"""
        queries = self.encoder.fold(vectors)
        return TextBatchScorer(queries, self.encoder.pool_weights).score(self.encoded).T

    def cell(self, vectors: Array, mosaics: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which cell of a mosaic of its own gets most of each query's attention, i64[T]."""
        reranker, cells = TorchPool(self.encoder.pool_weights), []
        for query, mosaic in zip(self.encoder.fold(vectors), mosaics.tolist(), strict=True):
            attention = reranker.attend([self.encoded.tokens[mosaic : mosaic + 1]], query)[0]
            half = round(len(attention) ** 0.5) // 2
            cells.append(attention.reshape(2, half, 2, half).sum((1, 3)).argmax())
        return np.array(cells)


def likeness(captions: list[list[str]]) -> Array:
    """Of the captions of two photos, f32[N, N]."""
    words = [Counter(re.findall("[a-z]+", " ".join(several).lower())) for several in captions]
    photos = Counter(word for counts in words for word in counts)
    columns = {word: i for i, word in enumerate(photos)}
    table = np.zeros((len(words), len(columns)), np.float32)
    for row, counts in zip(table, words, strict=True):
        for word, count in counts.items():
            row[columns[word]] = (1 + np.log(count)) * np.log(len(words) / photos[word])
    return unit(table) @ unit(table).T


def recall(scores: Array, right: NDArray[np.int64]) -> str:
    own = scores[np.arange(len(scores)), right]
    rank = (scores > own[:, None]).sum(1)
    return " / ".join(f"{(rank < k).mean():.2f}" for k in (1, 5, 10))


def find_again(mosaics: Mosaics, vectors: dict[str, Array], alike: Array) -> None:
    count = len(next(iter(vectors.values())))
    right, cell = np.nonzero(mosaics.shown < count)
    order = np.argsort(mosaics.shown[right, cell])
    right, cell = right[order], cell[order]
    best = alike[:count][:, mosaics.shown].max(2)
    best[np.arange(count), right] = np.nan
    print("| vector | R@1 / 5 / 10 | right cell | alike | scores: deviation, mean |\n|---|---|---|---|---|")
    for name, kind in vectors.items():
        scores = mosaics.score(kind)
        others = scores.copy()
        others[np.arange(count), right] = -np.inf
        first = np.argsort(-others, 1)[:, :10]
        found = (mosaics.cell(kind, right) == cell).mean()
        print(
            f"| {name} | {recall(scores, right)} | {found:.2f} | {np.take_along_axis(best, first, 1).mean():.3f} "
            f"| {scores.std(1).mean():.3f}, {scores.mean():+.3f} |",
            flush=True,
        )
    print(f"| by chance | | | {np.nanmean(best):.3f} | |")


def go_together(mosaics: Mosaics, pictures: Array, texts: Array) -> None:
    """Query i's mosaic is number 5 i."""
    right = 5 * np.arange(len(texts))
    picture, text = mosaics.score(pictures), mosaics.score(texts)
    print("\n| query | R@1 / 5 / 10 |\n|---|---|")
    print(f"| text alone | {recall(text, right)} |\n| picture alone | {recall(picture, right)} |")
    for weight in WEIGHTS:
        print(f"| scores, picture {weight:g} | {recall(text + weight * picture, right)} |")
    for weight in WEIGHTS:
        together = mosaics.score(unit(texts) + weight * unit(pictures))
        print(f"| unit vectors, picture {weight:g} | {recall(together, right)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description="Which vector of a picture finds it again.")
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--others", type=Path, required=True)
    parser.add_argument("--model", default="flair-small")
    parser.add_argument("--photos", type=int, default=300)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    names, captions = [], []
    for file, most in ((args.annotations, args.photos), (args.others, PER_PHOTO * args.photos)):
        notes = Annotations.read(file)
        free = [i for i in rng.permutation(len(notes.names)).tolist() if notes.names[i] not in names][:most]
        names += [notes.names[i] for i in free]
        captions += [notes.captions[i] for i in free]
    photos = list(read_photos(args.archive, names))
    encoder, count = TorchEncoder(args.model, "cpu"), min(args.photos, len(photos)) // 2 * 2
    altered = [alter(photo, rng) for photo in photos[:count]]
    vectors = vectors_of(encoder, [show(photo) for photo in photos[:count]])
    texts = np.stack([query.vector for query in encoder.encode_texts([several[0] for several in captions[:count]])])
    shown = rng.permutation(len(photos) // 4 * 4).reshape(-1, 4)
    print(f"{args.model}, {count} photos of {args.annotations.name}, {len(shown)} mosaics\n")
    mosaics = Mosaics(encoder, altered + photos[count:], shown)
    find_again(mosaics, {"its first caption": texts, **vectors}, likeness(captions))

    half = count // 2
    groups = rng.integers(count, len(photos), (half, 5, 4))
    first, second = np.arange(half)[:, None], np.arange(half, count)[:, None]
    groups[:, :3, 0], groups[:, 0, 1:2], groups[:, 3:, 1] = first, second, second
    groups = rng.permuted(groups, axis=2).reshape(-1, 4)
    mosaics = Mosaics(encoder, altered[:half] + photos[half:], groups)
    go_together(mosaics, vectors["g + pool(g, L): encode_image_queries"][:half], texts[half:])


if __name__ == "__main__":
    main()
