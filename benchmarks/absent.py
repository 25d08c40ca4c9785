"""Nothing matches: what tells a query whose photo is in the index from the same query when it is not, and how surely.

    python -m benchmarks.absent DATA [--part val.json] [--photos 509] [--mosaics 1000] [--sizes 127 300 1000]
    python -m benchmarks.absent FOLDER --words FILE

DATA holds images.tar, train.json and val.json of Flickr8k; FILE has lines of {image, label}, paths from FOLDER on, and
each label is asked for alone. Mosaics as everywhere (collage.plan_mosaics, seed 0),
a caption for each cell, each once. Present: the query over the first so many mosaics; absent: over those of them that
do not show its photo. Words, too, as a person searches: absent where no caption of any photo shown has the word.
Choose on training photos (--part train.json), report on unseen ones.

AUROC: the chance that a present query has more of a signal than an absent one, any query against any other. Where the
best hit is not the right one, the best score is the same with and without: half of R@1 above 0.5 is what is to be had.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.background import Background
from benchmarks.flickr import FRAME, Annotations, read_photos
from benchmarks.shortlist import WORDS, head
from flairsearch.core.types import EncodedText, EncodedViews, Picture
from flairsearch.evaluate.caption_datasets import read_caption_dataset
from flairsearch.evaluate.galleries import caption_gallery, concatenate, encode_batches
from flairsearch.evaluate.mosaics import MosaicPlan, make_mosaics, plan_mosaics
from flairsearch.model import prompts
from flairsearch.model.encoder import TorchEncoder
from flairsearch.rerank.many_texts import TextBatchScorer
from flairsearch.rerank.torch_backend import TorchPool

TEXTS = 600  # of the bank make a background
RATES = (0.01, 0.05, 0.1)
SAMPLED = 128  # views that another background foretells all from
COMMON = 0.15  # words that more of the views show are not asked for: without these, an index is another, a smaller one
BEST = 10

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class EncodedQuery:
    """T queries over N views."""

    queries: list[EncodedText]
    scores: F32  # [N, T] exact
    near: F32  # [N, T] of the global token
    right: Bools  # [N, T] what answers
    gone: Bools  # [N, T] what must not be there for the query to be absent


def score(encoder: TorchEncoder, encoded: EncodedViews, queries: list[EncodedText]) -> F32:
    """Exact, f32[N, T]."""
    many, count = TextBatchScorer(queries, encoder.pool_weights, encoder.device), len(encoded.tokens)
    return np.concatenate([many.score(encoded.part(slice(i, i + 64))) for i in range(0, count, 64)])


def ask(encoder: TorchEncoder, encoded: EncodedViews, texts: list[str], right: Bools, gone: Bools) -> EncodedQuery:
    queries = [q for i in range(0, len(texts), 256) for q in encoder.encode_texts(texts[i : i + 256])]
    unit = np.stack([query.vector / np.linalg.norm(query.vector) for query in queries], 1)
    return EncodedQuery(
        queries, score(encoder, encoded, queries), encoded.pooled.astype(np.float32) @ unit, right, gone
    )


def ask_captions(
    encoder: TorchEncoder, encoded: EncodedViews, notes: Annotations, shown: NDArray[np.int64], said: NDArray[np.int64]
) -> EncodedQuery:
    """Each cell's caption, each once."""
    cells = list(dict.fromkeys(zip(shown.ravel().tolist(), said.ravel().tolist(), strict=True)))
    owner = np.array([photo for photo, _ in cells])
    right = (shown[:, :, None] == owner).any(1)
    return ask(encoder, encoded, [notes.captions[photo][number] for photo, number in cells], right, right)


def ask_words(
    encoder: TorchEncoder, encoded: EncodedViews, notes: Annotations, shown: NDArray[np.int64]
) -> EncodedQuery:
    """Single words, no background's. Present where two captions of a photo have it; absent: no caption has."""
    every = prompts.texts()
    words = sorted({*WORDS, *(text for text in every if " " not in text)} - set(every[:: len(every) // TEXTS]))
    found = [[set(re.findall("[a-z]+", caption.lower())) for caption in several] for several in notes.captions]
    forms = [{word, f"{word}s", f"{word}es"} for word in words]
    times = np.array([[sum(bool(form & words) for words in several) for form in forms] for several in found])
    right, gone = ((times[shown] >= least).any(axis=1) for least in (2, 1))
    return ask(encoder, encoded, words, np.asarray(right), np.asarray(gone))


def shares(encoder: TorchEncoder, encoded: EncodedViews, asked: EncodedQuery, kept: Bools) -> F64:
    """Of each query's best view among those kept bool[N, T], what the zero key leaves: mean over heads, f64[T]."""
    reranker, best = TorchPool(encoder.pool_weights), np.where(kept, asked.scores, -2).argmax(0)
    left = [reranker.attend([encoded.tokens[i : i + 1]], q).sum() for i, q in zip(best, asked.queries, strict=True)]
    return np.array(left, np.float64)


def tail(scores: F32) -> float:
    """-log of the chance of the best of one query's scores, by an exponential tail from the largest 20 %, 1 % censored.

    The estimator of Epstein and Sobel, 1953: views that answer the query do not make the tail.
    """
    ranked = np.sort(scores.astype(np.float64))[::-1]
    first, last = int(np.ceil(0.01 * len(ranked))), max(int(0.2 * len(ranked)), int(np.ceil(0.01 * len(ranked))) + 1)
    above = ranked[:last] - ranked[last]
    mean = (above[first:].sum() + first * above[first]) / (last - first)
    return float(above[0] / max(mean, 1e-9) + np.log(len(ranked) / last))


def signals(asked: EncodedQuery, kept: Bools) -> dict[str, F64]:
    """name -> f64[T], of the views kept bool[N, T]."""
    rows: dict[str, list[float]] = {}
    for text in range(kept.shape[1]):
        scores, near = asked.scores[kept[:, text], text], asked.near[kept[:, text], text]
        ranked, spread = np.sort(scores)[::-1], max(float(scores.std()), 1e-9)
        found = {
            "best score": ranked[0],
            f"mean of the best {BEST}": ranked[:BEST].mean(),
            "best score, standardised by the query's scores": (ranked[0] - scores.mean()) / spread,
            "best score, over median and median deviation": (ranked[0] - np.median(scores))
            / max(np.median(np.abs(scores - np.median(scores))), 1e-9),
            "best score, by the exponential tail of the query's scores": tail(scores),
            f"best score over the {BEST}th": ranked[0] - ranked[BEST - 1],
            "best cosine of the global token": near.max(),
        }
        for name, value in found.items():
            rows.setdefault(name, []).append(float(value))
    return {name: np.array(values) for name, values in rows.items()}


def auroc(present: F64, absent: F64) -> float:
    """The chance that one of the present is larger than one of the absent; equal ones count half."""
    ranked = np.sort(absent)
    below, level = (np.searchsorted(ranked, present, side=side) for side in ("left", "right"))
    return float((below + level).mean() / 2 / len(absent))


def first(asked: EncodedQuery, views: int) -> EncodedQuery:
    """The first views only, and the queries that are both present and can be absent there."""
    right, gone = asked.right[:views], asked.gone[:views]
    some = right.any(0) & (gone.mean(0) <= COMMON)
    queries = [query for query, kept in zip(asked.queries, some, strict=True) if kept]
    return EncodedQuery(queries, asked.scores[:views, some], asked.near[:views, some], right[:, some], gone[:, some])


def separate(encoder: TorchEncoder, encoded: EncodedViews, asked: EncodedQuery) -> dict[str, float]:
    """Signal -> AUROC."""
    everything, others = np.ones_like(asked.gone), ~asked.gone
    present, absent = signals(asked, everything), signals(asked, others)
    with_photo, without = (shares(encoder, encoded, asked, kept) for kept in (everything, others))
    found = {name: auroc(present[name], absent[name]) for name in present}
    return found | {"what the zero key leaves, of the best hit": auroc(with_photo, without)}


def hits(asked: EncodedQuery) -> Bools:
    """Of which queries the best hit is right, bool[T]."""
    right: Bools = asked.right[asked.scores.argmax(0), np.arange(len(asked.queries))]
    return right


def calibrate(background: Background, asked: EncodedQuery) -> list[float]:
    """Of each of RATES: share of absent queries with a match, of present ones whose best hit is right and a match."""
    right = hits(asked)
    absent = background.false_alarm(np.where(asked.gone, -2, asked.scores).max(0))
    present = background.false_alarm(asked.scores.max(0))
    return [
        share for rate in RATES for share in (float((absent <= rate).mean()), float((right & (present <= rate)).mean()))
    ]


def measure(encoder: TorchEncoder, encoded: EncodedViews, several: dict[str, EncodedQuery], sizes: list[int]) -> None:
    chance = score(encoder, encoded, encoder.encode_prompts()[:: prompts.BANK_SIZE // TEXTS])
    for name, asked in several.items():
        cut = {size: first(asked, size) for size in sizes}
        columns = [f"{size:,} views, {len(cut[size].queries):,} queries" for size in sizes]
        print("\n" + head(f"AUROC, {name}", columns))
        print("| best hit is right | " + " | ".join(f"{hits(c).mean():.1%}" for c in cut.values()) + " |")
        rows = [separate(encoder, encoded, c) for c in cut.values()]
        for signal in rows[0]:
            print(f"| {signal} | " + " | ".join(f"{found[signal]:.3f}" for found in rows) + " |", flush=True)
        labels = [f"{rate:.0%}: {what}" for rate in RATES for what in ("absent, a match", "present, right and a match")]
        print("\n" + head(f"false alarms, {name}", labels))
        for size, c in cut.items():
            sampled = chance[: size : max(1, size // SAMPLED)]
            for label, scores in (("all", chance[:size]), (f"{len(sampled):,} of them", sampled)):
                row = " | ".join(f"{share:.1%}" for share in calibrate(Background.of(scores, size), c))
                print(f"| {size:,} views, background of {label} | {row} |", flush=True)


def measure_words(encoder: TorchEncoder, folder: Path, file: Path) -> None:
    """Labels of photos, each asked for alone: present among all photos, absent among those of other labels."""
    found = caption_gallery(
        read_caption_dataset(file, folder), encoder.encode_images, "squash", encoder.config.image_size
    )
    encoded, right = concatenate(found.encoded), found.relevant
    assert right is not None
    _, once = np.unique(found.texts, return_index=True)
    asked = ask(encoder, encoded, [found.texts[i] for i in once], right[:, once], right[:, once])
    print(f"{encoder.name}, {found.views:,} photos, {len(once):,} words; best hit is right: {hits(asked).mean():.1%}")
    print("\n" + head("AUROC", ["words"]))
    for signal, value in separate(encoder, encoded, asked).items():
        print(f"| {signal} | {value:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="What tells a query that nothing answers, and how surely.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--words", type=Path, metavar="FILE", help="Labelled photos below DATA instead.")
    parser.add_argument("--part", default="val.json", help="Annotations in DATA.")
    parser.add_argument("--photos", type=int, default=509, help="Of them, evenly chosen.")
    parser.add_argument("--mosaics", type=int, default=1000)
    parser.add_argument("--sides", type=int, nargs="*", default=[2, 3])
    parser.add_argument("--sizes", type=int, nargs="*", default=[127, 300, 1000])
    parser.add_argument("--model", default="flair-small")
    args = parser.parse_args()
    if args.words:
        measure_words(TorchEncoder(args.model), args.data, args.words)
        return
    notes = Annotations.read(args.data / args.part)
    step = max(1, len(notes.names) // args.photos)
    notes = Annotations(notes.names[::step][: args.photos], notes.captions[::step][: args.photos])
    pictures = [Picture(pixels, FRAME) for pixels in read_photos(args.data / "images.tar", notes.names)]
    encoder = TorchEncoder(args.model)
    captions = [len(several) for several in notes.captions]
    for side in (1, *args.sides):
        count = len(pictures) if side == 1 else args.mosaics
        shown, said = plan_mosaics(captions, MosaicPlan(count, side))
        encoded = concatenate(encode_batches(encoder.encode_images, make_mosaics(pictures, shown)))
        print(f"\n{args.model}, {args.part}, {len(pictures)} photos, {count:,} mosaics {side}x{side}")
        several = {
            "captions": ask_captions(encoder, encoded, notes, shown, said),
            "words": ask_words(encoder, encoded, notes, shown),
        }
        measure(encoder, encoded, several, [count] if side == 1 else [min(size, count) for size in args.sizes])


if __name__ == "__main__":
    main()
