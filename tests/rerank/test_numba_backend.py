"""Numba's attention beyond the contract of test_backends.py: irregular bases, threads, the zero key, e^x."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flairsearch.codecs.codec import Codec, make_codec
from flairsearch.codecs.transform import TransformBasis, cosine_transform
from flairsearch.core.types import EncodedText, EncodedViews
from flairsearch.rerank.numba_backend import attend
from tests.support.backends import CODECS, make

EXACT = 1e-5  # The tolerance as a share of the largest value: the rounding of float32 sums.


def ask(codec: Codec, queries: int, heads: int, seed: int = 1, size: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Draw folded queries u f32[Q, H, C], c f32[Q, H]."""
    rng = np.random.default_rng(seed)
    shapes = ((heads, codec.dim), (heads,))
    parts = [[(size * rng.normal(size=s)).astype(np.float32) for s in shapes] for _ in range(queries)]
    folded = [codec.fold(EncodedText("", np.zeros(codec.dim, np.float32), u, c)) for u, c in parts]
    return np.stack([q.u for q in folded]), np.stack([q.c for q in folded])


def coordinates(codec: Codec, rows: np.ndarray) -> np.ndarray:
    """Decode rows to tokens over patches in the codec's coordinates, f64[n, P, C]."""
    y = codec.decode(rows).astype(np.float64)
    return y if codec.spatial is None else np.einsum("fp,nfc->npc", cosine_transform(codec.patches).astype(float), y)


def by_hand(x: np.ndarray, u: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mixed f64[n, Q, H, C], share f64[n, Q, H] of x f64[n, P, C]; the last of P + 1 keys has value 0."""
    mixed, share = np.zeros((len(x), *u.shape)), np.zeros((len(x), *c.shape))
    for n, tokens in enumerate(x):
        for q, h in np.ndindex(c.shape):
            logits = np.append(tokens @ u[q, h].astype(float) + float(c[q, h]), 0.0)
            weights = np.exp(logits - logits.max())
            weights /= weights.sum()
            mixed[n, q, h], share[n, q, h] = weights[:-1] @ tokens, weights[:-1].sum()
    return mixed, share


def check(codec: Codec, rows: np.ndarray, u: np.ndarray, c: np.ndarray, exact: float = EXACT) -> None:
    mixed, share = attend(codec, rows, u, c)
    assert (mixed.dtype, mixed.shape, share.dtype, share.shape) == ("f4", (len(rows), *u.shape), "f4", mixed.shape[:3])
    assert mixed.flags.c_contiguous
    expected, expected_share = by_hand(coordinates(codec, rows), u, c)
    np.testing.assert_allclose(mixed, expected, rtol=0, atol=exact * np.abs(expected).max(initial=1e-6))
    np.testing.assert_allclose(share, expected_share, rtol=0, atol=exact)


@given(seed=st.integers(0, 2**32 - 1))
@example(seed=0)
@example(seed=1)
def test_an_irregular_basis_equals_float64(seed: int) -> None:
    """Each frequency has any number of 8-, 4- and 2-bit codes, even none, in no particular order."""
    rng = np.random.default_rng(seed)
    patches, dim = (49, 60) if seed % 2 else (15, 93)
    counts = np.stack([rng.integers(0, 20, patches), 2 * rng.integers(0, 9, patches), 4 * rng.integers(0, 6, patches)])
    counts[:, 3] = 0
    counts = counts.astype(np.uint16)
    channels = int(counts.sum(0).max())
    parts = ((dim,), (dim, channels), (channels, dim))
    mean, forward, inverse = (rng.normal(size=shape).astype(np.float32) for shape in parts)
    step = rng.uniform(0.01, 0.5, (patches, channels)).astype(np.float32)
    codec = make_codec("q2", patches, dim, TransformBasis(mean, forward, inverse, step, counts))
    rows = rng.integers(0, 256, (5, codec.stride), dtype=np.uint8)
    rows[:, -5 * patches : -4 * patches] = rng.integers(100, 140, (5, patches))
    u, c = ask(codec, 2, 8, size=0.01)
    check(codec, rows, u, c)


def test_the_zero_keys_share() -> None:
    codec, rows = make("fp16", 2, 9, 4)
    u = np.zeros((1, 3, 4), np.float32)
    _, share = attend(codec, rows, u, np.asarray([[0, 80, -80]], np.float32))
    np.testing.assert_allclose(share, np.broadcast_to([0.9, 1.0, 0.0], share.shape), atol=1e-6)


def test_exp_is_exact_to_the_last_digits() -> None:
    """Of two patches, one has a logit lower by x; the ratio of their shares is e^x."""
    codec = make_codec("fp16", 2, 16)
    differences = np.linspace(-80, 0, 4001).astype(np.float32)
    tokens = np.zeros((1, 2, 16), np.float16)
    tokens[0, 1, 0] = tokens[0, 0, 1] = 1
    ones = np.ones((1, 2), np.float16)
    u = np.zeros((len(differences), 1, 16), np.float32)
    u[:, 0, 0] = differences
    rows = codec.encode(EncodedViews(ones, tokens, ones, ones))
    mixed, _ = attend(codec, rows, u, np.zeros((len(u), 1), np.float32))
    ratio = mixed[0, :, 0, 0].astype(float) / mixed[0, :, 0, 1] / np.exp(differences.astype(float)) - 1
    assert np.abs(ratio).max() <= 1e-5  # The error is the rounding of x log2 e: one unit in the last place of 115.
    assert np.abs(ratio[differences > -1]).max() <= 4e-7


def test_threads_and_repetition_do_not_change_results(subtests: pytest.Subtests) -> None:
    for name in CODECS:
        with subtests.test(name):
            codec, rows = make(name, 127, 49, 64)
            u, c = ask(codec, 2, 4)
            first = attend(codec, rows, u, c, threads=1)
            for threads in (1, 2, 5, None):
                for found, expected in zip(attend(codec, rows, u, c, threads), first, strict=True):
                    np.testing.assert_array_equal(found, expected)
            alone = np.concatenate([attend(codec, rows[i : i + 1], u, c)[0] for i in range(len(rows))])
            np.testing.assert_array_equal(alone, first[0])
            single = np.concatenate([attend(codec, rows, u[q : q + 1], c[q : q + 1])[0] for q in range(2)], axis=1)
            np.testing.assert_array_equal(single, first[0])


def test_codecs_of_equal_size_have_separate_layouts() -> None:
    codec, rows = make("q2", 3, 9, 16)
    other = replace(codec, basis=replace(codec.basis, step=2 * codec.basis.step))  # type: ignore[attr-defined]
    u, c = ask(codec, 1, 2)
    for each in (codec, other, codec):
        check(each, rows, u, c)
