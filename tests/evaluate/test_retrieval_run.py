"""Scores of all pairs against the model and the engine, and the modes of retrieval."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flairsearch.core.errors import FlairSearchError
from flairsearch.core.types import Frame, Picture
from flairsearch.evaluate import galleries, retrieval_run
from flairsearch.evaluate.retrieval_metrics import best_ranks
from flairsearch.evaluate.retrieval_run import GLOBAL, FittedVectors, PairScores, encode_in_groups
from flairsearch.model.encoder import TorchEncoder
from tests.support.fake import COLOURS, FakeEncoder, fake_engine, paint_red
from tests.support.random_flair import SMALL, SUM, ModelConfig, oracle_pool, random_flair, random_pictures, save_flair

TEXTS = ["a dog", "a red ball", "two men on a bench", "snow", "a dog"]
FRAME = Frame(48, 48, 0, 0, 48, 48)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAIRSEARCH_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("config", [SMALL, SUM, replace(SMALL, score="sum")], ids=["flair", "sum", "transformer's sum"])
def test_scores_of_all_pairs(tmp_path: Path, config: ModelConfig) -> None:
    """Scores in batches and groups equal FLAIR written out by hand, or its mean with the global cosine."""
    model = random_flair(config)
    encoder = TorchEncoder(str(save_flair(model, tmp_path / "m.safetensors")), "cpu", torch.float32)
    size = config.image_size
    pictures = [Picture(pixels, Frame(size, size, 0, 0, size, size)) for pixels in random_pictures(7, size)]
    batches = list(galleries.encode_batches(encoder.encode_images, pictures))
    groups = list(encode_in_groups(encoder.encode_texts, TEXTS, group=3, batch=2))
    assert [[query.text for query in group] for group in groups] == [TEXTS[:3], TEXTS[3:4]]
    weights = encoder.pool_weights
    scores = PairScores(7, TEXTS, groups, weights, "cpu", FittedVectors(groups[0], weights, "cpu", 7))
    for batch in batches:
        scores.add(batch)
    image = encoder._normalise(np.stack([picture.pixels for picture in pictures]))
    with torch.inference_mode():
        pooled, local = model.encode_image(image)
        texts = model.encode_text(model.tokenize(TEXTS))
    full = np.empty((7, len(TEXTS)))
    for j, text in enumerate(texts):
        full[:, j] = oracle_pool(model, text, local)[0]
        cosine = torch.nn.functional.cosine_similarity(pooled, text[None]).numpy()
        expected = (full[:, j] + cosine) / 2 if config.score == "sum" else full[:, j]
        assert scores.exact[:, j] == pytest.approx(expected, abs=2e-3)  # The tokens are float16.
        assert scores.prefilters[GLOBAL][:, j] == pytest.approx(cosine, abs=1e-3)
        assert np.abs(full[:, j] - cosine).max() > 0.05
    assert (scores.exact[:, 0] == scores.exact[:, 4]).all()
    relevant = np.arange(7)[:, None] == np.array([0, 2, 3, 6, 0])
    rows = {
        row.mode: row for row in retrieval_run.evaluate_retrieval(scores, relevant) if row.direction == "text to image"
    }
    assert list(rows) == (["sum", "full", "global"] if config.score == "sum" else ["full", "global"])
    modes = {"sum": scores.exact, "full": full, "global": scores.prefilters[GLOBAL]}
    for mode, row in rows.items():
        ranks = [
            sum(modes[mode][i, j] > modes[mode][relevant[:, j].argmax(), j] for i in range(7))
            for j in range(len(TEXTS))
        ]
        assert row.mean_rank == np.mean(ranks) + 1


def test_scores_of_an_index_are_the_engines(tmp_path: Path) -> None:
    for area in (1, 5, 20, 40, 64):
        paint_red(tmp_path / "photos" / f"{area:02d}.png", area)
    with fake_engine(tmp_path / "index") as engine:
        engine.add(tmp_path / "photos")
        gallery = galleries.index_gallery(engine.folder, engine.settings)
        weights, queries = FakeEncoder().pool_weights, FakeEncoder().encode_texts(list(COLOURS))
        fitted = FittedVectors(queries, weights, "cpu", gallery.views)
        scores = PairScores(gallery.views, list(COLOURS), [queries], weights, "cpu", fitted)
        for batch in gallery.encoded:
            scores.add(batch)
        for j, colour in enumerate(COLOURS):
            hits = engine.search(colour, k=5, shortlist="all")
            order = [int(Path(hit.path).stem) for hit in hits]
            assert sorted((1, 5, 20, 40, 64), key=order.index) == order
            by_area = dict(zip((1, 5, 20, 40, 64), range(5), strict=True))
            for hit, area in zip(hits, order, strict=True):
                assert scores.exact[by_area[area], j] == pytest.approx(hit.score, abs=1e-5)
                assert scores.prefilters[GLOBAL][by_area[area], j] == pytest.approx(hit.score_global, abs=1e-6)


def test_fitted_scores_approximate_the_exact_ones(tmp_path: Path) -> None:
    """The first 50 views are scored for the whole bank of twelve texts, all others for ten anchors."""
    encoder = TorchEncoder(str(save_flair(random_flair(), tmp_path / "m.safetensors")), "cpu", torch.float32)
    texts = [f"{colour} {thing}" for colour in ("red", "blue", "green") for thing in ("dog", "car", "hat", "sky")]
    queries, weights = encoder.encode_texts(texts), encoder.pool_weights
    vectors = FittedVectors(queries, weights, "cpu", 80, sample_views=50, anchor_texts=10)
    scores = PairScores(80, texts, [queries], weights, "cpu", vectors)
    pictures = [Picture(pixels, FRAME) for pixels in random_pictures(80, 48)]
    for batch in galleries.encode_batches(encoder.encode_images, pictures):
        scores.add(batch)
    fitted = scores.prefilters[retrieval_run.FITTED]
    assert fitted.shape == (80, 12)
    assert np.abs(fitted - scores.exact).max() < 0.4 * scores.exact.std()


def test_scores_that_are_not_finite() -> None:
    encoder = FakeEncoder()
    encoded = encoder.encode_images([Picture(np.zeros((64, 64, 3), np.uint8), FRAME)])
    encoded.tokens[0, 0, 0] = np.nan
    red, weights = encoder.encode_texts(["red"]), encoder.pool_weights
    scores = PairScores(1, ["red"], [red], weights, "cpu", FittedVectors(red, weights, "cpu", 1))
    with pytest.raises(FlairSearchError, match="not finite"):
        scores.add(encoded)


def test_modes_in_order() -> None:
    """Full and global come always, the bounded modes on request; with a bound that excludes nothing they equal full."""
    encoder = FakeEncoder()
    pictures = [Picture(pixels, FRAME) for pixels in random_pictures(6, 64)]
    colours = ["red", "blue", "green", "white"]
    queries, weights = encoder.encode_texts(colours), encoder.pool_weights
    scores = PairScores(6, colours, [queries], weights, "cpu", FittedVectors(queries, weights, "cpu", 6))
    scores.add(encoder.encode_images(pictures))
    relevant = np.arange(6)[:, None] == np.array([0, 1, 1, 3])
    assert [row.mode for row in retrieval_run.evaluate_retrieval(scores, relevant)] == [
        "full",
        "full",
        "global",
        "global",
    ]
    rows = list(retrieval_run.evaluate_retrieval(scores, relevant, 6, 4))
    assert [row.mode for row in rows[4::2]] == ["rerank 6 views a text", "top 4 texts an image"]
    for row in rows[4:]:
        full = rows[row.direction == "image to text"]
        assert (row.recall, row.mean_rank, row.median_rank) == (full.recall, full.mean_rank, full.median_rank)
    ranks = best_ranks(scores.exact, relevant)
    assert rows[0].recall == {k: float(np.mean(ranks < k)) for k in (1, 5, 10)}
