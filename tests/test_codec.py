"""Codecs against quantisers, parsers and searches written by hand, in float64."""

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest

from flairsearch.codec import AVERAGE_BITS, Basis, allocate_bits, check_codec, fit_basis, make_codec, needs_basis
from flairsearch.errors import StoreError
from flairsearch.records import Encoded, PoolWeights, Query

P, D = 6, 10


def random_local(count=5, seed=0):
    return np.random.default_rng(seed).normal(3, 2, (count, P, D))


def normed(local):
    """float64 LayerNorm without gain: x, r, s with local = s (x + r)."""
    mean = local.mean(-1, keepdims=True)
    scale = np.sqrt(local.var(-1, keepdims=True) + 1e-5)
    columns = ((local - mean) / scale, (mean / scale)[..., 0], scale[..., 0])
    return Encoded(np.ones((len(local), D), np.float16), *(column.astype(np.float16) for column in columns))


def test_fp16_gives_every_bit_back():
    encoded, codec = normed(random_local()), make_codec("fp16", P, D)
    rows = codec.encode(encoded)
    assert rows.dtype == np.uint8
    assert rows.shape == (5, codec.stride) == (5, 2 * P * D + 4 * P)
    shift, scale = codec.decode_moments(rows)
    for found, expected in ((codec.decode(rows), encoded.tokens), (shift, encoded.shift), (scale, encoded.scale)):
        np.testing.assert_array_equal(found.view(np.uint16), expected.view(np.uint16))


def test_fp16_keeps_what_the_local_token_needs():
    local = random_local()
    codec = make_codec("fp16", P, D)
    rows = codec.encode(normed(local))
    shift, scale = (moment.astype(np.float64)[..., None] for moment in codec.decode_moments(rows))
    again = scale * (codec.decode(rows).astype(np.float64) + shift)
    np.testing.assert_allclose(again, local, atol=3 * 2**-11 * 9)  # three roundings to 11 bits of numbers below 9


def test_rows_are_little_endian_and_tokens_come_first():
    tokens = np.zeros((1, P, D), np.float16)
    tokens[0, 0, 1] = 1.0
    encoded = Encoded(tokens[:, 0], tokens, np.full((1, P), 2, np.float16), np.full((1, P), -2, np.float16))
    row = make_codec("fp16", P, D).encode(encoded)[0].tobytes()
    assert row[:4] == b"\x00\x00\x00\x3c"
    assert row[2 * P * D :] == b"\x00\x40" * P + b"\x00\xc0" * P


def test_one_view_of_a_row_is_that_row():
    encoded, codec = normed(random_local(9)), make_codec("fp16", P, D)
    rows = codec.encode(encoded)
    np.testing.assert_array_equal(codec.decode(rows[[7, 2]]), encoded.tokens[[7, 2]])


def test_an_unknown_codec_is_named():
    for ask in (check_codec, lambda name: make_codec(name, P, D)):
        with pytest.raises(StoreError, match="no token codec named 'int9' - use one of fp16, int8, q4, q2, q1"):
            ask("int9")
    assert [name for name in ("fp16", "int8", "q4", "q2", "q1") if needs_basis(check_codec(name))] == ["q4", "q2", "q1"]


@pytest.mark.parametrize("dim", [None, D - 1, D + 1])
def test_a_basis_of_another_size_is_refused(dim):
    basis = dim and made_basis([8, 4, 2], dim)
    with pytest.raises(StoreError, match="the basis of codec q2 is missing or of another size"):
        make_codec("q2", P, D, basis)


# -- what every codec does


def any_moments(encoded, seed=0):
    """Moments of any bits at all: subnormal, infinite, not a number."""
    bits = np.random.default_rng(seed).integers(0, 1 << 16, (2, *encoded.shift.shape), np.uint16)
    return Encoded(encoded.pooled, encoded.tokens, *bits.view(np.float16))


def made_codec(name):
    return make_codec(name, P, D, made_basis([8, 8, 4, 4, 4, 2], D) if needs_basis(name) else None)


@pytest.mark.parametrize("name", ["fp16", "int8", "q2"])
def test_moments_come_back_bit_for_bit(name):
    encoded, codec = any_moments(normed(random_local(7))), made_codec(name)
    rows = codec.encode(encoded)
    assert rows.shape == (7, codec.stride)
    for found, expected in zip(codec.decode_moments(rows), (encoded.shift, encoded.scale), strict=True):
        np.testing.assert_array_equal(found.view(np.uint16), expected.view(np.uint16))


@pytest.mark.parametrize("name", ["fp16", "int8", "q2"])
def test_rows_do_not_depend_on_the_run_or_on_memory(name):
    encoded, codec = normed(random_local(70)), made_codec(name)
    rows = codec.encode(encoded)
    np.testing.assert_array_equal(codec.encode(encoded), rows)
    other = Encoded(*(np.asfortranarray(column) for column in vars(encoded).values()))
    np.testing.assert_array_equal(codec.encode(other), rows)
    odd = np.repeat(rows, 2, axis=0)[::2]  # a view into something larger, as rows of a mapped file are
    np.testing.assert_array_equal(codec.decode(odd), codec.decode(rows))
    np.testing.assert_array_equal(codec.restore(rows[[9, 3]]), codec.restore(rows)[[9, 3]])


# -- int8


def test_int8_equals_a_quantiser_by_hand():
    tokens = (np.random.default_rng(0).normal(0, 3, (5, P, D)) * np.logspace(-3, 3, 5)[:, None, None]).astype(
        np.float16
    )
    tokens[0, 0], tokens[1, 1, 3:], tokens[2, 2] = 0, 0, -1.5
    tokens[3, 3, 4] = 60000  # beside numbers below 1
    codec, flat = make_codec("int8", P, D), np.zeros((5, P), np.float16)
    rows = codec.encode(Encoded(tokens[:, 0], tokens, flat, flat))
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
        assert np.abs(restored[view, patch] - x).max() <= 0.57 * step + np.abs(x).max() * 2**-11  # 127 / 2^11 = 0.062


# -- q4, q2, q1: 8, 4 and 2 bits in a basis


def made_basis(bits, dim, seed=0):
    """A basis that is not orthogonal and has steps of its own; float64 behind float32."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(dim, dim)) / dim**0.5 + np.eye(dim)
    count = len(bits)
    step = {8: 0.02, 4: 0.4, 2: 1.1}
    columns = (rng.normal(size=dim), matrix[:, :count], np.linalg.inv(matrix)[:count], [step[b] for b in bits])
    return Basis(*(np.ascontiguousarray(c, np.float32) for c in columns), np.asarray(bits, np.uint8))


def planes_by_hand(row, basis, patches):
    """The codes i64[P, C] that a row's bytes hold: numbers of a width one after the other, lowest bits first."""
    bits, at, parts = basis.bits.tolist(), 0, []
    for width in (8, 4, 2):
        count = bits.count(width)
        size = -(-count * width // 8)
        part = []
        for _ in range(patches):
            number = int.from_bytes(row[at : at + size], "little")
            assert number >> (count * width) == 0  # what fills the last byte is 0
            part.append([number >> (i * width) & ((1 << width) - 1) for i in range(count)])
            at += size
        parts.append(np.asarray(part, np.int64).reshape(patches, count))
    assert at + 4 * patches == len(row)
    return np.concatenate(parts, axis=1)


def in_steps(tokens, basis):
    """Coordinates f64[..., C] in units of their step."""
    mean, forward, step = (c.astype(np.float64) for c in (basis.mean, basis.forward, basis.step))
    return (tokens.astype(np.float64) - mean) @ forward / step


WIDTHS = [
    [8, 8, 8, 4, 4, 4, 2, 2, 2, 2, 2],  # 3 half bytes and 5 quarters do not fill their bytes
    [8, 4, 2],
    [4] * 5 + [2] * 3,
    [8] * 2 + [2],
    [2] * 7,
    [4] * 11,
    [8] * 11,
]


@pytest.mark.parametrize("bits", WIDTHS, ids=str)
@pytest.mark.parametrize(("patches", "dim", "count"), [(1, 11, 1), (7, 11, 5), (3, 13, 41)])
def test_codes_in_a_basis_equal_a_quantiser_by_hand(bits, patches, dim, count):
    basis = made_basis(bits, dim)
    codec = make_codec("q2", patches, dim, basis)
    tokens = np.random.default_rng(1).normal(0, 1.5, (count, patches, dim)).astype(np.float16)
    moments = np.zeros((count, patches), np.float16)
    rows = codec.encode(Encoded(tokens[:, 0], tokens, moments, moments))
    assert rows.shape == (count, codec.stride)
    y, half = in_steps(tokens, basis), 2.0 ** (np.asarray(bits) - 1)
    expected = np.clip(np.floor(y), -half, half - 1) + half
    found = np.stack([planes_by_hand(row.tobytes(), basis, patches) for row in rows])
    sure = np.abs(y - np.rint(y)) > 1e-3  # float32 may round a number on the edge of two steps to either
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(found[sure], expected[sure])
    assert (np.abs(found - expected) <= 1).all()
    assert {0, (1 << bits[-1]) - 1} <= set(found[..., -1].ravel().tolist()) or count < 5  # both ends are met

    values = found - half + 0.5
    assert np.abs(values - y)[(y > -half) & (y < half)].max() <= 0.501  # half a step where nothing is clipped
    x = values * basis.step @ basis.inverse.astype(np.float64) + basis.mean
    np.testing.assert_allclose(codec.restore(rows), x, rtol=2**-10, atol=2e-5)


def test_all_codes_of_all_widths_come_back():
    """Every byte there is, in each width."""
    for bits in ([8], [4, 4], [2, 2, 2, 2]):
        dim = len(bits)
        eye, step = np.eye(dim, dtype=np.float32), np.ones(dim, np.float32)
        codec = make_codec("q2", 1, dim, Basis(0 * step, eye, eye, step, np.asarray(bits, np.uint8)))
        rows = np.zeros((256, 5), np.uint8)
        rows[:, 0] = np.arange(256)
        values = codec.restore(rows)
        codes = [[byte >> (i * bits[0]) & ((1 << bits[0]) - 1) for i in range(dim)] for byte in range(256)]
        np.testing.assert_array_equal(values[:, 0], np.asarray(codes) - 2.0 ** (bits[0] - 1) + 0.5)
        encoded = Encoded(values[:, 0], values, np.zeros((256, 1), np.float16), np.zeros((256, 1), np.float16))
        np.testing.assert_array_equal(codec.encode(encoded), rows)


# -- the query is folded into the basis


def pool_by_hand(x, query, weights):
    """Scores f64[N] and attention f64[N, P] of tokens f64[N, P, *], patch by patch, the zero key written out."""
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
    return Query("", text, u / dim**0.5, c), PoolWeights(value, value_bias, out, out_bias, 1.0, 0.0)


@pytest.mark.parametrize("name", ["fp16", "int8", "q2"])
@pytest.mark.parametrize(("patches", "dim", "heads", "size"), [(7, 15, 3, 5), (1, 11, 1, 11), (5, 14, 2, 3)])
def test_coordinates_and_the_folded_query_score_as_the_restored_tokens(name, patches, dim, heads, size):
    basis = made_basis(WIDTHS[0], dim)
    codec = make_codec(name, patches, dim, basis if needs_basis(name) else None)
    tokens = np.random.default_rng(2).normal(0, 1, (9, patches, dim)).astype(np.float16)
    moments = np.zeros((9, patches), np.float16)
    rows = codec.encode(Encoded(tokens[:, 0], tokens, moments, moments))
    query, weights = random_pool(heads, size, dim)
    if needs_basis(name):  # as exact as can be: not from restore, which rounds to float16
        codes = np.stack([planes_by_hand(row.tobytes(), basis, patches) for row in rows])
        x = (codes - 2.0 ** (basis.bits.astype(int) - 1) + 0.5) * basis.step @ basis.inverse.astype(float) + basis.mean
    else:
        x = codec.restore(rows).astype(np.float64)
    expected, share = pool_by_hand(x, query, weights)
    folded = codec.fold(query)
    scores, attention = pool_by_hand(codec.decode(rows).astype(np.float64), folded, codec.fold_weights(weights))
    exact = 1e-5 if name != "int8" else 1e-3  # its restored tokens are rounded to float16
    np.testing.assert_allclose(scores, expected, atol=exact)
    np.testing.assert_allclose(attention, share, atol=exact)
    assert np.abs(expected - pool_by_hand(tokens.astype(np.float64), query, weights)[0]).max() < 1  # of the same photo
    assert (folded.text, folded.u.dtype, folded.c.dtype) == (query.text, np.float32, np.float32)
    np.testing.assert_array_equal(folded.vector, query.vector)
    assert codec.fold_weights(weights).value.dtype == codec.fold_weights(weights).value_bias.dtype == np.float32


# -- the basis


def spread_tokens(variances, count=20_000, seed=0):
    """Gaussian tokens f32[n, D] of these variances along the columns of a rotation f64[D, D]."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(len(variances), len(variances))))[0]
    return ((rng.normal(size=(count, len(variances))) * np.sqrt(variances)) @ turn.T + 2).astype(np.float32), turn


def bits_along(basis, turn):
    """Bits u8[D] of the coordinates that look along each column of a rotation."""
    found = np.zeros(len(turn), int)
    looks = np.abs(turn.T @ basis.forward).argmax(0)
    assert len(set(looks.tolist())) == len(looks)
    found[looks] = basis.bits
    return found


@pytest.mark.parametrize("name", AVERAGE_BITS)
def test_a_basis_spends_bits_on_what_varies_and_matters(name):
    variance, matters = np.array([8, 4, 2, 1, 0.5, 0.25]), np.array([1 / 32, 4, 1 / 4, 8, 2, 16])
    tokens, turn = spread_tokens(variance)
    basis = fit_basis(tokens, (turn * matters @ turn.T).astype(np.float32), AVERAGE_BITS[name])
    bits = bits_along(basis, turn)[np.argsort(-variance * matters)]  # what forgetting the direction would cost
    assert bits.tolist() == sorted(bits.tolist(), reverse=True)
    assert bits[0] > bits[-1]
    plain = bits_along(fit_basis(tokens, np.eye(6, dtype=np.float32), AVERAGE_BITS[name]), turn)
    assert plain.tolist() == sorted(plain.tolist(), reverse=True)


@pytest.mark.parametrize("name", AVERAGE_BITS)
@pytest.mark.parametrize("dim", [9, 32])
def test_a_fitted_basis_keeps_its_budget_and_its_inverse(name, dim):
    tokens, _ = spread_tokens(np.logspace(1, -3, dim), 3000)
    metric = np.cov(np.random.default_rng(1).normal(size=(dim, 4 * dim))).astype(np.float32)
    basis = fit_basis(tokens, metric, AVERAGE_BITS[name])
    total = int(basis.bits.sum())
    assert AVERAGE_BITS[name] * dim - 4 < total <= AVERAGE_BITS[name] * dim
    assert basis.bits.tolist() == sorted(basis.bits.tolist(), reverse=True)
    assert set(basis.bits.tolist()) <= {8, 4, 2}
    count = len(basis.bits)
    np.testing.assert_allclose(basis.inverse.astype(float) @ basis.forward.astype(float), np.eye(count), atol=1e-4)
    np.testing.assert_allclose(basis.mean, tokens.mean(0), atol=1e-5)
    y = np.random.default_rng(2).normal(size=(5, count))  # a token of the kept space
    x = y @ basis.inverse.astype(float) + basis.mean
    np.testing.assert_allclose((x - basis.mean) @ basis.forward.astype(float), y, atol=1e-3)


@pytest.mark.parametrize("name", AVERAGE_BITS)
def test_the_error_is_that_of_the_best_uniform_quantiser(name):
    """Max (1960): a Gaussian of variance 1 keeps 0.1188 in 2 bits, 0.01154 in 4, nearly nothing in 8."""
    worth = np.logspace(1, -1, 24)
    tokens, turn = spread_tokens(worth, 60_000)
    basis = fit_basis(tokens, np.eye(24, dtype=np.float32), AVERAGE_BITS[name])
    codec = make_codec(name, 1, 24, basis)
    x, flat = tokens[:, None].astype(np.float16), np.zeros((len(tokens), 1), np.float16)
    error = codec.restore(codec.encode(Encoded(x[:, 0], x, flat, flat))).astype(float) - x
    found = (error[:, 0] @ turn) ** 2
    kept = {0: 1.0, 2: 0.1188, 4: 0.01154, 8: 0.0002}
    expected = sum(worth[i] * kept[int(b)] for i, b in enumerate(bits_along(basis, turn)))
    assert found.sum(1).mean() == pytest.approx(expected, rel=0.12)


DEGENERATE = {
    "one token": np.full((1, 8), 0.5),
    "a constant token": np.full((300, 8), -2.0),
    "zeros": np.zeros((50, 8)),
    "two tokens": np.eye(8)[:2],
    "one direction": np.outer(np.arange(-20, 21), np.eye(8)[3]),
    "a huge outlier": np.concatenate([np.random.default_rng(0).normal(size=(500, 8)), np.full((1, 8), 60000.0)]),
}


@pytest.mark.parametrize("sample", DEGENERATE)
@pytest.mark.parametrize("name", AVERAGE_BITS)
def test_an_odd_sample_gives_finite_numbers(sample, name):
    tokens = DEGENERATE[sample].astype(np.float32)
    metric = np.ones((8, 8), np.float32) if sample == "two tokens" else np.eye(8, dtype=np.float32)  # of rank 1, too
    basis = fit_basis(tokens, metric, AVERAGE_BITS[name])
    assert all(np.isfinite(part).all() for part in vars(basis).values())
    assert (basis.step > 0).all()
    assert 0 < basis.bits.sum() <= 8 * AVERAGE_BITS[name]
    codec = make_codec(name, 1, 8, basis)
    others = np.random.default_rng(1).normal(size=(20, 8))
    x = np.concatenate([tokens, others]).astype(np.float16)[:, None]
    flat = np.zeros((len(x), 1), np.float16)
    found = codec.restore(codec.encode(Encoded(x[:, 0], x, flat, flat))).astype(float)
    assert np.isfinite(found).all()
    if sample in ("one token", "a constant token", "zeros"):
        np.testing.assert_allclose(found[0], x[0], atol=2e-3)
    query, weights = random_pool(2, 4, 8)
    assert np.isfinite(codec.fold(query).u).all()
    assert np.isfinite(codec.fold_weights(weights).value_bias).all()


# -- bits


ERROR = {0: 1.0, 2: 0.1188, 4: 0.01154, 8: 0.0001}


def error_of(variance, bits):
    return sum(v * ERROR[int(b)] for v, b in zip(variance, bits, strict=True))


def least_error(variance, budget):
    choices = (bits for bits in itertools.product(ERROR, repeat=len(variance)) if sum(bits) <= budget)
    return min(error_of(variance, bits) for bits in choices)


@pytest.mark.parametrize("average", [1.0, 2.0, 3.0, 4.0, 8.0])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_no_other_choice_of_bits_is_much_better(average, count):
    """Every choice tried: the greedy one loses at most what the last step is worth."""
    rng = np.random.default_rng(count)
    for spread in (0.5, 2, 5):
        for _ in range(4):
            variance = np.exp(rng.normal(0, spread, count))
            bits = allocate_bits(variance, average)
            budget = int(average * count)
            assert bits.sum() <= budget
            assert set(bits.tolist()) <= set(ERROR)
            assert (np.diff(bits[np.argsort(variance)].astype(int)) >= 0).all()
            error = error_of(variance, bits)
            assert error <= least_error(variance, budget - 2) + 1e-12
            if bits.max() < 8 and budget % 2 == 0:
                assert error == pytest.approx(least_error(variance, budget), abs=5e-3 * variance.max())


def test_bits_of_easy_cases():
    assert allocate_bits(np.asarray([1.0, 1.0]), 2.0).tolist() == [2, 2]
    assert allocate_bits(np.asarray([100.0, 1e-6]), 2.0).tolist() == [4, 0]
    assert allocate_bits(np.asarray([1e-6, 1.0, 1e-6, 1e-6]), 2.0).tolist() == [0, 8, 0, 0]
    assert allocate_bits(np.asarray([1.0, 1.0, 1.0]), 8.0).tolist() == [8, 8, 8]
    assert allocate_bits(np.asarray([1.0, 2.0, 3.0]), 0.5).tolist() == [0, 0, 0]  # 1.5 bits: no room for any
    assert allocate_bits(np.zeros(0), 2.0).tolist() == []


# -- the file of a basis


def test_a_basis_goes_round(tmp_path):
    basis = made_basis(WIDTHS[0], 13)
    basis.save(tmp_path / "1.npz")
    again = Basis.load(tmp_path / "1.npz")
    for name, part in vars(basis).items():
        found = vars(again)[name]
        assert found.dtype == part.dtype
        np.testing.assert_array_equal(found, part)


def refused(path):
    with pytest.raises(
        StoreError, match=r"\.npz (is damaged|is missing)[^\n]* - run flairsearch index --rebuild"
    ) as error:
        Basis.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


class Trap:
    """What runs when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_file_that_is_no_basis_is_one_line_and_runs_nothing(tmp_path):
    path, sprung = tmp_path / "1.npz", tmp_path / "sprung"
    refused(path)
    path.mkdir()
    refused(path)
    path.rmdir()
    for data in (b"", b"P", b"PK\x03\x04", b"no arrays" * 100, pickle.dumps(Trap(sprung))):
        path.write_bytes(data)
        refused(path)
    good = vars(made_basis([8, 4, 2], 5))
    with path.open("wb") as stream:
        np.save(stream, good["mean"])  # one array, not several
    refused(path)
    trap = np.asarray([Trap(sprung)], object)
    wrong = {
        "mean": [trap, good["mean"][:4], good["mean"].astype(np.float64), good["mean"][None], np.full(5, np.nan)],
        "forward": [trap, good["forward"].T, good["forward"][0], np.zeros((5, 3), np.complex64), np.array(["a"])],
        "inverse": [good["inverse"][:2], np.full((3, 5), np.inf, np.float32)],
        "step": [good["step"] * 0, -good["step"], good["step"][:2], np.float32(1)],
        "bits": [np.array([8, 4, 3], "u1"), np.array([2, 4, 8], "u1"), np.array([8, 4, 0], "u1"), np.array([8, 4, 2])],
    }
    for name, values in wrong.items():
        for value in [None, *values]:
            with path.open("wb") as stream:
                np.savez(stream, **{k: v for k, v in {**good, name: value}.items() if v is not None})
            refused(path)
    assert not sprung.exists()
    with path.open("wb") as stream:
        np.savez(stream, **good)
    Basis.load(path)


def test_a_damaged_basis_is_one_line_or_says_the_same(tmp_path):
    """Cut anywhere, or any byte changed: the file is refused, unless it holds these very numbers still."""
    path, basis = tmp_path / "1.npz", made_basis([8, 4, 2], 5)
    basis.save(path)
    data, rng = path.read_bytes(), np.random.default_rng(0)
    for length in range(0, len(data), 61):
        path.write_bytes(data[:length])
        refused(path)
    told, messages = 0, set()
    for at in range(0, len(data), 3):
        broken = bytearray(data)
        broken[at] ^= int(rng.integers(1, 256))
        path.write_bytes(broken)
        try:
            again = Basis.load(path)
        except StoreError as error:
            told += 1
            messages.add(str(error))
            continue
        for name, part in vars(basis).items():
            np.testing.assert_array_equal(vars(again)[name], part)
    assert told > len(data) / 5
    assert not any("\n" in message for message in messages)
