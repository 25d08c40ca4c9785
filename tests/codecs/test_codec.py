"""Codecs against quantisers, parsers and a pool written by hand, in float64."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from flairsearch.codecs.codec import AVERAGE_BITS, check_codec, make_codec, needs_basis
from flairsearch.codecs.transform import TransformBasis, fit_basis
from flairsearch.core.errors import StoreError, UsageError
from flairsearch.core.types import EncodedText, EncodedViews, PoolWeights
from flairsearch.rerank.torch_backend import TorchPool

P, D = 6, 10


def random_local(count=5, seed=0):
    return np.random.default_rng(seed).normal(3, 2, (count, P, D))


def normed(local):
    """LayerNorm without gain, in float64: x, r and s with local = s (x + r)."""
    mean = local.mean(-1, keepdims=True)
    scale = np.sqrt(local.var(-1, keepdims=True) + 1e-5)
    columns = ((local - mean) / scale, (mean / scale)[..., 0], scale[..., 0])
    return EncodedViews(np.ones((len(local), D), np.float16), *(column.astype(np.float16) for column in columns))


def test_fp16_restores_every_bit():
    encoded, codec = normed(random_local()), make_codec("fp16", P, D)
    rows = codec.encode(encoded)
    assert rows.dtype == np.uint8
    assert rows.shape == (5, codec.stride) == (5, 2 * P * D + 4 * P)
    shift, scale = codec.decode_token_stats(rows)
    for found, expected in ((codec.decode(rows), encoded.tokens), (shift, encoded.shift), (scale, encoded.scale)):
        np.testing.assert_array_equal(found.view(np.uint16), expected.view(np.uint16))


def test_fp16_restores_the_local_tokens():
    local = random_local()
    codec = make_codec("fp16", P, D)
    rows = codec.encode(normed(local))
    shift, scale = (stat.astype(np.float64)[..., None] for stat in codec.decode_token_stats(rows))
    again = scale * (codec.decode(rows).astype(np.float64) + shift)
    np.testing.assert_allclose(again, local, atol=3 * 2**-11 * 9)  # Numbers below 9 are rounded to 11 bits three times.


def test_rows_are_little_endian_and_tokens_come_first():
    tokens = np.zeros((1, P, D), np.float16)
    tokens[0, 0, 1] = 1.0
    encoded = EncodedViews(tokens[:, 0], tokens, np.full((1, P), 2, np.float16), np.full((1, P), -2, np.float16))
    row = make_codec("fp16", P, D).encode(encoded)[0].tobytes()
    assert row[:4] == b"\x00\x00\x00\x3c"
    assert row[2 * P * D :] == b"\x00\x40" * P + b"\x00\xc0" * P


def test_one_view_of_a_row_is_that_row():
    encoded, codec = normed(random_local(9)), make_codec("fp16", P, D)
    rows = codec.encode(encoded)
    np.testing.assert_array_equal(codec.decode(rows[[7, 2]]), encoded.tokens[[7, 2]])


def test_an_unknown_codec_is_named():
    with pytest.raises(UsageError, match="no token codec named 'int9' - use one of fp16, int8, q4, q2, q1"):
        check_codec("int9")
    with pytest.raises(StoreError, match=r"the index names a codec 'int9' .* - update flairsearch"):
        make_codec("int9", P, D)
    assert [name for name in ("fp16", "int8", "q4", "q2", "q1") if needs_basis(check_codec(name))] == ["q4", "q2", "q1"]


@pytest.mark.parametrize("size", [None, (P, D - 1), (P, D + 1), (P - 1, D), (P + 3, D)])
def test_a_basis_of_another_size_is_refused(size):
    basis = size and make_basis(*size)
    with pytest.raises(StoreError, match="the basis of codec q2 is missing or of another size"):
        make_codec("q2", P, D, basis)


# -- All codecs


def random_token_stats(encoded, seed=0):
    """The same tokens with token statistics of random bits: subnormal, infinite, not a number."""
    bits = np.random.default_rng(seed).integers(0, 1 << 16, (2, *encoded.shift.shape), np.uint16)
    return EncodedViews(encoded.pooled, encoded.tokens, *bits.view(np.float16))


def make_test_codec(name):
    return make_codec(name, P, D, make_basis(P, D) if needs_basis(name) else None)


@pytest.mark.parametrize("name", ["fp16", "int8", "q2"])
def test_token_stats_are_restored_bit_for_bit(name):
    encoded, codec = random_token_stats(normed(random_local(7))), make_test_codec(name)
    rows = codec.encode(encoded)
    assert rows.shape == (7, codec.stride)
    for found, expected in zip(codec.decode_token_stats(rows), (encoded.shift, encoded.scale), strict=True):
        np.testing.assert_array_equal(found.view(np.uint16), expected.view(np.uint16))


@pytest.mark.parametrize("name", ["fp16", "int8", "q2"])
def test_rows_do_not_depend_on_the_run_or_on_memory(name):
    encoded, codec = normed(random_local(70)), make_test_codec(name)
    rows = codec.encode(encoded)
    np.testing.assert_array_equal(codec.encode(encoded), rows)
    other = EncodedViews(*(np.asfortranarray(column) for column in vars(encoded).values()))
    np.testing.assert_array_equal(codec.encode(other), rows)
    strided = np.repeat(rows, 2, axis=0)[::2]  # These rows are strided, as those of a mapped file may be.
    np.testing.assert_array_equal(codec.decode(strided), codec.decode(rows))
    np.testing.assert_array_equal(codec.restore(rows[[9, 3]]), codec.restore(rows)[[9, 3]])


# -- int8


def test_int8_equals_a_quantiser_by_hand():
    tokens = (np.random.default_rng(0).normal(0, 3, (5, P, D)) * np.logspace(-3, 3, 5)[:, None, None]).astype(
        np.float16
    )
    tokens[0, 0], tokens[1, 1, 3:], tokens[2, 2] = 0, 0, -1.5
    tokens[3, 3, 4] = 60000  # The other numbers of this token are below 1.
    codec, flat = make_codec("int8", P, D), np.zeros((5, P), np.float16)
    rows = codec.encode(EncodedViews(tokens[:, 0], tokens, flat, flat))
    assert codec.stride == P * D + 2 * P + 4 * P
    found, restored = codec.decode(rows).astype(np.float64), codec.restore(rows).astype(np.float64)
    for view, patch in itertools.product(range(5), range(P)):
        x = tokens[view, patch].astype(np.float64)
        step = float(np.float16(np.abs(x).max() / 127)) or 1.0
        codes = [max(-127, min(127, round(v / step))) for v in x]
        row = rows[view].tobytes()
        assert [b - 256 * (b > 127) for b in row[patch * D : (patch + 1) * D]] == codes
        assert row[P * D + 2 * patch : P * D + 2 * patch + 2] == np.float16(step).tobytes()
        np.testing.assert_allclose(found[view, patch], np.multiply(codes, step), rtol=2**-11, atol=2**-25)
        np.testing.assert_allclose(restored[view, patch], np.multiply(codes, step), rtol=2**-11, atol=2**-25)
        # The slack is 127 / 2^11 = 0.062 steps.
        assert np.abs(restored[view, patch] - x).max() <= 0.57 * step + np.abs(x).max() * 2**-11


# -- q4, q2, q1: 8, 4 and 2 bits in a basis

STEP = {8: 0.0308, 4: 0.3352, 2: 0.9957}  # Quantiser steps for a Gaussian of variance 1 (Max, 1960).
SIZES = [(1, 11, 1), (4, 13, 41), (5, 13, 7), (9, 11, 33), (16, 24, 3)]  # Each row is (patches, dim, views).


def make_basis(patches, dim, seed=0, counts=None):
    """A random basis that is not orthogonal, with random counts and steps."""
    rng = np.random.default_rng(seed)
    if counts is None:  # Draw counts of every width; some frequencies have no coded number.
        counts = np.stack(
            [rng.integers(0, 3, patches), 2 * rng.integers(0, 2, patches), 4 * rng.integers(0, 2, patches)]
        )
        counts[:, 0] = 2, 2, 4
        counts[:, 1:2] = 0
    counts = np.asarray(counts, np.uint16)
    channels = int(counts.sum(0).max())
    matrix = rng.normal(size=(dim, dim)) / (3 * dim**0.5) + np.eye(dim)
    step = [[STEP[w or 2] * rng.uniform(0.5, 2) for w in line] for line in bit_widths(counts, channels).tolist()]
    columns = (rng.normal(size=dim), matrix[:, :channels], np.linalg.inv(matrix)[:channels], step)
    return TransformBasis(*(np.ascontiguousarray(column, np.float32) for column in columns), counts)


def bit_widths(counts, channels):
    """The bits of every number, i64[F, C]: at f the first counts[0, f] have 8, then 4, then 2, all others 0."""
    widths = np.zeros((counts.shape[1], channels), np.int64)
    for f, (eights, fours, twos) in enumerate(np.asarray(counts, int).T):
        widths[f, : eights + fours + twos] = [8] * eights + [4] * fours + [2] * twos
    return widths


def transform(patches):
    """The orthonormal DCT-II over a square grid, or over a line if P is not a square, f64[F, P]."""
    side = math.isqrt(patches)
    grid = (side, side) if side * side == patches else (1, patches)
    places = list(itertools.product(*map(range, grid)))
    matrix = np.ones((patches, patches))
    for (f, frequency), (p, place) in itertools.product(enumerate(places), enumerate(places)):
        for k, i, n in zip(frequency, place, grid, strict=True):
            matrix[f, p] *= math.sqrt((2 if k else 1) / n) * math.cos(math.pi * k * (2 * i + 1) / (2 * n))
    return matrix


def in_steps(tokens, basis):
    """Coordinates in units of their step, before any gain, f64[n, F, C]."""
    mean, forward, step = (c.astype(np.float64) for c in (basis.mean, basis.forward, basis.step))
    return np.einsum("fp,npd,dc->nfc", transform(len(step)), tokens.astype(np.float64) - mean, forward) / step


def read_by_hand(row, basis):
    """Parse the bytes of a row: codes i64[F, C] (-1: no code), gain codes i64[F], and the remaining bytes."""
    patches, channels = basis.step.shape
    widths, codes, at = bit_widths(basis.counts, channels), np.full((patches, channels), -1), 0
    for width in (8, 4, 2):
        places = [(f, c) for f in range(patches) for c in range(channels) if widths[f, c] == width]
        size, spare = divmod(len(places) * width, 8)
        assert spare == 0
        bits = int.from_bytes(row[at : at + size], "little")
        for i, place in enumerate(places):
            codes[place] = bits >> (i * width) & ((1 << width) - 1)
        at += size
    return codes, np.frombuffer(row[at : at + patches], np.uint8).astype(int), row[at + patches :]


def values_by_hand(row, basis):
    """The coordinates of a row, f64[F, C]: the midpoint of each code's interval, times step and gain."""
    codes, gains, _ = read_by_hand(row, basis)
    halves = 2.0 ** (bit_widths(basis.counts, basis.step.shape[1]) - 1)
    factors = np.array([2.0 ** ((int(gain) - 128) / 8) for gain in gains])
    return np.where(codes < 0, 0, (codes - halves + 0.5) * basis.step * factors[:, None])


def restored_by_hand(rows, basis):
    """The tokens of rows u8[n, ...], f64[n, P, D]."""
    y = np.stack([values_by_hand(row.tobytes(), basis) for row in rows])
    return np.einsum("fp,nfc,cd->npd", transform(len(basis.step)), y, basis.inverse.astype(np.float64)) + basis.mean


def heavy_tokens(count, patches, dim, seed=1):
    """Heavy-tailed tokens f16[n, P, D], as some directions of a real tower have."""
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 1.5, (count, patches, dim)) * np.exp(rng.normal(0, 1, (count, patches, dim)))).astype("f2")


def with_token_stats(tokens, seed=0):
    flat = np.random.default_rng(seed).normal(size=(2, *tokens.shape[:2])).astype(np.float16)
    return EncodedViews(tokens[:, 0], tokens, *flat)


@pytest.mark.parametrize(("patches", "dim", "count"), SIZES)
@pytest.mark.parametrize("seed", [0, 1])
def test_codes_in_a_basis_equal_a_quantiser_by_hand(patches, dim, count, seed):
    basis = make_basis(patches, dim, seed)
    codec, encoded = make_codec("q2", patches, dim, basis), with_token_stats(heavy_tokens(count, patches, dim))
    rows = codec.encode(encoded)
    assert rows.shape == (count, codec.stride)
    parts = [read_by_hand(row.tobytes(), basis) for row in rows]
    found, gains = np.stack([part[0] for part in parts]), np.stack([part[1] for part in parts])
    for part, shift, scale in zip(parts, encoded.shift, encoded.scale, strict=True):
        assert part[2] == shift.astype("<f2").tobytes() + scale.astype("<f2").tobytes()

    widths, y = bit_widths(basis.counts, basis.step.shape[1]), in_steps(encoded.tokens, basis)
    with np.errstate(divide="ignore", invalid="ignore"):
        deviations = np.where(widths > 0, basis.step / np.vectorize(lambda width: STEP.get(width, 1.0))(widths), 0)
        squares = np.where(widths > 0, np.square(y * basis.step / deviations), 0)
        energy = np.sqrt((squares * deviations).sum(-1) / deviations.sum(-1))
        octaves = np.clip(np.where(np.nan_to_num(energy) > 0, 8 * np.log2(energy) + 128, 0), 0, 255)
    # Near the edge of two gain codes, float32 may round to either.
    sure = np.abs(octaves - np.floor(octaves) - 0.5) > 1e-3
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(gains[sure], np.rint(octaves[sure]))
    assert np.abs(gains - octaves).max() < 0.502

    kept, half = widths > 0, 2.0 ** (widths - 1)
    y = y / 2.0 ** ((gains - 128) / 8)[..., None]
    expected = np.where(kept, np.clip(np.floor(y), -half, half - 1) + half, -1)
    sure = np.abs(y - np.rint(y)) > 1e-3 + 1e-5 * np.abs(y)
    assert sure[:, kept].mean() > 0.97
    np.testing.assert_array_equal(found[sure], expected[sure])
    assert (np.abs(found - expected) <= 1).all()

    error, inside = np.abs(found - half + 0.5 - y), kept & (y > -half) & (y < half)
    assert error[inside].max() <= 0.502  # The error is at most half a step, times the gain.
    low, high = kept & (y < -half - 0.01), kept & (y > half + 0.01)  # These numbers are clipped.
    assert (found[low] == 0).all()
    assert (found[high] == np.broadcast_to(2 * half - 1, found.shape)[high]).all()
    assert (low.any() and high.any()) or count < 5

    decoded = codec.decode(rows)
    assert (decoded.dtype, decoded.shape) == (np.float32, (count, *basis.step.shape))
    values = np.stack([values_by_hand(row.tobytes(), basis) for row in rows])
    np.testing.assert_allclose(decoded, values, rtol=2e-6)
    x = restored_by_hand(rows, basis)
    np.testing.assert_allclose(codec.restore(rows), x, rtol=2**-10, atol=1e-4 * np.abs(x).max())
    again = codec.restore_all(rows, encoded.pooled)
    for name in ("pooled", "shift", "scale"):
        np.testing.assert_array_equal(getattr(again, name), getattr(encoded, name))
    np.testing.assert_array_equal(again.tokens, codec.restore(rows))


def test_a_row_written_out():
    """One patch with one channel of 8 bits, two of 4 and four of 2; all bytes were computed by hand."""
    eye, step = np.eye(7, dtype=np.float32), np.asarray([[0.0308] + [0.3352] * 2 + [0.9957] * 4], np.float32)
    basis = TransformBasis(np.full(7, 0.5, np.float32), eye, eye, step, np.asarray([[1], [2], [4]], np.uint16))
    codec = make_codec("q2", 1, 7, basis)
    row = np.asarray([[130, 0xF0, 0b11_10_01_00, 136, 0, 0x3C, 0, 0xC0]], np.uint8)
    assert codec.stride == 8
    y = 2 * step[0] * [2.5, -7.5, 7.5, -1.5, -0.5, 0.5, 1.5]  # Gain code 136 is an octave above the sample.
    np.testing.assert_allclose(codec.decode(row)[0, 0], y, rtol=1e-6)
    np.testing.assert_allclose(codec.restore(row)[0, 0], y + 0.5, rtol=1e-3)
    assert [part.tolist() for part in codec.decode_token_stats(row)] == [[[1.0]], [[-2.0]]]
    # The weighted mean square of the coordinates is 2.931, its root 1.712; the nearest gain is 2^(6/8) = 1.682.
    tokens = np.asarray([[[0.308, -1.676, 1.676, -1.9914, -0.99, 0.99, 2.98]]]) + 0.5
    one = np.ones((1, 1), np.float16)
    np.testing.assert_array_equal(
        codec.encode(EncodedViews(one, tokens.astype(np.float16), one, -2 * one)),
        [[128 + 5, (8 + 2) << 4 | (8 - 3), 0b11_10_01_00, 128 + 6, 0, 0x3C, 0, 0xC0]],
    )


@pytest.mark.parametrize("width", [8, 4, 2])
def test_every_byte_and_every_gain_is_decoded(width):
    count = 8 // width
    eye, step = np.eye(count, dtype=np.float32), np.full((1, count), 0.75, np.float32)
    counts = np.asarray([[count * (width == w)] for w in (8, 4, 2)], np.uint16)
    codec = make_codec("q2", 1, count, TransformBasis(np.zeros(count, np.float32), eye, eye, step, counts))
    rows = np.zeros((2, 256, codec.stride), np.uint8)
    rows[0, :, 0], rows[0, :, 1], rows[1, :, 0], rows[1, :, 1] = np.arange(256), 128, 200, np.arange(256)
    codes = [[byte >> (i * width) & ((1 << width) - 1) for i in range(count)] for byte in range(256)]
    values = (np.asarray(codes) - 2.0 ** (width - 1) + 0.5) * 0.75
    np.testing.assert_array_equal(codec.decode(rows[0])[:, 0], values)
    np.testing.assert_allclose(
        codec.decode(rows[1])[:, 0], values[200] * 2.0 ** ((np.arange(256) - 128) / 8)[:, None], rtol=1e-6
    )


def test_the_stride_is_the_length_of_a_row(subtests):
    for name, patches, dim in itertools.product(AVERAGE_BITS, (49, 64, 196), (4, 64, 256)):
        with subtests.test(name, patches=patches, dim=dim):
            check_stride(name, patches, dim)


def check_stride(name, patches, dim):
    rng = np.random.default_rng(0)
    tokens = (rng.normal(size=(3, patches, dim)) * np.logspace(1, -1, dim)).astype(np.float16)
    basis = fit_basis(tokens, np.eye(dim, dtype=np.float32), AVERAGE_BITS[name])
    codec = make_codec(name, patches, dim, basis)
    bits = int(bit_widths(basis.counts, basis.step.shape[1]).sum())
    rows = codec.encode(with_token_stats(tokens))
    assert rows.shape == (3, codec.stride) == (3, bits // 8 + 5 * patches)
    x = restored_by_hand(rows[:1], basis) if patches * dim < 5000 else None
    if x is not None:
        np.testing.assert_allclose(codec.restore(rows[:1]), x, rtol=2**-10, atol=1e-4 * np.abs(x).max())


@given(count=st.integers(1, 70), name=st.sampled_from(["int8", "q2"]))
@example(count=1, name="int8")
@example(count=33, name="int8")
@example(count=65, name="int8")
@example(count=1, name="q2")
@example(count=31, name="q2")
@example(count=32, name="q2")
@example(count=33, name="q2")
@example(count=65, name="q2")
def test_a_view_is_encoded_alike_alone_and_among_others(name, count):
    codec, encoded = make_test_codec(name), with_token_stats(heavy_tokens(count, P, D))
    rows = codec.encode(encoded)
    one = [codec.encode(EncodedViews(*(c[i : i + 1] for c in vars(encoded).values()))) for i in range(count)]
    np.testing.assert_array_equal(rows, np.concatenate(one))
    np.testing.assert_array_equal(codec.decode(rows), np.concatenate([codec.decode(row) for row in one]))
    np.testing.assert_array_equal(codec.restore(rows), np.concatenate([codec.restore(row) for row in one]))
    assert codec.decode(rows[:0]).shape == (0, *codec.decode(rows).shape[1:])
    assert codec.restore(rows[:0]).shape == (0, P, D)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_constant_views_are_finite():
    basis = make_basis(9, 11)
    codec = make_codec("q4", 9, 11, basis)
    tokens = np.zeros((5, 9, 11), np.float16)
    tokens[1], tokens[2] = basis.mean, 3
    tokens[3, 4], tokens[4, :, 2] = 100, -100
    rows = codec.encode(with_token_stats(tokens))
    assert np.isfinite(codec.restore(rows)).all()
    # This view is the mean itself, so all its coordinates are small.
    assert np.abs(codec.restore(rows)[1] - basis.mean).max() < 0.01


# -- The query folded into the basis


def pool_by_hand(x, query, weights):
    """Scores f64[N] and attention f64[N, P] of tokens f64[N, P, D], patch by patch, with an explicit zero key."""
    u, c, text = (part.astype(np.float64) for part in (query.u, query.c, query.vector))
    value, value_bias, out, out_bias = (
        part.astype(np.float64) for part in (weights.value, weights.value_bias, weights.out, weights.out_bias)
    )
    scores, attention = np.zeros(len(x)), np.zeros(x.shape[:2])
    for n, tokens in enumerate(x):
        heads = []
        for h in range(len(u)):
            exponents = np.exp([*(tokens @ u[h] + c[h]), 0.0])
            share = exponents[:-1] / exponents.sum()
            heads.append(sum(a * (value[h] @ token + value_bias[h]) for a, token in zip(share, tokens, strict=True)))
            attention[n] += share / len(u)
        pooled = out @ np.concatenate(heads) + out_bias
        scores[n] = pooled @ text / np.linalg.norm(pooled) / np.linalg.norm(text)
    return scores, attention


def random_pool(heads, size, dim, seed=0):
    rng = np.random.default_rng(seed)
    parts = ((heads, size, dim), (heads, size), (dim, heads * size), (dim,), (dim,), (heads, dim), (heads,))
    value, value_bias, out, out_bias, text, u, c = (rng.normal(size=s).astype(np.float32) for s in parts)
    return EncodedText("", text, u / dim**0.5, c), PoolWeights(value, value_bias, out, out_bias, 1.0, 0.0)


@pytest.mark.parametrize("name", ["fp16", "int8", "q2"])
@pytest.mark.parametrize(
    ("patches", "dim", "heads", "size"), [(7, 15, 3, 5), (1, 11, 1, 11), (9, 14, 2, 3), (49, 24, 2, 8)]
)
def test_coordinates_and_the_folded_query_score_as_the_restored_tokens(name, patches, dim, heads, size):
    basis = make_basis(patches, dim)
    codec = make_codec(name, patches, dim, basis if needs_basis(name) else None)
    tokens = np.random.default_rng(2).normal(0, 1, (9, patches, dim)).astype(np.float16)
    rows = codec.encode(with_token_stats(tokens))
    query, weights = random_pool(heads, size, dim)
    # `restore` would round to float16.
    x = restored_by_hand(rows, basis) if needs_basis(name) else codec.decode(rows).astype(np.float64)
    expected, share = pool_by_hand(x, query, weights)
    folded, folded_weights = codec.fold(query), codec.fold_weights(weights)
    for dtype, tolerance in ((torch.float64, 2e-6), (torch.float32, 2e-5)):
        reranker = TorchPool(folded_weights, dtype=dtype, spatial=codec.spatial)
        scores, attention = (f([codec.decode(rows)], folded) for f in (reranker.score, reranker.attend))
        np.testing.assert_allclose(scores, expected, atol=tolerance)
        np.testing.assert_allclose(attention, share, atol=tolerance)
        assert attention.shape == (9, patches)  # Attention is over patches, not over frequencies.
        assert (attention > 0).all()
        assert (attention.sum(1) < 1).all()  # The zero key has the rest.
    assert (folded.text, folded.u.dtype, folded.c.dtype) == (query.text, np.float32, np.float32)
    np.testing.assert_array_equal(folded.vector, query.vector)
    assert folded_weights.value.dtype == folded_weights.value_bias.dtype == np.float32


def test_codecs_without_a_basis_have_no_frequencies():
    assert [make_codec(name, P, D).spatial for name in ("fp16", "int8")] == [None, None]
    np.testing.assert_allclose(make_test_codec("q2").spatial, transform(P), atol=1e-6)
