"""Attention over stored rows against float64 written out view by view, with the zero key as a token of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, note
from hypothesis import strategies as st
from random_flair import pool_flair

from flairsearch.basis import Basis, cosine_transform, fit_basis
from flairsearch.codec import AVERAGE_BITS, Codec, make_codec, needs_basis
from flairsearch.records import Encoded, PoolWeights, Query
from flairsearch.rerank_cpu import attend, project_with, score

CODECS = ("fp16", "int8", "q4", "q2", "q1")
ONE_CODEC = st.sampled_from(CODECS).map(lambda name: (name,))  # named cases try all of them
EXACT = 1e-5  # of the largest value: all that float32 sums leave
SCORES = 1e-5  # fp16 is allowed 1e-3, int8 1e-2


def make(name: str, views: int, patches: int, dim: int, seed: int = 0) -> tuple[Codec, np.ndarray]:
    """A codec, and rows u8[n, stride] of tokens that vary more along some channels than along others."""
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(max(views, 8), patches, dim)) * np.logspace(0.5, -1, dim)
    tokens = tokens.astype(np.float16)
    moments = rng.normal(size=(2, *tokens.shape[:2])).astype(np.float16)
    basis = fit_basis(tokens, np.eye(dim, dtype=np.float32), AVERAGE_BITS[name]) if needs_basis(name) else None
    codec = make_codec(name, patches, dim, basis)
    return codec, codec.encode(Encoded(tokens[:, 0], tokens, *moments))[:views]


def ask(codec: Codec, queries: int, heads: int, seed: int = 1, size: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Folded queries u f32[Q, H, C], c f32[Q, H]."""
    rng = np.random.default_rng(seed)
    shapes = ((heads, codec.dim), (heads,))
    parts = [[(size * rng.normal(size=s)).astype(np.float32) for s in shapes] for _ in range(queries)]
    folded = [codec.fold(Query("", np.zeros(codec.dim, np.float32), u, c)) for u, c in parts]
    return np.stack([q.u for q in folded]), np.stack([q.c for q in folded])


def coordinates(codec: Codec, rows: np.ndarray) -> np.ndarray:
    """Tokens over patches in the codec's coordinates, f64[n, P, C]."""
    y = codec.decode(rows).astype(np.float64)
    return y if codec.spatial is None else np.einsum("fp,nfc->npc", cosine_transform(codec.patches).astype(float), y)


def by_hand(x: np.ndarray, u: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x f64[n, P, C] -> mixed f64[n, Q, H, C], share f64[n, Q, H]: softmax over P + 1 keys, the last value nothing."""
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


@given(
    names=ONE_CODEC,
    views=st.integers(0, 20),
    patches=st.sampled_from([1, 9, 14, 49]) | st.integers(1, 49),
    dim=st.sampled_from([4, 64, 100]) | st.integers(4, 100),
    heads=st.integers(1, 9),
    queries=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
@example(names=CODECS, views=0, patches=49, dim=64, heads=8, queries=1, seed=0)
@example(names=CODECS, views=1, patches=196, dim=512, heads=8, queries=1, seed=0)
@example(names=CODECS, views=3, patches=196, dim=256, heads=8, queries=2, seed=0)
@example(names=CODECS, views=3, patches=196, dim=64, heads=4, queries=64, seed=0)
@example(names=CODECS, views=127, patches=49, dim=64, heads=1, queries=5, seed=0)
@example(names=CODECS, views=127, patches=9, dim=4, heads=8, queries=1, seed=0)
@example(names=CODECS, views=3, patches=1, dim=64, heads=4, queries=2, seed=0)
@example(names=CODECS, views=127, patches=1, dim=4, heads=1, queries=1, seed=0)
@example(
    names=CODECS, views=3, patches=14, dim=100, heads=3, queries=3, seed=0
)  # no square, no whole vectors, 9 heads in all
def test_equals_float64(
    names: Sequence[str], views: int, patches: int, dim: int, heads: int, queries: int, seed: int
) -> None:
    for name in names:
        note(name)
        codec, rows = make(name, views, patches, dim, seed)
        check(codec, rows, *ask(codec, queries, heads, size=dim**-0.5))


@given(seed=st.integers(0, 2**32 - 1))
@example(seed=0)
@example(seed=1)
def test_a_ragged_basis_equals_float64(seed: int) -> None:
    """Any numbers of 8-, 4- and 2-bit codes at each frequency, none too; numbers of bits in no order."""
    rng = np.random.default_rng(seed)
    patches, dim = (49, 60) if seed % 2 else (15, 93)
    counts = np.stack([rng.integers(0, 20, patches), 2 * rng.integers(0, 9, patches), 4 * rng.integers(0, 6, patches)])
    counts[:, 3] = 0
    counts = counts.astype(np.uint16)
    channels = int(counts.sum(0).max())
    parts = ((dim,), (dim, channels), (channels, dim))
    mean, forward, inverse = (rng.normal(size=shape).astype(np.float32) for shape in parts)
    step = rng.uniform(0.01, 0.5, (patches, channels)).astype(np.float32)
    codec = make_codec("q2", patches, dim, Basis(mean, forward, inverse, step, counts))
    rows = rng.integers(0, 256, (5, codec.stride), dtype=np.uint8)
    rows[:, -5 * patches : -4 * patches] = rng.integers(100, 140, (5, patches))
    u, c = ask(codec, 2, 8, size=0.01)
    check(codec, rows, u, c)


def test_scores_after_the_projections(subtests: pytest.Subtests) -> None:
    for name, heads in product(CODECS, (4, 8)):
        with subtests.test(name, heads=heads):
            check_scores(name, heads)


def check_scores(name: str, heads: int) -> None:
    """Against float64 of the same decoded tokens: 1e-5 relative, far inside what a codec itself costs."""
    codec, rows = make(name, 9, 49, 64)
    model = pool_flair(64, heads)
    weights = codec.fold_weights(model.folding.weights)
    text = np.random.default_rng(3).normal(size=(2, 64)).astype(np.float32)
    folded = [codec.fold(Query("", t, u, c)) for t, u, c in zip(text, *model.folding.fold(text), strict=True)]
    u, c = np.stack([q.u for q in folded]), np.stack([q.c for q in folded])

    def project(mixed: np.ndarray, share: np.ndarray) -> np.ndarray:
        value, bias, out, out_bias = (
            np.asarray(part, float) for part in (weights.value, weights.value_bias, weights.out, weights.out_bias)
        )
        heads = np.einsum("nqhc,hdc->nqhd", mixed, value) + share[..., None] * bias
        pooled = heads.reshape(*heads.shape[:2], -1) @ out.T + out_bias
        return np.einsum("nqd,qd->nq", pooled, text) / np.linalg.norm(pooled, axis=-1) / np.linalg.norm(text, axis=1)

    expected = project(*by_hand(coordinates(codec, rows), u, c))
    found = project(*(part.astype(float) for part in attend(codec, rows, u, c)))
    assert np.abs(found - expected).max() <= SCORES * np.abs(expected).max()
    found = score(codec, rows, project_with(weights), u, c, text)
    assert (found.dtype, found.shape) == (np.float32, (9, 2))
    assert np.abs(found - expected).max() <= SCORES * np.abs(expected).max()


@pytest.mark.filterwarnings("error::RuntimeWarning")
@given(names=ONE_CODEC, bias=st.floats(-80, 80, width=32))
@example(names=CODECS, bias=-80.0)
@example(names=CODECS, bias=0.0)
@example(names=CODECS, bias=80.0)
def test_extreme_logits(names: Sequence[str], bias: float) -> None:
    for name in names:
        note(name)
        codec, rows = make(name, 3, 49, 64)
        u, c = ask(codec, 1, 8, size=1.0)
        check(codec, rows, u, c + np.float32(bias), 1e-4)
        check(codec, rows, 0 * u, 0 * c + np.float32(bias))  # all alike: the zero key has all, nothing, or 1 / (P + 1)
        for factor in (1e3, 1e6, 1e20):
            mixed, share = attend(codec, rows, np.float32(factor) * u, c + np.float32(bias))
            assert np.isfinite(mixed).all()
            assert ((share >= 0) & (share <= 1 + 1e-6)).all()
            assert np.abs(mixed).max() <= 2 * np.abs(coordinates(codec, rows)).max()


def test_the_zero_keys_share() -> None:
    codec, rows = make("fp16", 2, 9, 4)
    u = np.zeros((1, 3, 4), np.float32)
    _, share = attend(codec, rows, u, np.asarray([[0, 80, -80]], np.float32))
    np.testing.assert_allclose(share, np.broadcast_to([0.9, 1.0, 0.0], share.shape), atol=1e-6)


def test_exp_is_exact_to_the_last_places() -> None:
    """Two patches, one of them with a logit of x below the other's: their share is e^x."""
    codec = make_codec("fp16", 2, 16)
    differences = np.linspace(-80, 0, 4001).astype(np.float32)
    tokens = np.zeros((1, 2, 16), np.float16)
    tokens[0, 1, 0] = tokens[0, 0, 1] = 1
    ones = np.ones((1, 2), np.float16)
    u = np.zeros((len(differences), 1, 16), np.float32)
    u[:, 0, 0] = differences
    rows = codec.encode(Encoded(ones, tokens, ones, ones))
    mixed, _ = attend(codec, rows, u, np.zeros((len(u), 1), np.float32))
    ratio = mixed[0, :, 0, 0].astype(float) / mixed[0, :, 0, 1] / np.exp(differences.astype(float)) - 1
    assert np.abs(ratio).max() <= 1e-5  # x log2 e rounded: a unit in the last place of 115
    assert np.abs(ratio[differences > -1]).max() <= 4e-7


def test_threads_and_runs_make_no_difference(subtests: pytest.Subtests) -> None:
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


def test_rows_of_any_kind(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """Memory-mapped, read-only, every second one, or in the middle of wider ones; they are left alone."""
    for name, patches in product(CODECS, (1, 49)):
        with subtests.test(name, patches=patches):
            codec, rows = make(name, 6, patches, 64)
            u, c = ask(codec, 1, 4)
            expected, before = attend(codec, rows, u, c)[0], rows.copy()
            file = tmp_path / f"{name}-{patches}"
            rows.tofile(file)
            mapped = np.memmap(file, np.uint8, "r", shape=rows.shape)
            frozen = rows.copy()
            frozen.flags.writeable = False
            wide = np.full((6, codec.stride + 7), 255, np.uint8)
            wide[:, 3:-4] = rows
            for kind in (mapped, frozen, np.repeat(rows, 2, axis=0)[::2], np.asfortranarray(rows), wide[:, 3:-4]):
                np.testing.assert_array_equal(attend(codec, kind, u, c)[0], expected)
            np.testing.assert_array_equal(attend(codec, mapped[2:5], u, c)[0], expected[2:5])
            np.testing.assert_array_equal(rows, before)


def test_two_codecs_of_one_size_are_kept_apart() -> None:
    codec, rows = make("q2", 3, 9, 16)
    other = replace(codec, basis=replace(codec.basis, step=2 * codec.basis.step))  # type: ignore[attr-defined]
    u, c = ask(codec, 1, 2)
    for each in (codec, other, codec):
        check(each, rows, u, c)


@given(queries=st.integers(1, 9), heads=st.integers(1, 8), size=st.integers(4, 16))
@example(queries=1, heads=8, size=8)
@example(queries=3, heads=3, size=5)
@example(queries=64, heads=2, size=2)
@example(queries=1, heads=1, size=13)
@example(queries=9, heads=4, size=128)
def test_score_is_attend_and_the_projections(queries: int, heads: int, size: int) -> None:
    """Sizes that fill no vector, more queries than a thread takes views; 0 views, 1, and some pieces."""
    dim = heads * size
    rng = np.random.default_rng(5)
    codec, rows = make("int8", 70, 9, dim)
    shapes = ((heads, dim // heads, dim), (heads, dim // heads), (dim, dim), (dim,), (queries, dim))
    value, value_bias, out, out_bias, text = (rng.normal(size=s).astype(np.float32) for s in shapes)
    u, c = ask(codec, queries, heads, size=dim**-0.5)
    mixed, share = (part.astype(float) for part in attend(codec, rows, u, c))
    joined = np.einsum("nqhc,hdc->nqhd", mixed, value, optimize=True) + share[..., None] * value_bias
    pooled = joined.reshape(70, queries, dim) @ out.T.astype(float) + out_bias
    expected = np.einsum("nqd,qd->nq", pooled, text) / np.linalg.norm(pooled, axis=2) / np.linalg.norm(text, axis=1)
    projection = project_with(PoolWeights(value, value_bias, out, out_bias, 1.0, 0.0))
    for count in (0, 1, 70):
        found = score(codec, rows[:count], projection, u, c, text)
        np.testing.assert_allclose(found, expected[:count], rtol=0, atol=SCORES)
        np.testing.assert_array_equal(found, score(codec, rows[:count], projection, u, c, text))
