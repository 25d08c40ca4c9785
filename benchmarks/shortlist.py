"""Measure what shortlists lose of the exhaustive top 10, and how many views `auto` ranks, on photos and 2x2 mosaics.

    python -m benchmarks.shortlist DATA [--work FOLDER] [--mosaics 4000] [--variants | --cost]

DATA holds images.tar, train.json and val.json. The queries are all captions of val.json, and the single words and short
phrases below, which are not captions. The truth is the exact score of every stored view. Both indexes are made in
FOLDER as a user makes them; a later run uses them again.
"""

from __future__ import annotations

import argparse
import statistics
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.flickr import FRAME, Annotations, read_photos
from flairsearch import Engine
from flairsearch.core.types import EncodedText, EncodedViews, Picture, PoolWeights
from flairsearch.evaluate.mosaics import assign_cells, make_mosaics
from flairsearch.model import prompts
from flairsearch.rerank.many_texts import TextBatchScorer
from flairsearch.shortlist.score_predictor import ANCHOR_TEXTS, fit
from flairsearch.shortlist.shortlist import Shortlist
from flairsearch.store.snapshot import Snapshot

# ruff: noqa: SIM905 - a split text is easier to read than a list of words
SHORTLIST_SHARES = (0.005, 0.01, 0.02, 0.05)
TOP_VIEWS = 10
WORDS = (
    "snow sand dog cat horse ball car bicycle beach water grass mountain street night sunset crowd child boy girl man "
    "woman red blue green jumping running swimming climbing surfing skiing bucket wheelchair fountain cigarette "
    "goggles necklace tattoo backpack sunglasses blanket pillow puddle leash sunrise graffiti mask birthday soccer "
    "football tennis basketball hockey carousel cliff cave dock sidewalk subway"
).split()
PHRASES = (
    "a red ball|a yellow ball|a blue car|a red car|a white horse|a brown dog|a black dog|two dogs|a dog in water|"
    "a dog in the snow|a child on a swing|a child on a slide|a boy in a pool|a girl with a balloon|a man with a beard|"
    "a woman with sunglasses|a person in a helmet|a green field|a blue sky|a snowy mountain|a dirt bike|"
    "a motorcycle race|a soccer player|people at a table|people on a bench|a crowd of people|a street at night|"
    "a city street|a brick wall|a wooden fence|a red shirt|a pink dress|a white wedding dress|a black hat|"
    "a yellow jacket|an orange vest|green grass|white sand|ocean waves|a rocky cliff|a climbing rope|"
    "a canoe on a river|a sail boat|a fishing rod|a beach umbrella|an old man|a baby eating|a smiling girl|"
    "kids playing|a dog with a stick|a dog with a frisbee|a running greyhound|a bird in flight|a cat sleeping|"
    "a horse and rider|a marching band|a guitar player|a man taking a photo|a skateboard trick|a bike jump|"
    "a snowboard jump|a surfer on a wave|a water slide|a bonfire|a tent|autumn leaves|a newspaper|an ice cream|"
    "a cup of coffee|a birthday cake|a basketball hoop|a tennis racket|a race track|a train station|a red bus|"
    "a garden hose|a trampoline|muddy water|face paint|bunny ears|a stroller|a shopping cart|a hammock"
).split("|")

Scores = NDArray[np.float32]


def make_photos(data: Path, work: Path, mosaics: int) -> tuple[Path, Path]:
    """Make and return the folders of all photos of train.json and val.json, and of mosaics of them."""
    photos, tiled = work / "photos", work / "mosaics"
    names = [name for part in ("train", "val") for name in Annotations.read(data / f"{part}.json").names]
    if not photos.is_dir():
        with tarfile.open(data / "images.tar") as archive:
            archive.extractall(photos, filter="data")
    if not tiled.is_dir():
        tiled.mkdir()
        pictures = [Picture(pixels, FRAME) for pixels in read_photos(photos, names)]
        shown = assign_cells(len(pictures), mosaics, seed=0)
        for number, mosaic in enumerate(make_mosaics(pictures, shown)):
            Image.fromarray(mosaic.pixels).save(tiled / f"{number:05d}.png")
    return photos, tiled


def exact_scores(engine: Engine, reader: Snapshot, queries: list[EncodedText]) -> Scores:
    """Return the exact scores of all views and texts, f32[N, T]."""
    scorer = TextBatchScorer(queries, engine.encoder.pool_weights)
    pieces = (reader.views.id[start : start + 128] for start in range(0, len(reader), 128))
    return np.concatenate([scorer.score(reader.encoded(piece)) for piece in pieces])


def recall(exact: Scores, predicted: Scores, shares: tuple[float, ...] = SHORTLIST_SHARES) -> list[float]:
    """Return the mean share of the exact top 10 that each shortlist by predicted scores contains."""
    found = np.zeros(len(shares))
    for j in range(exact.shape[1]):
        top = np.argsort(-exact[:, j], kind="stable")[:TOP_VIEWS]
        rank = np.empty(len(exact), np.int64)
        rank[np.argsort(-predicted[:, j], kind="stable")] = np.arange(len(exact))
        found += [np.mean(rank[top] < max(TOP_VIEWS, round(share * len(exact)))) for share in shares]
    return list(found / exact.shape[1])


def row(name: str, numbers: list[float]) -> str:
    """Return a row of a table."""
    return f"| {name} | " + " | ".join(f"{number:.3f}" for number in numbers) + " |"


def head(name: str, columns: list[str]) -> str:
    """Return the head of a table."""
    return f"| {name} | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1)


def measure_auto(engine: Engine, texts: list[str], exact: Scores, paths: list[str]) -> str:
    """Return what `auto` finds of the exact top 10, the share of views it ranks, and its time; one text at a time."""
    found, shares, seconds = [], [], []
    engine.search(texts[0])
    for j, text in enumerate(texts):
        best = {paths[i] for i in np.argsort(-exact[:, j], kind="stable")[:TOP_VIEWS]}
        began = time.perf_counter()
        hits = engine.search(text, TOP_VIEWS)
        seconds.append(time.perf_counter() - began)
        found.append(len(best & {hit.path for hit in hits}) / TOP_VIEWS)
        shares.append(hits.stats.views_ranked / len(paths))
    return (
        f"{statistics.mean(found):.4f} of the top 10; ranks {statistics.median(shares):.2%} of the views, median "
        f"({np.percentile(shares, 95):.1%} at the 95th percentile); {statistics.median(seconds) * 1e3:.0f} ms a query"
    )


def measure(name: str, folder: Path, work: Path, captions: list[str]) -> None:
    """Index a folder and print the recall of its shortlists."""
    began = time.perf_counter()
    with Engine.open(work / f"{name}.index") as engine:
        engine.add(folder)
        print(f"\n{name}: indexed in {time.perf_counter() - began:.0f} s (a few if it was there)")
        reader = Snapshot(engine.folder, engine.settings, engine._catalog)
        shortlist, count = Shortlist(reader), len(reader)
        sizes = {
            part: sum(file.stat().st_size for file in engine.folder.glob(part))
            for part in ("fitted/codes", "prefilter/*")
        }
        print(f"{count:,} views; bytes a view: {', '.join(f'{k} {v / count:,.0f}' for k, v in sizes.items())}")
        content = {c: i for i, c in enumerate(reader.views.content.tolist())}
        images = engine._catalog.images_of(list(content))
        paths = [images[c][0][1] for c in reader.views.content.tolist()]
        groups = {"captions": captions, "words, phrases": WORDS + PHRASES}
        bank_words = {word for text in prompts.texts() for word in text.split()}
        groups["of these, a word not in the bank"] = [
            t for t in groups["words, phrases"] if set(t.split()) - bank_words
        ]
        print(head("queries, vectors", [f"{share:.1%}" for share in SHORTLIST_SHARES]))
        for group, texts in groups.items():
            queries = [q for i in range(0, len(texts), 256) for q in engine.encoder.encode_texts(texts[i : i + 256])]
            exact = exact_scores(engine, reader, queries)
            unit = np.stack([query.vector / np.linalg.norm(query.vector) for query in queries], 1)
            global_scores = np.concatenate(list(reader.all_pooled())).astype(np.float32) @ unit
            print(row(f"{len(texts):,} {group}: global token", recall(exact, global_scores)))
            fitted = np.empty_like(exact)
            for j, query in enumerate(queries):
                found = shortlist.search(query.vector, count)
                fitted[np.searchsorted(reader.views.id, found.views), j] = found.scores
            print(row(f"{len(texts):,} {group}: fitted", recall(exact, fitted)))
            if len(texts) > 50:
                print(f"  auto, {group}: {measure_auto(engine, texts, exact, paths)}", flush=True)


def relu_features(texts: Scores, width: int) -> Callable[[Scores], Scores]:
    """Return the map t -> relu(16 t R), centred on the bank's mean, with Gaussian R (shared/FLAIR.md section 7)."""
    mix = np.random.default_rng(0).normal(size=(texts.shape[1], width)).astype(np.float32) / texts.shape[1] ** 0.5
    mean = np.maximum(16 * texts @ mix, 0).mean(0)
    return lambda t: np.maximum(16 * t @ mix, 0) - mean


def ridge(features: Scores, scores: Scores, penalty: float) -> Scores:
    """Fit scores f32[n, B] to features f32[B, W] by ridge regression; returns weights f32[n, W]."""
    gram = features.T.astype(np.float64) @ features + penalty * np.eye(features.shape[1])
    weights: Scores = (scores @ np.linalg.solve(gram, features.T.astype(np.float64)).T).astype(np.float32)
    return weights


def variants(work: Path, captions: list[str]) -> Iterator[tuple[str, list[float], list[float]]]:
    """Yield (name, recall of captions, recall of words and phrases) of other predictors, fitted to 2,000 mosaics."""
    with Engine.open(work / "mosaics.index") as engine:
        reader, encoder = Snapshot(engine.folder, engine.settings, engine._catalog), engine.encoder
        asked = [captions[::4], WORDS + PHRASES]
        queries = [[q for t in texts for q in encoder.encode_texts([t])] for texts in asked]
        exact = [exact_scores(engine, reader, group) for group in queries]
        raw = [np.stack([query.vector for query in group]) for group in queries]
        units = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in raw]
        pooled = np.concatenate(list(reader.all_pooled())).astype(np.float32)
        more = [q for t in prompts.texts(4800) for q in encoder.encode_texts([t])]
        vectors = np.stack([query.vector for query in more])
        scores = exact_scores(engine, reader, more)
        sample = np.linspace(0, len(reader) - 1, 2000).astype(np.int64)

    def both(predicted: Callable[[int], Scores]) -> tuple[list[float], list[float]]:
        first, second = (recall(exact[i], predicted(i)) for i in range(2))
        return first, second

    yield ("global token", *both(lambda i: pooled @ units[i].T))
    texts = vectors[: prompts.BANK_SIZE] / np.linalg.norm(vectors[: prompts.BANK_SIZE], axis=1, keepdims=True)
    bank_scores = scores[:, : prompts.BANK_SIZE]
    mean = bank_scores.mean(1, keepdims=True)
    linear = ridge(texts - texts.mean(0), bank_scores - mean, 1.0)
    yield ("linear in the text", *both(lambda i: linear @ (units[i] - texts.mean(0)).T + mean))
    for width in (1024, 2048):
        phi = relu_features(texts, width)
        weights = ridge(phi(texts), bank_scores - mean, 30.0)
        yield (f"{width:,} ReLU features", *both(lambda i, phi=phi, w=weights: w @ phi(units[i]).T + mean))
    for texts_, asked_, width in (
        *((2400, 2400, width) for width in (2401, 1024, 512, 256)),
        *((2400, asked, 512) for asked in (1200, 900, 600, 300)),
        *((count, 900, 512) for count in (1200, 4800)),
    ):
        made = fit(vectors[:texts_], scores[sample, :texts_], width, asked_)
        codes = made.codes(scores[:, made.anchors]).astype(np.float32)
        feats = [np.stack([made.features(text) for text in group], 1) for group in raw]
        name = f"kernel, bank of {texts_:,}, {len(made.anchors):,} asked, {len(made.quant_steps):,} bytes"
        yield (name, *both(lambda i, codes=codes, feats=feats: codes @ feats[i]))


def cost(dim: int, heads: int) -> str:
    """Return the time to score a view for the anchor texts, on random numbers, which take as long as real ones."""
    rng, width = np.random.default_rng(0), dim // heads

    def draw(*shape: int) -> Scores:
        return (rng.normal(size=shape) / dim**0.5).astype(np.float32)

    keys = draw(heads, width, dim)
    queries = [
        EncodedText("", draw(dim), np.einsum("hde,hd->he", keys, draw(heads, width)), draw(heads))
        for _ in range(ANCHOR_TEXTS)
    ]
    weights = PoolWeights(draw(heads, width, dim), draw(heads, width), draw(dim, dim), draw(dim), 1.0, 0.0)
    scorer, tokens = TextBatchScorer(queries, weights), draw(64, 196, dim).astype(np.float16)
    zeros = np.zeros((64, 196), np.float16)
    views = EncodedViews(draw(64, dim).astype(np.float16), tokens, zeros, zeros)
    scorer.score(views)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        scorer.score(views)
        times.append((time.perf_counter() - began) / len(tokens))
    return f"{ANCHOR_TEXTS} texts, {dim} dimensions, {heads} heads: {statistics.median(times) * 1e3:.1f} ms a view"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what shortlists lose, and how many views auto ranks.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("shortlist-work"))
    parser.add_argument("--mosaics", type=int, default=4000)
    parser.add_argument(
        "--cost", action="store_true", help="Only measure the time to score a view for the anchor texts."
    )
    parser.add_argument("--variants", action="store_true", help="Compare other predictors, on the mosaics.")
    args = parser.parse_args()
    if args.cost:
        print(cost(256, 4), cost(512, 8), sep="\n")
        return
    args.work.mkdir(parents=True, exist_ok=True)
    photos, mosaics = make_photos(args.data, args.work, args.mosaics)
    captions = [caption for texts in Annotations.read(args.data / "val.json").captions for caption in texts]
    if not args.variants:
        measure("photos", photos, args.work, captions)
        measure("mosaics", mosaics, args.work, captions)
        return
    with Engine.open(args.work / "mosaics.index") as engine:
        engine.add(mosaics)
    columns = [f"{what} {share:.1%}" for what in ("captions", "short") for share in SHORTLIST_SHARES]
    print(head("vectors", columns))
    for name, first, second in variants(args.work, captions):
        print(row(name, first + second), flush=True)


if __name__ == "__main__":
    main()
