"""Measure which signals separate a query whose photo is in the index from the same query without its photo.

    python -m benchmarks.absent DATA [--part val.json] [--photos 509] [--mosaics 1000] [--sizes 127 300 1000]
    python -m benchmarks.absent FOLDER --words FILE

DATA holds images.tar, train.json and val.json of Flickr8k. FILE has lines of {image, label} with paths below FOLDER;
each label is a query. Mosaics are those of mosaics.plan_mosaics with seed 0, with the distinct captions of their cells.
A query is present over the first mosaics of a given number, and absent over those of them that do not show its photo.
Single words, as people search, are queries as well; a word is absent where no caption of a shown photo has it.
Choose on training photos (--part train.json), and report on unseen ones.

AUROC is the probability that a present query has a larger signal than an absent one. Where the best hit is not the
relevant one, the best score is the same with and without the photo, so 0.5 + R@1 / 2 is the ceiling.
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

BANK_TEXTS = 600  # Number of bank texts in the null distribution.
RATES = (0.01, 0.05, 0.1)  # Tested false-positive rates.
SAMPLE_VIEWS = 128  # A second null distribution is extrapolated from this many views.
MAX_SHARE = (
    0.15  # Words in a larger share of the views are no queries: the index without these views would be too small.
)
TOP_VIEWS = 10

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class ScoredQueries:
    """T queries over N views.

    scores: f32[N, T], exact scores. global_scores: f32[N, T], cosines of the global token. relevant: bool[N, T], views
    that match a query. removed: bool[N, T], views that must be removed for the query to be absent.
    """

    queries: list[EncodedText]
    scores: F32
    global_scores: F32
    relevant: Bools
    removed: Bools


def score(encoder: TorchEncoder, encoded: EncodedViews, queries: list[EncodedText]) -> F32:
    """Return the exact scores, f32[N, T]."""
    scorer, count = TextBatchScorer(queries, encoder.pool_weights, encoder.device), len(encoded.tokens)
    return np.concatenate([scorer.score(encoded.part(slice(i, i + 64))) for i in range(0, count, 64)])


def score_queries(
    encoder: TorchEncoder, encoded: EncodedViews, texts: list[str], relevant: Bools, removed: Bools
) -> ScoredQueries:
    """Encode the texts and score all views."""
    queries = [q for i in range(0, len(texts), 256) for q in encoder.encode_texts(texts[i : i + 256])]
    unit = np.stack([query.vector / np.linalg.norm(query.vector) for query in queries], 1)
    return ScoredQueries(
        queries, score(encoder, encoded, queries), encoded.pooled.astype(np.float32) @ unit, relevant, removed
    )


def score_captions(
    encoder: TorchEncoder, encoded: EncodedViews, notes: Annotations, shown: NDArray[np.int64], said: NDArray[np.int64]
) -> ScoredQueries:
    """Score the distinct captions of the cells."""
    cells = list(dict.fromkeys(zip(shown.ravel().tolist(), said.ravel().tolist(), strict=True)))
    owner = np.array([photo for photo, _ in cells])
    relevant = (shown[:, :, None] == owner).any(1)
    return score_queries(
        encoder, encoded, [notes.captions[photo][number] for photo, number in cells], relevant, relevant
    )


def score_words(
    encoder: TorchEncoder, encoded: EncodedViews, notes: Annotations, shown: NDArray[np.int64]
) -> ScoredQueries:
    """Score single words outside the null distribution.

    A word is present where two captions of a photo have it, and absent where no caption has it.
    """
    every = prompts.texts()
    words = sorted({*WORDS, *(text for text in every if " " not in text)} - set(every[:: len(every) // BANK_TEXTS]))
    found = [[set(re.findall("[a-z]+", caption.lower())) for caption in several] for several in notes.captions]
    forms = [{word, f"{word}s", f"{word}es"} for word in words]
    times = np.array([[sum(bool(form & words) for words in several) for form in forms] for several in found])
    relevant, removed = ((times[shown] >= min_captions).any(axis=1) for min_captions in (2, 1))
    return score_queries(encoder, encoded, words, np.asarray(relevant), np.asarray(removed))


def patch_attention(encoder: TorchEncoder, encoded: EncodedViews, asked: ScoredQueries, kept: Bools) -> F64:
    """Return the attention that the zero key leaves in each query's best kept view, mean over heads, f64[T].

    kept: bool[N, T], the views that are searched.
    """
    reranker, best = TorchPool(encoder.pool_weights), np.where(kept, asked.scores, -2).argmax(0)
    left = [reranker.attend([encoded.tokens[i : i + 1]], q).sum() for i, q in zip(best, asked.queries, strict=True)]
    return np.array(left, np.float64)


def tail(scores: F32) -> float:
    """Return -log of the probability of one query's best score under an exponential tail.

    The tail is fitted to the largest 20 % of the scores with the largest 1 % censored, so that relevant views do not
    count (the estimator of Epstein and Sobel, 1953).
    """
    ranked = np.sort(scores.astype(np.float64))[::-1]
    first, last = int(np.ceil(0.01 * len(ranked))), max(int(0.2 * len(ranked)), int(np.ceil(0.01 * len(ranked))) + 1)
    above = ranked[:last] - ranked[last]
    mean = (above[first:].sum() + first * above[first]) / (last - first)
    return float(above[0] / max(mean, 1e-9) + np.log(len(ranked) / last))


def signals(asked: ScoredQueries, kept: Bools) -> dict[str, F64]:
    """Return each signal, f64[T] by name, over the kept views bool[N, T]."""
    rows: dict[str, list[float]] = {}
    for text in range(kept.shape[1]):
        scores, global_scores = asked.scores[kept[:, text], text], asked.global_scores[kept[:, text], text]
        ranked, spread = np.sort(scores)[::-1], max(float(scores.std()), 1e-9)
        found = {
            "best score": ranked[0],
            f"mean of the best {TOP_VIEWS}": ranked[:TOP_VIEWS].mean(),
            "best score, standardised by the query's scores": (ranked[0] - scores.mean()) / spread,
            "best score, over median and median deviation": (ranked[0] - np.median(scores))
            / max(np.median(np.abs(scores - np.median(scores))), 1e-9),
            "best score, by the exponential tail of the query's scores": tail(scores),
            f"best score over the {TOP_VIEWS}th": ranked[0] - ranked[TOP_VIEWS - 1],
            "best cosine of the global token": global_scores.max(),
        }
        for name, value in found.items():
            rows.setdefault(name, []).append(float(value))
    return {name: np.array(values) for name, values in rows.items()}


def auroc(present: F64, absent: F64) -> float:
    """Return the probability that a present value is larger than an absent one; ties count half."""
    ranked = np.sort(absent)
    below, level = (np.searchsorted(ranked, present, side=side) for side in ("left", "right"))
    return float((below + level).mean() / 2 / len(absent))


def first(asked: ScoredQueries, views: int) -> ScoredQueries:
    """Keep the first views, and the queries that are present there and can be made absent."""
    relevant, removed = asked.relevant[:views], asked.removed[:views]
    usable = relevant.any(0) & (removed.mean(0) <= MAX_SHARE)
    queries = [query for query, kept in zip(asked.queries, usable, strict=True) if kept]
    return ScoredQueries(
        queries,
        asked.scores[:views, usable],
        asked.global_scores[:views, usable],
        relevant[:, usable],
        removed[:, usable],
    )


def separate(encoder: TorchEncoder, encoded: EncodedViews, asked: ScoredQueries) -> dict[str, float]:
    """Return the AUROC of each signal."""
    everything, others = np.ones_like(asked.removed), ~asked.removed
    present, absent = signals(asked, everything), signals(asked, others)
    with_photo, without = (patch_attention(encoder, encoded, asked, kept) for kept in (everything, others))
    found = {name: auroc(present[name], absent[name]) for name in present}
    return found | {"what the zero key leaves, of the best hit": auroc(with_photo, without)}


def hits(asked: ScoredQueries) -> Bools:
    """Return for which queries the best hit is relevant, bool[T]."""
    relevant: Bools = asked.relevant[asked.scores.argmax(0), np.arange(len(asked.queries))]
    return relevant


def calibrate(background: Background, asked: ScoredQueries) -> list[float]:
    """Return two shares for each of RATES.

    These are the share of absent queries with a match, and of present queries whose best hit is relevant and a match.
    """
    relevant = hits(asked)
    absent = background.p_value(np.where(asked.removed, -2, asked.scores).max(0))
    present = background.p_value(asked.scores.max(0))
    return [
        share
        for rate in RATES
        for share in (float((absent <= rate).mean()), float((relevant & (present <= rate)).mean()))
    ]


def measure(encoder: TorchEncoder, encoded: EncodedViews, groups: dict[str, ScoredQueries], sizes: list[int]) -> None:
    """Print the AUROC of each signal, and how often the null distribution is right."""
    bank_scores = score(encoder, encoded, encoder.encode_prompts()[:: prompts.BANK_SIZE // BANK_TEXTS])
    for name, asked in groups.items():
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
            sampled = bank_scores[: size : max(1, size // SAMPLE_VIEWS)]
            for label, scores in (("all", bank_scores[:size]), (f"{len(sampled):,} of them", sampled)):
                row = " | ".join(f"{share:.1%}" for share in calibrate(Background.of(scores, size), c))
                print(f"| {size:,} views, background of {label} | {row} |", flush=True)


def measure_words(encoder: TorchEncoder, folder: Path, file: Path) -> None:
    """Print the AUROC of single labels: present among all photos, absent among photos of other labels."""
    found = caption_gallery(
        read_caption_dataset(file, folder), encoder.encode_images, "squash", encoder.config.image_size
    )
    encoded, relevant = concatenate(found.encoded), found.relevant
    assert relevant is not None
    _, once = np.unique(found.texts, return_index=True)
    asked = score_queries(encoder, encoded, [found.texts[i] for i in once], relevant[:, once], relevant[:, once])
    print(f"{encoder.name}, {found.views:,} photos, {len(once):,} words; best hit is right: {hits(asked).mean():.1%}")
    print("\n" + head("AUROC", ["words"]))
    for signal, value in separate(encoder, encoded, asked).items():
        print(f"| {signal} | {value:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure which signals separate absent from present queries.")
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--words",
        type=Path,
        metavar="FILE",
        help="File of labelled photos below DATA, to measure single labels instead.",
    )
    parser.add_argument("--part", default="val.json", help="Annotation file in DATA.")
    parser.add_argument("--photos", type=int, default=509, help="Number of photos, evenly chosen.")
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
        groups = {
            "captions": score_captions(encoder, encoded, notes, shown, said),
            "words": score_words(encoder, encoded, notes, shown),
        }
        measure(encoder, encoded, groups, [count] if side == 1 else [min(size, count) for size in args.sizes])


if __name__ == "__main__":
    main()
