"""Compare vectors that find a picture again, and ways to combine a picture and a text, on 2x2 mosaics of photos.

    python -m benchmarks.picture_queries --archive images.tar --annotations val.json --others train.json [--photos 300]

Each of the --photos query photos is searched in mosaics of 112-pixel cells, one of which shows it flipped, cropped to
85-100 %, and brighter or darker. `alike` is the mean similarity of captions (cosine of word counts, rare words weigh
more) between the query photo and the best cell of each of the first 10 other hits. Photo and caption together: one
mosaic shows an altered photo A and a photo B, two more show only A and two only B; the query is A with a caption of B.
Choose on training photos.
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
DISTRACTORS = 4  # Number of other photos in the gallery for each query photo.
PICTURE_WEIGHTS = (0.25, 0.5, 1.0, 2.0, 4.0)


def to_picture(pixels: NDArray[np.uint8]) -> Picture:
    """Return a square photo as a picture of its own size."""
    size = len(pixels)
    return Picture(pixels, Frame(size, size, 0, 0, size, size))


def alter(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return an edited copy of a photo: flipped, cropped and recoloured."""
    size = len(pixels)
    side = round(rng.uniform(0.85, 1) * size)
    left, top = rng.integers(size - side + 1, size=2).tolist()
    part = Image.fromarray(pixels[:, ::-1].copy()).crop((left, top, left + side, top + side))
    photo = part.resize((size, size), Image.Resampling.BICUBIC)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        photo = change(photo).enhance(rng.uniform(0.8, 1.2))
    return np.asarray(photo)


def unit(vectors: Array) -> Array:
    """Normalise the vectors."""
    return F.normalize(torch.from_numpy(vectors), dim=-1).numpy()


@torch.inference_mode()
def vectors_of(encoder: TorchEncoder, pictures: list[Picture]) -> dict[str, Array]:
    """Return the vectors of each kind by name, f32[N, D]."""
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
    shifted = g + mean
    kinds = {
        "g": g,
        "mean of L": local.mean(1),
        "mean of unit L": F.normalize(local, dim=-1).mean(1),
        "pool(mean text, L)": pool(mean.expand_as(g)),
        "pool(g, L)": pool(g),
        "g + mean text": shifted,
        "unit(g + m) + pool(g + m, L) + m, m the mean text": F.normalize(shifted, dim=-1) + pool(shifted) + mean,
        "g + pool(g, L): encode_image_queries": torch.from_numpy(np.stack([query.vector for query in examples])),
    }
    return {name: kind.numpy() for name, kind in kinds.items()}


class MosaicGallery:
    """N encoded mosaics, with the photos i64[N, 4] that they show."""

    def __init__(self, encoder: TorchEncoder, photos: list[NDArray[np.uint8]], shown: NDArray[np.int64]) -> None:
        self.encoder, self.shown = encoder, shown
        pictures = make_mosaics(map(to_picture, photos), shown)
        self.encoded: EncodedViews = concatenate(encode_batches(encoder.encode_images, pictures))

    def score(self, vectors: Array) -> Array:
        """Return the exact scores of T query vectors, f32[T, N]."""
        queries = self.encoder.fold(vectors)
        return TextBatchScorer(queries, self.encoder.pool_weights).score(self.encoded).T

    def cell(self, vectors: Array, mosaics: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the cell with the most attention in one mosaic per query, i64[T]. mosaics: i64[T]."""
        reranker, cells = TorchPool(self.encoder.pool_weights), []
        for query, mosaic in zip(self.encoder.fold(vectors), mosaics.tolist(), strict=True):
            attention = reranker.attend([self.encoded.tokens[mosaic : mosaic + 1]], query)[0]
            half = round(len(attention) ** 0.5) // 2
            cells.append(attention.reshape(2, half, 2, half).sum((1, 3)).argmax())
        return np.array(cells)


def caption_similarity(captions: list[list[str]]) -> Array:
    """Return the similarity of the captions of each two photos, f32[N, N]."""
    words = [Counter(re.findall("[a-z]+", " ".join(texts).lower())) for texts in captions]
    photos = Counter(word for counts in words for word in counts)
    columns = {word: i for i, word in enumerate(photos)}
    table = np.zeros((len(words), len(columns)), np.float32)
    for row, counts in zip(table, words, strict=True):
        for word, count in counts.items():
            row[columns[word]] = (1 + np.log(count)) * np.log(len(words) / photos[word])
    return unit(table) @ unit(table).T


def recall(scores: Array, relevant: NDArray[np.int64]) -> str:
    """Return R@1 / 5 / 10 of scores f32[T, N] with the relevant mosaics i64[T]."""
    own = scores[np.arange(len(scores)), relevant]
    rank = (scores > own[:, None]).sum(1)
    return " / ".join(f"{(rank < k).mean():.2f}" for k in (1, 5, 10))


def find_again(mosaics: MosaicGallery, vectors: dict[str, Array], alike: Array) -> None:
    """Print how well each kind of vector finds the query photos."""
    count = len(next(iter(vectors.values())))
    relevant, cell = np.nonzero(mosaics.shown < count)
    order = np.argsort(mosaics.shown[relevant, cell])
    relevant, cell = relevant[order], cell[order]
    best = alike[:count][:, mosaics.shown].max(2)
    best[np.arange(count), relevant] = np.nan
    print("| vector | R@1 / 5 / 10 | right cell | alike | scores: deviation, mean |\n|---|---|---|---|---|")
    for name, kind in vectors.items():
        scores = mosaics.score(kind)
        others = scores.copy()
        others[np.arange(count), relevant] = -np.inf
        first = np.argsort(-others, 1)[:, :10]
        found = (mosaics.cell(kind, relevant) == cell).mean()
        print(
            f"| {name} | {recall(scores, relevant)} | {found:.2f} | {np.take_along_axis(best, first, 1).mean():.3f} "
            f"| {scores.std(1).mean():.3f}, {scores.mean():+.3f} |",
            flush=True,
        )
    print(f"| by chance | | | {np.nanmean(best):.3f} | |")


def combine_with_texts(mosaics: MosaicGallery, pictures: Array, texts: Array) -> None:
    """Print how well pictures and texts are found together. The relevant mosaic of query i is number 5 i."""
    relevant = 5 * np.arange(len(texts))
    picture, text = mosaics.score(pictures), mosaics.score(texts)
    print("\n| query | R@1 / 5 / 10 |\n|---|---|")
    print(f"| text alone | {recall(text, relevant)} |\n| picture alone | {recall(picture, relevant)} |")
    for weight in PICTURE_WEIGHTS:
        print(f"| scores, picture {weight:g} | {recall(text + weight * picture, relevant)} |")
    for weight in PICTURE_WEIGHTS:
        together = mosaics.score(unit(texts) + weight * unit(pictures))
        print(f"| unit vectors, picture {weight:g} | {recall(together, relevant)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare vectors that find a picture again.")
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--others", type=Path, required=True)
    parser.add_argument("--model", default="flair-small")
    parser.add_argument("--photos", type=int, default=300)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    names, captions = [], []
    for file, max_photos in ((args.annotations, args.photos), (args.others, DISTRACTORS * args.photos)):
        notes = Annotations.read(file)
        unused = [i for i in rng.permutation(len(notes.names)).tolist() if notes.names[i] not in names][:max_photos]
        names += [notes.names[i] for i in unused]
        captions += [notes.captions[i] for i in unused]
    photos = list(read_photos(args.archive, names))
    encoder, count = TorchEncoder(args.model, "cpu"), min(args.photos, len(photos)) // 2 * 2
    altered = [alter(photo, rng) for photo in photos[:count]]
    vectors = vectors_of(encoder, [to_picture(photo) for photo in photos[:count]])
    texts = np.stack([query.vector for query in encoder.encode_texts([texts[0] for texts in captions[:count]])])
    shown = rng.permutation(len(photos) // 4 * 4).reshape(-1, 4)
    print(f"{args.model}, {count} photos of {args.annotations.name}, {len(shown)} mosaics\n")
    mosaics = MosaicGallery(encoder, altered + photos[count:], shown)
    find_again(mosaics, {"its first caption": texts, **vectors}, caption_similarity(captions))

    half = count // 2
    groups = rng.integers(count, len(photos), (half, 5, 4))
    first, second = np.arange(half)[:, None], np.arange(half, count)[:, None]
    groups[:, :3, 0], groups[:, 0, 1:2], groups[:, 3:, 1] = first, second, second
    groups = rng.permuted(groups, axis=2).reshape(-1, 4)
    mosaics = MosaicGallery(encoder, altered[:half] + photos[half:], groups)
    combine_with_texts(mosaics, vectors["g + pool(g, L): encode_image_queries"][:half], texts[half:])


if __name__ == "__main__":
    main()
