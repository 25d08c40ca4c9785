"""What a codec costs and what it loses: bytes, recall, the exact top 10, boxes, speed - each against fp16.

The rule for the default: the smallest codec whose R@10 stays within 0.5 points of fp16's, on photos and on mosaics, and
whose top 10 holds at least 95 % of fp16's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flairsearch import decode
from flairsearch.basis import fit_basis
from flairsearch.codec import AVERAGE_BITS, Codec, make_codec
from flairsearch.errors import UsageError
from flairsearch.records import CodecRow, Encoded, Frame, ImageFile, Picture, PoolWeights, Query
from flairsearch.region import find_regions
from flairsearch.rerank import Reranker

CODECS = ("fp16", "int8", "q4", "q2", "q1")
TOP = 10
RESAMPLES = 2000  # of the bootstrap
SAMPLE_VIEWS = 300  # and no more are looked at: some 60,000 tokens
_BATCH = 32
_TEXTS = 64  # scored at once


def read_annotations(path: Path) -> list[tuple[str, list[str]]]:
    """Flickr30k-style JSON -> [(image path, captions)]. Raises UsageError when it is none."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [(str(row["image"]), [str(caption) for caption in row["caption"]]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f'{path} cannot be read as annotations ({error}) - [{{"image": ..., "caption": [...]}}]'
        ) from None


def load_pictures(folder: Path, names: Sequence[str], size: int) -> list[Picture]:
    """The squashed views of annotated photos. Raises UsageError when one cannot be read."""
    files = [ImageFile(str(folder), name, 0, 0) for name in names]
    pictures = []
    for loaded in decode.load_all(files, "squash", size, ()):
        if not isinstance(loaded, decode.Loaded) or not loaded.pictures:
            reason = loaded.reason if isinstance(loaded, decode.Failed) else "it has no view"
            raise UsageError(
                f"{loaded.file.absolute} cannot be used ({reason}) - give the folder of the annotated photos"
            )
        pictures.append(loaded.pictures[0])
    return pictures


def make_mosaics(pictures: Sequence[Picture], count: int, seed: int) -> tuple[list[Picture], NDArray[np.int64]]:
    """2 x 2 mosaics, and which photos each shows, i64[count, 4]; photos are shuffled, again and again when used up."""
    rng = np.random.default_rng(seed)
    needed = 4 * count
    rounds = [rng.permutation(len(pictures)) for _ in range(-(-needed // len(pictures)))]
    shown = np.concatenate(rounds)[:needed].reshape(count, 4)
    size = pictures[0].pixels.shape[0]
    frame = Frame(size, size, 0, 0, size, size)
    small = [p.pixels.reshape(size // 2, 2, size // 2, 2, 3).mean((1, 3)).round().astype(np.uint8) for p in pictures]
    mosaics = [
        Picture(np.vstack([np.hstack([small[a], small[b]]), np.hstack([small[c], small[d]])]), frame)
        for a, b, c, d in shown.tolist()
    ]
    return mosaics, shown


def read_views(
    annotations: Path, folder: Path, size: int, mosaics: int, count: int
) -> tuple[list[Picture], list[str], NDArray[np.bool_]]:
    """Annotated photos, or so many mosaics of them: pictures, about `count` texts, which answers which [N, T]."""
    rows = read_annotations(annotations)
    pictures, shown = load_pictures(folder, [name for name, _ in rows], size), np.arange(len(rows))[:, None]
    if mosaics:
        pictures, shown = make_mosaics(pictures, mosaics, seed=0)
    captions = -(-count // len(rows))  # of each photo
    chosen = [
        (i, caption)
        for i in range(0, len(rows), max(1, captions * len(rows) // count))
        for caption in rows[i][1][:captions]
    ]
    return pictures, [caption for _, caption in chosen], np.stack([(shown == i).any(1) for i, _ in chosen], 1)


def encode_all(encode: Callable[[Sequence[Picture]], Encoded], pictures: Sequence[Picture]) -> Encoded:
    """Pictures -> one Encoded."""
    parts = [encode(pictures[i : i + _BATCH]) for i in range(0, len(pictures), _BATCH)]
    return Encoded(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("pooled", "tokens", "shift", "scale")))


def compare_codecs(
    encoded: Encoded,
    queries: Sequence[Query],
    right: NDArray[np.bool_] | None,
    weights: PoolWeights,
    metric: NDArray[np.float32],
    device: str = "cpu",
) -> Iterator[CodecRow]:
    """Every codec on these views, fp16 first. `right` bool[N, T]: which views answer which text; None: nobody knows."""
    count, patches, dim = encoded.tokens.shape
    sample = encoded.tokens[:: max(1, count // SAMPLE_VIEWS)][:SAMPLE_VIEWS]
    exact: _Ranked | None = None
    for name in CODECS:
        basis = fit_basis(sample, metric, AVERAGE_BITS[name]) if name in AVERAGE_BITS else None
        codec = make_codec(name, patches, dim, basis)
        found = _rank(codec, encoded, queries, weights, exact, device)
        exact = exact or found
        hits = exact_hits = None
        if right is not None:
            hits, exact_hits = _ranks(found.scores, right), _ranks(exact.scores, right)
        overlap = np.mean([len(np.intersect1d(a, b)) for a, b in zip(found.top.T, exact.top.T, strict=True)])
        yield CodecRow(
            name,
            codec.stride,
            None if hits is None else {k: float((hits < k).mean()) for k in (1, 5, 10)},
            None if hits is None or exact_hits is None else _interval(hits < TOP, exact_hits < TOP),
            float(overlap) / len(exact.top),
            float(np.mean([_iou(a, b) for a, b in zip(found.boxes, exact.boxes, strict=True)])),
            found.speed,
        )


@dataclass(frozen=True)
class _Ranked:
    scores: NDArray[np.float32]  # [N, T]
    top: NDArray[np.int64]  # [10, T]
    boxes: list[tuple[int, int, int, int]]  # of fp16's top 10 of every text
    speed: float


def _rank(
    codec: Codec,
    encoded: Encoded,
    queries: Sequence[Query],
    weights: PoolWeights,
    exact: _Ranked | None,
    device: str,
) -> _Ranked:
    rows = codec.encode(encoded)
    reranker = Reranker(codec.fold_weights(weights), device, spatial=codec.spatial)
    folded = [codec.fold(query) for query in queries]
    began = time.perf_counter()
    scores = np.concatenate(
        [_score(codec, reranker, rows[i : i + _BATCH], folded) for i in range(0, len(rows), _BATCH)]
    )
    speed = scores.size / (time.perf_counter() - began)
    top = np.argsort(-scores, axis=0, kind="stable")[:TOP]
    side = 1000
    frame = Frame(side, side, 0, 0, side, side)
    boxes = []
    for query, views in zip(folded, (exact.top if exact else top).T, strict=True):
        attention = reranker.attend([codec.decode(rows[views])], query)
        grid = round(attention.shape[1] ** 0.5)
        boxes += [find_regions(one.reshape(grid, grid), frame)[0].box for one in attention]
    return _Ranked(scores, top, boxes, speed)


def _score(codec: Codec, reranker: Reranker, rows: NDArray[np.uint8], queries: Sequence[Query]) -> NDArray[np.float32]:
    """Rows u8[n, stride] -> scores f32[n, T]; decoded once for all texts."""
    pieces = [codec.decode(rows)]
    parts = [reranker.score_many(pieces, queries[i : i + _TEXTS]) for i in range(0, len(queries), _TEXTS)]
    return np.concatenate(parts, axis=1)


def _ranks(scores: NDArray[np.float32], right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """0-based rank of the best right view of every text, i64[T]."""
    best = np.where(right, scores, -np.inf).max(0)
    ranks: NDArray[np.int64] = (scores > best).sum(0)
    return ranks


def _interval(found: NDArray[np.bool_], exact: NDArray[np.bool_]) -> tuple[float, float]:
    """95 % interval of the mean of found - exact over the texts, paired bootstrap."""
    differences = found.astype(np.float64) - exact
    rng = np.random.default_rng(0)
    means = [differences[rng.integers(len(differences), size=len(differences))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _iou(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0) * max(high, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
