"""The comparison of codecs with fp16."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flairsearch.core.types import Frame, Picture
from flairsearch.evaluate.codec_comparison import CODECS, compare_codecs
from flairsearch.evaluate.retrieval_metrics import best_ranks
from flairsearch.evaluate.retrieval_run import GLOBAL, FittedVectors, PairScores
from flairsearch.model.encoder import TorchEncoder
from tests.support.random_flair import SMALL, random_flair, random_pictures, save_flair

TEXTS = ["a dog", "a red ball", "two men on a bench", "snow", "a dog"]


FRAME = Frame(48, 48, 0, 0, 48, 48)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAIRSEARCH_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("score", ["flair", "sum"])
def test_codecs_are_compared_with_fp16(tmp_path: Path, score: str) -> None:
    model = random_flair(replace(SMALL, score=score))
    encoder = TorchEncoder(str(save_flair(model, tmp_path / "m.safetensors")), "cpu", torch.float32)
    encoded = encoder.encode_images([Picture(pixels, FRAME) for pixels in random_pictures(40, 48)])
    texts = [*TEXTS[:4], *(f"{number} things" for number in range(20))]
    queries = encoder.encode_texts(texts)
    relevant = np.arange(40)[:, None] == np.random.default_rng(1).integers(40, size=24)
    rows = list(compare_codecs(encoded, queries, relevant, encoder.pool_weights, encoder.token_metric))
    assert [row.codec for row in rows] == list(CODECS)
    assert [row.bytes for row in rows] == sorted((row.bytes for row in rows), reverse=True)
    first = rows[0]
    assert (first.overlap, first.box_iou, first.difference) == (1.0, 1.0, (0.0, 0.0))
    weights = encoder.pool_weights
    exact = PairScores(40, texts, [queries], weights, "cpu", FittedVectors(queries, weights, "cpu", 40))
    exact.add(encoded)
    ranks = [best_ranks(scores, relevant) for scores in (exact.exact, 2 * exact.exact - exact.prefilters[GLOBAL])]
    recalls = [{k: float((part < k).mean()) for k in (1, 5, 10)} for part in ranks]
    assert first.recall == recalls[0]
    assert recalls[0] != recalls[1]  # The sum ranks differently from the conditioned cosine alone.
    assert rows[1].overlap > 0.9
    unknown = next(iter(compare_codecs(encoded, queries, None, encoder.pool_weights, np.eye(32, dtype="f4"))))
    assert (unknown.recall, unknown.difference) == (None, None)
