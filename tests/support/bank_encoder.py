"""Fake encoders whose bank has texts enough to fit a predictor of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from flairsearch.core.types import EncodedText, PoolWeights
from tests.support.fake import DIM, PATCHES, FakeEncoder

TEXTS, SOFT = 40, 1.0


class BankEncoder(FakeEncoder):
    """The fake encoder with texts of any direction in the space of colours, and scores smooth in it."""

    def __init__(self) -> None:
        directions = np.random.default_rng(7).normal(size=(TEXTS, DIM)).astype(np.float32)
        directions[:, 3] = 0
        self._bank = directions / np.linalg.norm(directions, axis=1, keepdims=True) * np.float32(3**0.5)

    def encode_texts(self, texts: Sequence[str]) -> list[EncodedText]:
        vectors = np.stack([query.vector for query in super().encode_texts(texts)])
        return [replace(query, text=text) for query, text in zip(self.fold(vectors), texts, strict=True)]

    def fold(self, vectors: np.ndarray) -> list[EncodedText]:
        c = np.asarray([-3 * SOFT - np.log(PATCHES)], np.float32)
        return [EncodedText("", vector, SOFT * vector[None], c) for vector in vectors]

    def encode_prompts(self) -> list[EncodedText]:
        return self.fold(self._bank)


class SumEncoder(BankEncoder):
    """Its photos rank by the mean of both cosines."""

    @property
    def pool_weights(self) -> PoolWeights:
        return replace(super().pool_weights, global_share=0.5)
