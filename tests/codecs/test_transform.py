"""The basis against explicit sums, all allocations of bits, known spectra and rate-distortion theory, in float64."""

import itertools
import math
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flairsearch.codecs.codec import AVERAGE_BITS, make_codec
from flairsearch.codecs.transform import TransformBasis, allocate_bits, cosine_transform, fit_basis
from flairsearch.core.errors import StoreError
from flairsearch.core.types import EncodedViews

ERROR = {0: 1.0, 2: 0.1188, 4: 0.01154, 8: 0.0001}  # Squared error for a Gaussian of variance 1, by bits (Max, 1960).
NAMES = ("mean", "forward", "inverse", "step", "counts")
MEAN = 0.3  # Every number of the made tokens has this mean.


def encoded(tokens):
    flat = np.zeros(tokens.shape[:2], np.float16)
    return EncodedViews(tokens[:, 0], tokens, flat, flat)


def spectrum(patches, dim, fall=2.0):
    """Variances f64[F, D] of mean 1: falling with the frequency if fall > 0, and falling over channels."""
    across, down = np.divmod(np.arange(patches), math.isqrt(patches))
    variance = (1.0 + across**2 + down**2)[:, None] ** (-fall / 2) * (1.0 + np.arange(dim)) ** -1.5
    return variance / variance.mean()


def make_tokens(count, variance, seed, scale=1.0):
    """Gaussian tokens f16[n, P, D] with mean MEAN and these variances over frequencies and rotated channels."""
    patches, dim = variance.shape
    rotation = np.linalg.qr(np.random.default_rng(99).normal(size=(dim, dim)))[0]
    y = np.random.default_rng(seed).normal(size=(count, patches, dim)) * np.sqrt(variance)
    return (scale * np.einsum("fp,nfc,dc->npd", dct_by_hand(patches), y, rotation, optimize=True) + MEAN).astype(
        np.float16
    )


def fitted(tokens, name):
    """The codec of a basis fitted to tokens under the identity metric."""
    _, patches, dim = tokens.shape
    average = AVERAGE_BITS[name]
    return make_codec(name, patches, dim, fit_basis(tokens, np.eye(dim, dtype=np.float32), average))


def relative_error(codec, tokens):
    """Squared error of the restored tokens, relative to their squared deviation from the mean."""
    x = tokens.astype(np.float64)
    return np.square(codec.restore(codec.encode(encoded(tokens))) - x).sum() / np.square(x - MEAN).sum()


def code_bits(codec):
    return 8 * (codec.stride - 5 * codec.patches)


# -- The cosine transform


def dct_by_hand(patches):
    """The DCT-II written out number by number, f64[F, P]; frequencies are in the order of the patches."""
    side = math.isqrt(patches)
    grid = (side, side) if side * side == patches else (1, patches)
    matrix = np.zeros((patches, patches))
    places = list(itertools.product(*map(range, grid)))
    for f, frequency in enumerate(places):
        for p, place in enumerate(places):
            matrix[f, p] = math.prod(
                math.sqrt((2 if k else 1) / size) * math.cos(math.pi * k * (2 * i + 1) / (2 * size))
                for k, i, size in zip(frequency, place, grid, strict=True)
            )
    return matrix


@given(patches=st.integers(1, 64))
@example(patches=1)
@example(patches=2)
@example(patches=9)
@example(patches=12)
@example(patches=48)
@example(patches=49)
@example(patches=64)
@example(patches=196)
def test_the_cosine_transform_is_orthonormal_and_the_dct(patches):
    found = cosine_transform(patches)
    assert (found.dtype, found.shape) == (np.float32, (patches, patches))
    np.testing.assert_allclose(found, dct_by_hand(patches), atol=1e-7)
    np.testing.assert_allclose(found.astype(float) @ found.T.astype(float), np.eye(patches), atol=1e-6)
    np.testing.assert_allclose(found[0], patches**-0.5, atol=1e-7)  # Frequency 0 is the mean.


@given(patches=st.integers(1, 200))
@example(patches=1)
@example(patches=7)
@example(patches=49)
@example(patches=50)
@example(patches=64)
@example(patches=196)
def test_the_cosine_transform_equals_scipys(patches):
    fft = pytest.importorskip("scipy.fft")
    side = math.isqrt(patches)
    views = np.random.default_rng(0).normal(size=(3, *((side, side) if side * side == patches else (patches,))))
    expected = fft.dctn(views, axes=range(1, views.ndim), norm="ortho").reshape(3, patches)
    np.testing.assert_allclose(
        views.reshape(3, patches) @ cosine_transform(patches).T.astype(float), expected, atol=3e-6
    )


# -- Bits


def error_of(variance, bits):
    return sum(v * ERROR[int(b)] for v, b in zip(variance, bits, strict=True))


def least_error(variance, budget):
    choices = (bits for bits in itertools.product(ERROR, repeat=len(variance)) if sum(bits) <= budget)
    return min(error_of(variance, bits) for bits in choices)


@given(
    average=st.sampled_from([0.3, 1.0, 2.0, 3.0, 4.0, 6.5, 8.0]) | st.floats(0.01, 8),
    count=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
@example(average=0.3, count=1, seed=1)
@example(average=8.0, count=1, seed=1)
@example(average=1.0, count=2, seed=2)
@example(average=6.5, count=3, seed=3)
@example(average=3.0, count=3, seed=3)
@example(average=0.3, count=5, seed=5)
@example(average=2.0, count=5, seed=5)
@example(average=4.0, count=5, seed=5)
@example(average=8.0, count=5, seed=5)
def test_no_allocation_of_as_many_bits_is_better(average, count, seed):
    """All allocations are tried. Allocation stops at the first gain that does not fit: at most 2 bits stay unspent."""
    rng = np.random.default_rng(seed)
    for spread in (0.0, 0.5, 2, 5):
        for _ in range(4):
            variance = np.exp(rng.normal(0, spread, count))
            bits = allocate_bits(variance, average)
            assert bits.dtype == np.uint8
            assert set(bits.tolist()) <= set(ERROR)
            spent, budget = int(bits.sum()), int(average * count)
            assert spent <= budget
            assert spent >= min(budget // 2 * 2 - 2, 8 * count)
            assert error_of(variance, bits) == pytest.approx(least_error(variance, spent), rel=1e-12)
            assert (np.diff(bits[np.argsort(variance, kind="stable")].astype(int)) >= 0).all() or spread == 0


def test_bits_of_many_numbers_stay_within_the_budget():
    for seed, average in itertools.product(range(4), (0.01, 0.5, 1.0, 2.0, 4.0, 7.99, 8.0)):
        variance = np.random.default_rng(seed).gamma(0.1, size=5001)
        bits = allocate_bits(variance, average).astype(int)
        assert average * 5001 - 4 <= bits.sum() <= average * 5001
        groups = [variance[bits == width] for width in (0, 2, 4, 8)]
        for fewer_bits, more_bits in itertools.pairwise([group for group in groups if len(group)]):
            assert fewer_bits.max() <= more_bits.min()


def test_bits_of_easy_cases():
    assert allocate_bits(np.asarray([1.0, 1.0]), 2.0).tolist() == [2, 2]
    assert allocate_bits(np.asarray([100.0, 1e-6]), 2.0).tolist() == [4, 0]
    assert allocate_bits(np.asarray([1e-6, 1.0, 1e-6, 1e-6]), 2.0).tolist() == [0, 8, 0, 0]
    assert allocate_bits(np.asarray([1.0, 1.0, 1.0]), 8.0).tolist() == [8, 8, 8]
    # The budget of 1.5 bits is below the smallest width.
    assert allocate_bits(np.asarray([1.0, 2.0, 3.0]), 0.5).tolist() == [0, 0, 0]
    assert allocate_bits(np.zeros(3), 2.0).tolist() == [2, 2, 2]
    assert allocate_bits(np.zeros(0), 2.0).tolist() == []


# -- The fit


@pytest.mark.parametrize("name", AVERAGE_BITS)
@pytest.mark.parametrize(("patches", "dim"), [(9, 33), (12, 16), (1, 24)])
def test_a_fitted_basis_keeps_its_budget_and_its_inverse(name, patches, dim):
    rng = np.random.default_rng(1)
    tokens = (rng.normal(size=(100, patches, dim)) * np.logspace(1, -3, dim) + 2).astype(np.float16)
    metric = np.cov(rng.normal(size=(dim, 4 * dim))).astype(np.float32)
    basis = fit_basis(tokens, metric, AVERAGE_BITS[name])
    channels = basis.step.shape[1]
    shapes = [(dim,), (dim, channels), (channels, dim), (patches, channels), (3, patches)]
    assert [getattr(basis, n).shape for n in NAMES] == shapes
    counts = basis.counts.astype(int)
    assert basis.counts.dtype == np.uint16
    assert not (counts[1:] % [[2], [4]]).any()  # Codes fill whole bytes.
    assert counts.sum(0).max() == channels <= dim
    total = int((counts * [[8], [4], [2]]).sum())
    # Filling whole bytes costs up to 4 bits in each plane.
    assert abs(total - AVERAGE_BITS[name] * patches * dim) <= 8 * patches
    np.testing.assert_allclose(basis.mean, tokens.astype(float).mean((0, 1)), atol=1e-4)
    np.testing.assert_allclose(basis.inverse.astype(float) @ basis.forward.astype(float), np.eye(channels), atol=1e-3)
    again = fit_basis(tokens, metric, AVERAGE_BITS[name])
    assert all(np.array_equal(getattr(again, n), getattr(basis, n)) for n in NAMES)  # Fitting is deterministic.


@pytest.mark.parametrize("name", AVERAGE_BITS)
def test_channels_are_ordered_by_variance_times_importance(name):
    """With one patch and known directions, dropping a direction costs its variance times its metric."""
    variance, importance = np.array([8, 4, 2, 1, 0.5, 0.25, 3, 0.1]), np.array([1 / 32, 4, 1 / 4, 8, 2, 16, 1, 1])
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    tokens = (np.random.default_rng(1).normal(size=(9000, 1, 8)) * np.sqrt(variance) @ rotation.T).astype(np.float16)
    for cost, metric in ((variance * importance, rotation * importance @ rotation.T), (variance, np.eye(8))):
        basis = fit_basis(tokens, metric.astype(np.float32), AVERAGE_BITS[name])
        directions = np.abs(
            rotation.T @ basis.forward / np.sqrt(np.diag(rotation.T @ metric @ rotation))[:, None]
        ).argmax(0)
        assert directions.tolist() == np.argsort(-cost)[: len(directions)].tolist()


@pytest.mark.parametrize("patches", [49, 50])
@pytest.mark.parametrize("name", AVERAGE_BITS)
def test_the_error_is_that_of_the_best_uniform_quantisers(name, patches):
    """The error is the sum of measured variance x Max's error; higher frequencies have fewer bits."""
    tokens = make_tokens(300, spectrum(patches, 24) if patches == 49 else np.tile(spectrum(49, 24)[:1], (50, 1)), 0)
    codec = fitted(tokens, name)
    basis, x = codec.basis, tokens.astype(np.float64)
    transform = dct_by_hand(patches)
    y = np.einsum("fp,npd,dc->nfc", transform, x - basis.mean, basis.forward.astype(float), optimize=True)
    widths = np.zeros(basis.step.shape, int)
    for f, (eights, fours, twos) in enumerate(basis.counts.T.astype(int)):
        widths[f, : eights + fours + twos] = [8] * eights + [4] * fours + [2] * twos
    kept = np.square(y).mean(0)
    total = np.square(x - basis.mean).sum((1, 2)).mean()
    expected = total - kept.sum() + sum(v * ERROR[w] for v, w in zip(kept.ravel(), widths.ravel(), strict=True))
    found = np.square(codec.restore(codec.encode(encoded(tokens))) - x).sum((1, 2)).mean()
    assert found == pytest.approx(expected, rel=0.15)
    if patches == 49:
        assert widths[0].sum() > widths[8].sum() > widths[48].sum()


def least_distortion(variance, bits):
    """The least distortion of a Gaussian source at this rate: reverse water-filling (Cover and Thomas, 10.3.3)."""
    low, high = 0.0, variance.max()
    for _ in range(100):
        level = (low + high) / 2
        if 0.5 * np.log2(np.maximum(variance / level, 1)).sum() > bits:
            low = level
        else:
            high = level
    return np.minimum(variance, high).sum()


def error_of_scaled_integers(tokens, bits):
    """The relative squared error of a quantiser with one scale for each token."""
    x, top = tokens.astype(np.float64), 2 ** (bits - 1) - 0.5
    step = np.abs(x).max(-1, keepdims=True) / top
    codes = np.clip(np.floor(x / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) + 0.5
    return np.square(codes * step - x).sum() / np.square(x - MEAN).sum()


@pytest.mark.parametrize(("patches", "dim"), [(49, 64), (196, 64)])
def test_known_spectra_are_kept_nearly_as_well_as_theory_allows(patches, dim):
    """On new tokens, Max's quantisers have 1.9, 3.0 and 6.6 times the least error possible with 2, 4 and 8 bits."""
    variance = spectrum(patches, dim)
    sample, fresh = make_tokens(100, variance, 0), make_tokens(20, variance, 1)
    codecs = {name: fitted(sample, name) for name in ("q1", "q2", "q4")}
    found = {name: relative_error(codec, fresh) for name, codec in codecs.items()}
    assert 1 > found["q1"] > 2 * found["q2"] > 8 * found["q4"]
    for name, codec in codecs.items():
        least = least_distortion(variance.ravel(), code_bits(codec)) / variance.sum()
        assert least < found[name] < {"q1": 2.2, "q2": 3.2, "q4": 6.6}[name] * least
    assert found["q4"] < error_of_scaled_integers(fresh, 4) / 3.5
    assert found["q2"] < error_of_scaled_integers(fresh, 2) / 8
    assert found["q1"] < error_of_scaled_integers(fresh, 2) / 4  # q1 has half the bytes.


# -- Views unlike the sample


@pytest.fixture(scope="module")
def sample():
    return make_tokens(100, spectrum(49, 64), 0)


@pytest.mark.parametrize("name", AVERAGE_BITS)
def test_views_of_high_and_low_energy_have_the_same_relative_error(name, sample):
    codec = fitted(sample, name)
    usual = relative_error(codec, make_tokens(20, spectrum(49, 64), 2))
    for scale in (0.1, 10, 100):
        other = make_tokens(20, spectrum(49, 64), 2, scale)
        found = relative_error(codec, other)
        assert found < 1.1 * usual, scale
        with pytest.MonkeyPatch.context() as patch:
            # With this energy every gain code is 128.
            patch.setattr(TransformBasis, "channel_energy", lambda _, y: np.ones(y.shape[:2], np.float32))
            assert relative_error(codec, other) > 10 * found, scale


@pytest.mark.parametrize(("name", "bound"), [("q4", 0.01), ("q2", 0.06), ("q1", 0.15)])
def test_noise_has_a_small_error_after_a_smooth_sample(name, bound, sample, monkeypatch):
    codec, noise = fitted(sample, name), make_tokens(20, spectrum(49, 64, fall=0), 3)
    found = relative_error(codec, noise)
    monkeypatch.setattr(TransformBasis, "channel_energy", lambda _, y: np.ones(y.shape[:2], np.float32))
    assert found < bound
    assert relative_error(codec, noise) > 1.3 * found


@pytest.mark.parametrize(("name", "bound"), [("q4", 0.05), ("q2", 0.2), ("q1", 0.4)])
def test_frequencies_the_sample_lacks_have_a_small_error(name, bound):
    variance = spectrum(49, 64)
    codec = fitted(make_tokens(100, np.where(np.arange(49)[:, None] < 28, variance, 0), 0), name)
    assert relative_error(codec, make_tokens(20, np.where(np.arange(49)[:, None] < 28, 0, variance), 1)) < bound


@pytest.mark.parametrize("name", AVERAGE_BITS)
def test_a_small_sample_does_not_spoil_other_views(name):
    """With fewer tokens than channels, directions the sample lacks may be lost, but must not distort the others."""
    variance = spectrum(49, 64)
    for views in (1, 2, 4):
        codec = fitted(make_tokens(views, variance, 0), name)
        assert relative_error(codec, make_tokens(20, variance, 1)) < 0.8, views


@pytest.mark.parametrize("name", AVERAGE_BITS)
def test_channels_the_sample_lacks_do_not_drown_a_view(name):
    """Channels the sample lacks may be lost, but the error stays below that of storing nothing (1)."""
    variance, usual = spectrum(49, 64), np.arange(64) < 32
    codec = fitted(make_tokens(100, variance * usual, 0), name)
    assert relative_error(codec, make_tokens(20, variance, 1)) < 1


DEGENERATE = {
    "one token": np.full((1, 1, 8), 0.5),
    "one view": np.random.default_rng(0).normal(size=(1, 9, 8)),
    "a constant view": np.full((1, 9, 8), -2.0),
    "constant views": np.random.default_rng(0).normal(size=(40, 1, 8)).repeat(9, axis=1),
    "the same view over and over": np.random.default_rng(0).normal(size=(1, 9, 8)).repeat(50, axis=0),
    "zeros": np.zeros((50, 4, 8)),
    "two tokens": np.eye(8)[:2, None],
    "one direction": np.outer(np.arange(-20, 21), np.eye(8)[3])[:, None],
    "huge outliers": np.concatenate([np.random.default_rng(0).normal(size=(50, 9, 8)), np.full((1, 9, 8), 60000.0)]),
    "four dimensions": np.random.default_rng(0).normal(size=(40, 9, 4)),  # With fewer dimensions q1 has no bits.
    "four dimensions, one patch": np.random.default_rng(0).normal(size=(40, 1, 4)) * [9, 3, 1, 0],
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_degenerate_sample_gives_finite_numbers(tmp_path, subtests):
    for kind, name in itertools.product(DEGENERATE, AVERAGE_BITS):
        with subtests.test(kind, name=name):
            check_degenerate_sample(kind, name, tmp_path)


def check_degenerate_sample(kind, name, tmp_path):
    tokens = DEGENERATE[kind].astype(np.float16)
    _, patches, dim = tokens.shape
    metric = np.ones((dim, dim)) if kind == "two tokens" else np.eye(dim)  # One metric has rank 1.
    basis = fit_basis(tokens, metric.astype(np.float32), AVERAGE_BITS[name])
    basis.save(tmp_path / "1.npz")
    TransformBasis.load(tmp_path / "1.npz")  # Loading checks that the saved basis is valid.
    codec = make_codec(name, patches, dim, basis)
    rng = np.random.default_rng(1)
    others = [rng.normal(size=(5, patches, dim)), np.zeros((1, patches, dim)), np.full((1, patches, dim), 3.0)]
    x = np.concatenate([tokens, *others]).astype(np.float16)
    found = codec.restore(codec.encode(encoded(x))).astype(float)
    assert np.isfinite(found).all()
    if "constant view" in kind or kind in ("zeros", "one token"):
        spread = np.abs(x[: len(tokens)].astype(float) - basis.mean).max()
        np.testing.assert_allclose(found[: len(tokens)], x[: len(tokens)], atol=2e-3 + 2 * spread)


# -- The file


def small_basis():
    rng = np.random.default_rng(0)
    counts = np.array([[1, 0, 0, 1], [2, 2, 0, 4], [0, 0, 4, 0]], np.uint16)  # There are 4 frequencies and 5 channels.
    parts = (rng.normal(size=6), rng.normal(size=(6, 5)), rng.normal(size=(5, 6)), rng.uniform(1, 2, (4, 5)))
    return TransformBasis(*(part.astype(np.float32) for part in parts), counts)


def check_equal(found, expected):
    for name in NAMES:
        assert getattr(found, name).dtype == getattr(expected, name).dtype
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_basis_goes_round(tmp_path):
    fresh = fit_basis(make_tokens(20, spectrum(9, 13), 0), np.eye(13, dtype=np.float32), 2.0)
    for basis in (small_basis(), fresh):
        basis.save(tmp_path / "1.npz")
        check_equal(TransformBasis.load(tmp_path / "1.npz"), basis)


def refusal(path):
    todo = "run flairsearch verify --repair, or index --rebuild"
    with pytest.raises(StoreError, match=rf"\.npz (is missing|is damaged \([^\n]+\)) - {todo}$") as error:
        TransformBasis.load(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


def save(path, arrays):
    with path.open("wb") as stream:
        np.savez(stream, **arrays)


class Trap:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_file_that_is_no_basis_is_refused_and_runs_nothing(tmp_path):
    path, sprung = tmp_path / "1.npz", tmp_path / "sprung"
    assert "is missing" in refusal(path)
    path.mkdir()
    refusal(path)
    path.rmdir()
    for data in (b"", b"P", b"PK\x03\x04", b"no arrays" * 100, pickle.dumps(Trap(sprung))):
        path.write_bytes(data)
        refusal(path)
    with path.open("wb") as stream:
        np.save(stream, small_basis().mean)  # This file holds a single array.
    refusal(path)
    save(path, {name: np.asarray([Trap(sprung)], object) for name in NAMES})
    refusal(path)
    assert not sprung.exists()


def with_counts(counts, *places):
    counts = counts.copy()
    for row, frequency, value in places:
        counts[row, frequency] = value
    return counts


GOOD = {name: getattr(small_basis(), name) for name in NAMES}
WRONG = {
    "mean": [
        GOOD["mean"][:4],
        GOOD["mean"].astype(float),
        GOOD["mean"][None],
        np.full(6, np.nan, "f4"),
        GOOD["mean"][0],
    ],
    "forward": [GOOD["forward"].T, GOOD["forward"][0], np.zeros((6, 5), np.complex64), np.array(["a"]), np.float32(1)],
    "inverse": [GOOD["inverse"][:2], np.full((5, 6), np.inf, np.float32), np.float32(1), GOOD["inverse"].astype(">f4")],
    "step": [GOOD["step"] * 0, -GOOD["step"], GOOD["step"][:2], GOOD["step"][:, :4], np.float32(1), GOOD["step"][0]],
    "counts": [
        with_counts(GOOD["counts"], (1, 0, 1)),  # These codes fill half a byte.
        with_counts(GOOD["counts"], (2, 2, 2)),
        with_counts(GOOD["counts"], (2, 2, 3)),
        with_counts(GOOD["counts"], (0, 0, 6)),  # The basis has fewer channels than this.
        with_counts(GOOD["counts"], (0, 0, 65535)),
        # The sum of these counts overflows 16 bits to 1.
        with_counts(GOOD["counts"], (0, 0, 65535), (1, 0, 2), (2, 0, 0)),
        GOOD["counts"] * 0,
        GOOD["counts"].astype(np.int64),
        GOOD["counts"].astype(np.float32),
        GOOD["counts"].T,
        GOOD["counts"][:2],
        np.uint16(4),
    ],
}


def test_arrays_that_do_not_fit_are_refused(tmp_path, subtests):
    path = tmp_path / "1.npz"
    for name in NAMES:
        with subtests.test(name):
            save(path, {k: v for k, v in GOOD.items() if k != name})
            assert name in refusal(path)
        for i, value in enumerate(WRONG[name]):
            with subtests.test(name, i=i):
                save(path, {**GOOD, name: value})
                refusal(path)
    empty = {
        **GOOD,
        "forward": np.zeros((6, 0), "f4"),
        "inverse": np.zeros((0, 6), "f4"),
        "step": np.zeros((4, 0), "f4"),
    }
    save(path, empty)
    refusal(path)
    save(path, GOOD)
    check_equal(TransformBasis.load(path), small_basis())


def test_a_basis_of_format_1_is_refused(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "000001.npz"
    parts = {"mean": (6,), "forward": (6, 3), "inverse": (3, 6), "step": (3,)}
    arrays = {name: rng.uniform(1, 2, shape).astype(np.float32) for name, shape in parts.items()}
    save(path, {**arrays, "bits": np.array([8, 4, 2], np.uint8)})
    refusal(path)


HEADERS = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,), }" % ("9" * 30),
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (6,)",
    "{'descr': '|O', 'fortran_order': False, 'shape': (6,), }",
    "(" * 300,
    "'''",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,), }",
)


def test_an_array_with_a_false_header_is_refused(tmp_path, subtests):
    path = tmp_path / "1.npz"
    for header in HEADERS:
        with subtests.test(header[:70]):
            text = header.encode() + b"\n"
            save(path, {name: value for name, value in GOOD.items() if name != "mean"})
            head = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little")
            with zipfile.ZipFile(path, "a") as archive:
                archive.writestr("mean.npy", head + text + bytes(24))
            refusal(path)


def test_a_damaged_file_is_refused_or_holds_the_same_arrays(tmp_path):
    """The file is cut anywhere, or any byte is changed."""
    path, basis = tmp_path / "1.npz", small_basis()
    basis.save(path)
    data, rng = path.read_bytes(), np.random.default_rng(0)
    for length in range(0, len(data), 29):
        path.write_bytes(data[:length])
        refusal(path)
    refusals = 0
    for at in range(0, len(data), 3):
        broken = bytearray(data)
        broken[at] ^= int(rng.integers(1, 256))
        path.write_bytes(broken)
        with suppress(StoreError):
            check_equal(TransformBasis.load(path), basis)
            continue
        refusals += 1
        if refusals % 20 == 0:
            refusal(path)
    assert refusals > len(data) / 12
