"""TorchPool against FLAIR's published formula in float64, with an explicit zero key and nothing folded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from flairsearch.codecs.transform import cosine_transform
from flairsearch.core.types import EncodedText, PoolWeights
from flairsearch.model.flair import FLAIR, LAYER_NORM_EPS
from flairsearch.rerank.torch_backend import CHUNK_VIEWS, TorchPool
from tests.support.random_flair import oracle_pool, pool_flair

torch.set_num_threads(2)


def make(views: int, patches: int, dim: int, heads: int) -> tuple[FLAIR, torch.Tensor, torch.Tensor]:
    """Draw a model, a text f[D] and local tokens f64[N, P, D], each token with its own mean and scale."""
    model = pool_flair(dim, heads, seed=views)
    scale = torch.rand(views, patches, 1, dtype=torch.float64) * 3 + 0.5
    local = scale * torch.randn(views, patches, dim, dtype=torch.float64) + torch.randn(views, patches, 1).double()
    return model, torch.randn(dim) * 2, local


def fold(model: FLAIR, text: torch.Tensor) -> EncodedText:
    u, c = model.folded_pool.fold(text[None].float().numpy())
    return EncodedText("", text.numpy(), u[0], c[0])


def stored(local: torch.Tensor) -> np.ndarray:
    """Return x f64[N, P, D], the LayerNorm without gain of local tokens."""
    return F.layer_norm(local, local.shape[-1:], eps=LAYER_NORM_EPS).numpy()


@pytest.mark.parametrize("views", [1, 3, 127])
@pytest.mark.parametrize(("patches", "dim", "heads"), [(1, 64, 8), (49, 64, 1), (196, 64, 4), (49, 512, 8)])
def test_equals_flair_in_float64(views: int, patches: int, dim: int, heads: int) -> None:
    model, text, local = make(views, patches, dim, heads)
    expected, share = oracle_pool(model, text, local)
    query, weights = fold(model, text), model.folded_pool.weights
    x = stored(local)

    exact = TorchPool(weights)
    assert np.abs(exact.score([x], query) - expected).max() <= 1e-5
    attention = exact.attend([x], query)
    assert np.abs(attention - share).max() <= 1e-5
    assert np.allclose(1 - attention.sum(1), 1 - share.sum(1), atol=1e-5)  # The rest is the zero key's share.
    assert (attention.sum(1) < 1).all()

    half = x.astype(np.float16)
    assert np.abs(exact.score([half], query) - expected).max() <= 1e-3 * np.abs(expected).max()
    assert np.abs(exact.attend([half], query) - share).max() <= 2e-3 * share.max()


def test_equals_the_models_own_scores() -> None:
    model, text, local = make(5, 49, 128, 8)
    pool, query = TorchPool(model.folded_pool.weights), fold(model, text)
    expected = model.scores(local.float(), text[None])[:, 0].numpy()
    _, attention = model.visual_proj(text[None], local.float())
    assert np.abs(pool.score([stored(local)], query) - expected).max() <= 1e-5
    assert np.abs(pool.attend([stored(local)], query) - attention[:, 0].numpy()).max() <= 1e-5


def test_float64_fold_is_exact() -> None:
    """In double precision, the only error is the rounding of the folded weights to float32."""
    model, text, local = make(3, 49, 128, 8)
    expected, share = oracle_pool(model, text, local)
    pool = TorchPool(model.folded_pool.weights, dtype=torch.float64)
    assert np.abs(pool.score([stored(local)], fold(model, text)) - expected).max() <= 1e-6
    assert np.abs(pool.attend([stored(local)], fold(model, text)) - share).max() <= 1e-6


def test_zero_logits_share_attention_evenly() -> None:
    """If all logits are 0, every patch and the zero key have the same share."""
    eye = np.eye(4, dtype=np.float32)
    weights = PoolWeights(eye[None], np.zeros((1, 4), np.float32), eye, np.zeros(4, np.float32), 1.0, 0.0)
    query = EncodedText("", eye[0], np.zeros((1, 4), np.float32), np.zeros(1, np.float32))
    attention = TorchPool(weights).attend([np.ones((2, 9, 4), np.float16)], query)
    assert np.allclose(attention, 0.1)
    strong = EncodedText("", eye[0], np.zeros((1, 4), np.float32), np.full(1, 50, np.float32))
    assert np.allclose(TorchPool(weights).attend([np.ones((2, 9, 4), np.float16)], strong), 1 / 9)
    weak = EncodedText("", eye[0], np.zeros((1, 4), np.float32), np.full(1, -50, np.float32))
    assert np.allclose(TorchPool(weights).attend([np.ones((2, 9, 4), np.float16)], weak), 0)


def test_the_division_into_pieces_does_not_change_scores() -> None:
    model, text, local = make(CHUNK_VIEWS + 5, 9, 64, 4)
    pool, query, x = TorchPool(model.folded_pool.weights), fold(model, text), stored(local).astype(np.float16)

    def pieces() -> Iterator[np.ndarray]:
        yield from (x[:1], x[1:1], x[1:4], x[4:])

    assert np.abs(pool.score(pieces(), query) - pool.score([x], query)).max() <= 1e-6
    assert np.abs(pool.attend(pieces(), query) - pool.attend([x], query)).max() <= 1e-6
    assert pool.score([], query).shape == (0,)
    assert len(pool.attend([], query)) == 0


def random_rotation(patches: int) -> np.ndarray:
    """Return an orthonormal f64[F, P] that is neither a cosine transform nor symmetric, with values of both signs."""
    return np.linalg.qr(np.random.default_rng(patches).normal(size=(patches, patches)))[0]


@pytest.mark.parametrize("views", [1, CHUNK_VIEWS + 3])
@pytest.mark.parametrize(("patches", "dim", "heads"), [(1, 64, 2), (48, 64, 4), (49, 64, 8)])
def test_coordinates_over_frequencies_equal_flair_in_float64(views: int, patches: int, dim: int, heads: int) -> None:
    """Tokens are given as spatial @ x; only the logits are transformed back to patches."""
    model, text, local = make(views, patches, dim, heads)
    expected, share = oracle_pool(model, text, local)
    query, weights, spatial = fold(model, text), model.folded_pool.weights, random_rotation(patches)
    y = spatial @ stored(local)
    for dtype, exact in ((torch.float64, 2e-6), (torch.float32, 2e-5)):
        pool = TorchPool(weights, dtype=dtype, spatial=spatial.astype(np.float32))
        attention = pool.attend([y[:1], y[1:]], query)
        assert np.abs(pool.score([y[:1], y[1:]], query) - expected).max() <= exact
        assert np.abs(attention - share).max() <= exact
        assert (attention > 0).all()
        assert (attention.sum(1) < 1).all()  # The zero key has the rest.
    if patches > 1:  # Without the transform, the attention differs.
        assert np.abs(TorchPool(weights).attend([y], query) - share).max() > 1e-3


def test_the_identity_as_spatial_transform_changes_nothing() -> None:
    model, text, local = make(5, 49, 64, 4)
    query, weights, x = fold(model, text), model.folded_pool.weights, stored(local).astype(np.float16)
    plain, same = TorchPool(weights), TorchPool(weights, spatial=np.eye(49, dtype=np.float32))
    assert np.abs(plain.score([x], query) - same.score([x], query)).max() <= 1e-6
    assert np.abs(plain.attend([x], query) - same.attend([x], query)).max() <= 1e-6


def test_a_constant_view_has_frequency_zero_only() -> None:
    """Equal patches have one nonzero frequency and share the attention evenly for any text."""
    model, text, local = make(2, 49, 64, 4)
    one = stored(local)[:, :1]
    y = np.zeros((2, 49, 64))
    y[:, 0] = one[:, 0] * 7  # The transform is orthonormal: the coordinate is sqrt(49) times the mean.
    pool = TorchPool(model.folded_pool.weights, spatial=cosine_transform(49))
    query = fold(model, text)
    expected = TorchPool(model.folded_pool.weights).score([one.repeat(49, axis=1)], query)
    assert np.abs(pool.score([y], query) - expected).max() <= 1e-5
    attention = pool.attend([y], query)
    assert np.abs(attention - attention[:, :1]).max() <= 1e-6


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_inputs_are_not_modified() -> None:
    model, text, local = make(3, 9, 64, 4)
    pool, query, x = TorchPool(model.folded_pool.weights), fold(model, text), stored(local).astype(np.float16)
    before = x.copy()
    x.flags.writeable = False  # A memory-mapped segment is read-only, too.
    first = pool.score([x], query)
    assert np.array_equal(pool.score([x], query), first)
    assert np.array_equal(x, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_gpu_equals_cpu() -> None:
    model, text, local = make(130, 196, 512, 8)
    x, query = stored(local).astype(np.float16), fold(model, text)
    cpu, gpu = TorchPool(model.folded_pool.weights), TorchPool(model.folded_pool.weights, "cuda")
    assert np.abs(cpu.score([x], query) - gpu.score([x], query)).max() <= 1e-4
