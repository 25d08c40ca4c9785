"""Measure queries of several phrases, ways to combine their scores, and where exclusions are best judged, on mosaics.

    python -m benchmarks.phrases PHOTOS ANNOTATIONS [--mosaics 300] [--queries 800]

PHOTOS is the folder that the paths of ANNOTATIONS (Flickr30k-style) start from. A query has the captions of two or
three cells of a 2x2 mosaic as phrases; mosaics that show all these photos are relevant. The weakest phrase is tested
with one caption of a mosaic and one of a photo that is not in it. For `--exclude`, a caption finds its region; the
excluded text is another caption of the same photo (present), of another cell of the mosaic, or of any other photo.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.types import EncodedText, EncodedViews
from flairsearch.evaluate import galleries
from flairsearch.evaluate.caption_datasets import read_caption_dataset
from flairsearch.evaluate.mosaics import MosaicPlan
from flairsearch.evaluate.region_metrics import RECALL_KS
from flairsearch.model.encoder import TorchEncoder
from flairsearch.regions.boxes import find_boxes, find_heat, patch_mask
from flairsearch.regions.locator import Locator
from flairsearch.rerank.many_texts import TextBatchScorer
from flairsearch.search.searcher import EXCLUSION_QUANTILE

Scores = NDArray[np.float32]
CELLS = 4


def combine(scores: Scores, relevant: NDArray[np.bool_]) -> None:
    """Print the R@k of each way to combine the scores of M phrases.

    scores: f32[N, Q, M]. relevant: bool[N, Q].
    """
    deviation = (scores - scores.mean(0)) / scores.std(0)
    ways: dict[str, Callable[[], Scores]] = {
        "the first phrase alone": lambda: scores[..., 0],
        "mean": lambda: scores.mean(2),
        "minimum": lambda: scores.min(2),
        "mean and minimum": lambda: scores.mean(2) + scores.min(2),
        "mean of scores standardised over the index": lambda: deviation.mean(2),
    }
    for name, way in ways.items():
        values = way()
        best = np.where(relevant, values, -np.inf).max(0)
        rank = (values > best).sum(0)
        print(f"| {name} | " + " / ".join(f"{(rank < k).mean():.1%}" for k in RECALL_KS) + " |")


def auroc(high: list[float], low: list[float]) -> float:
    """Return the probability that a value of `high` is larger than one of `low`."""
    return float((np.array(high)[:, None] > np.array(low)).mean())


def judge(
    encoded: EncodedViews,
    queries: list[EncodedText],
    others: list[dict[str, EncodedText]],
    locator: Locator,
    encoder: TorchEncoder,
) -> None:
    """Print the AUROC of present against absent texts, judged in the region and over the whole photo.

    others: for each query, the excluded texts by where they are present.
    """
    views = np.repeat(np.arange(len(encoded.tokens)), CELLS)
    found: dict[str, list[tuple[float, float]]] = {"present": [], "in another cell": [], "anywhere": []}
    excluded: dict[str, list[bool]] = {name: [] for name in found}
    sample = encoded.part(slice(None, None, max(1, len(encoded.tokens) // 100)))
    for view, query, other in zip(views.tolist(), queries, others, strict=True):
        if not other:
            continue
        encoded_view = encoded.only(view)
        heat = find_heat(locator.attend(encoded_view, query)[0], locator.patch_similarity(encoded_view, query)[0])
        parts = np.stack([patch_mask(box, len(heat)) for box in find_boxes(heat)])
        part = parts[locator.score_parts(encoded_view.tokens[0], query, parts).argmax()]
        for name, text in other.items():
            in_region, in_photo = locator.score_parts(
                encoded_view.tokens[0], text, np.stack([part, np.ones_like(part)])
            )
            null_scores = TextBatchScorer([text], encoder.pool_weights).score(sample)[:, 0]
            found[name].append((float(in_region), float(in_photo)))
            excluded[name].append(bool(in_region >= np.quantile(null_scores, EXCLUSION_QUANTILE)))
    for column, name in enumerate(("the region", "the whole photo")):
        values = {kind: [row[column] for row in rows] for kind, rows in found.items()}
        print(
            f"| {name} | {auroc(values['present'], values['in another cell']):.3f} "
            f"| {auroc(values['present'], values['anywhere']):.3f} |"
        )
    shares = ", ".join(f"{name} {np.mean(rows):.0%}" for name, rows in excluded.items())
    print(
        f"excluded by --exclude (a score above {EXCLUSION_QUANTILE:.0%} of the photos'), "
        f"by where the text is present: {shares}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("--model", default="flair-small")
    parser.add_argument("--mosaics", type=int, default=300)
    parser.add_argument("--queries", type=int, default=800)
    args = parser.parse_args()
    dataset, encoder = read_caption_dataset(args.annotations, args.photos), TorchEncoder(args.model, "cpu")
    plan = MosaicPlan(args.mosaics, 2)
    found = galleries.mosaic_gallery(dataset, encoder.encode_images, "squash", encoder.config.image_size, plan)
    encoded = galleries.concatenate(piece for piece, _ in found.encoded)
    queries = [q for i in range(0, len(found.texts), 256) for q in encoder.encode_texts(found.texts[i : i + 256])]
    scores = TextBatchScorer(queries, encoder.pool_weights).score(encoded)
    photo, rng = found.truth.label_of_text, np.random.default_rng(0)
    shows = np.zeros((args.mosaics, len(dataset.photos)), np.bool_)
    shows[found.truth.view, found.truth.label] = True
    print(f"{args.model}, {args.mosaics} mosaics 2x2, {args.queries} queries")
    for count in (2, 3):
        mosaics = rng.integers(args.mosaics, size=args.queries)
        chosen = np.stack([CELLS * m + rng.permutation(CELLS)[:count] for m in mosaics])
        print(f"| {count} phrases, score is | R@1 / 5 / 10 |\n|---|---|")
        combine(scores[:, chosen], shows[:, photo[chosen]].all(2))
    texts = rng.integers(len(queries), size=(args.queries, 2))
    mosaic_of_text = texts[:, 0] // CELLS
    absent = ~shows[mosaic_of_text, photo[texts[:, 1]]]
    named = (scores[mosaic_of_text, texts[:, 0]] > scores[mosaic_of_text, texts[:, 1]])[absent].mean()
    print(f"of one present and one absent phrase the weaker is the absent one in {named:.1%} of {absent.sum()}")
    print("| exclusions judged in | present against in another cell | present against anywhere |\n|---|---|---|")
    numbers: dict[int, list[int]] = {}
    for caption, owner in enumerate(dataset.photo_of_caption):
        numbers.setdefault(owner, []).append(caption)
    others: list[dict[str, EncodedText]] = [{} for _ in queries]
    for text in rng.permutation(len(queries))[: args.queries // 2].tolist():
        same = [dataset.captions[c] for c in numbers[int(photo[text])] if dataset.captions[c] != found.texts[text]]
        cell = CELLS * (text // CELLS) + int(rng.choice([c for c in range(CELLS) if c != text % CELLS]))
        anywhere = int(rng.choice(np.flatnonzero(~shows[text // CELLS, photo])))
        if same:
            others[text] = {
                "present": encoder.encode_texts(same[:1])[0],
                "in another cell": queries[cell],
                "anywhere": queries[anywhere],
            }
    judge(encoded, queries, others, Locator(encoder.pool_weights), encoder)


if __name__ == "__main__":
    main()
