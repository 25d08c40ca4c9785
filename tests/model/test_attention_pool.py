"""The folded pool against torch's own layers in float64, with random gains and biases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flairsearch.model.attention_pool import LAYER_NORM_EPS, FoldedPool, layer_norm
from tests.support.random_flair import oracle_pool, pool_flair

SHAPES = [(16, 1), (16, 16), (24, 3), (64, 8), (96, 4), (512, 8)]  # Each pair is (dimensions, heads).


class RandomTensors(Mapping[str, np.ndarray]):
    """Random tensors under FLAIR's names, in which no gain is 1 and no bias 0; records the names that are read."""

    def __init__(self, dim: int, seed: int = 0) -> None:
        rng, self.read = np.random.default_rng(seed), list[str]()
        shapes = {"attn.in_proj_weight": (3 * dim, dim), "attn.in_proj_bias": (3 * dim,)}
        shapes |= {"attn.out_proj.weight": (dim, dim), "attn.out_proj.bias": (dim,)}
        shapes |= {f"ln_{x}.{part}": (dim,) for x in "qkv" for part in ("weight", "bias")}
        self._stored = {f"visual_proj.{name}": rng.normal(size=shape) * dim**-0.3 for name, shape in shapes.items()}
        self._stored |= {"logit_scale": rng.normal(), "logit_bias": rng.normal()}

    def __getitem__(self, name: str) -> np.ndarray:
        self.read.append(name)
        return np.asarray(self._stored[name], np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def torch(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self[f"visual_proj.{name}"]).double()


def apply_norm(tensors: RandomTensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], tensors.torch(f"{name}.weight"), tensors.torch(f"{name}.bias"), LAYER_NORM_EPS)


# -- LayerNorm


@pytest.mark.parametrize("shape", [(8,), (1, 1), (5, 33), (2, 3, 512), (0, 4)])
@pytest.mark.parametrize(("mean", "spread"), [(0, 1), (3, 0.1), (-50, 30), (0, 1e-4), (1e4, 1)])
def test_layer_norm_equals_torchs(shape: tuple[int, ...], mean: float, spread: float) -> None:
    rng = np.random.default_rng(0)
    x = (mean + spread * rng.normal(size=shape)).astype(np.float32)
    gain, bias = rng.normal(size=(2, shape[-1])).astype(np.float32)
    before = x.copy()
    found = layer_norm(x, gain, bias)
    parts = [torch.from_numpy(part).double() for part in (x, gain, bias)]
    expected = F.layer_norm(parts[0], (shape[-1],), parts[1], parts[2], LAYER_NORM_EPS).numpy()
    assert (found.dtype, found.shape) == (np.float32, shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 + 2e-7 * 4 * abs(mean) / spread)
    np.testing.assert_array_equal(x, before)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, 7.0, -3e4, 1e-30])
def test_layer_norm_of_equal_numbers(value: float) -> None:
    bias = np.arange(6, dtype=np.float32)
    np.testing.assert_array_equal(layer_norm(np.full((2, 6), value, np.float32), bias + 1, bias), [bias, bias])


# -- Folded texts


@pytest.mark.parametrize(("dim", "heads"), SHAPES)
def test_logits_of_stored_tokens_are_the_pools(dim: int, heads: int) -> None:
    """For each head, x u + c of a token x without gain equals q k / sqrt(d)."""
    tensors, size = RandomTensors(dim), dim // heads
    torch.manual_seed(1)
    texts, x = torch.randn(5, dim).double() * 3 + 1, torch.randn(7, dim).double()
    weight_q, weight_k, _ = tensors.torch("attn.in_proj_weight").chunk(3)
    bias_q, bias_k, _ = tensors.torch("attn.in_proj_bias").chunk(3)
    q = apply_norm(tensors, "ln_q", texts) @ weight_q.T + bias_q
    k = (x * tensors.torch("ln_k.weight") + tensors.torch("ln_k.bias")) @ weight_k.T + bias_k
    expected = torch.einsum("thd,phd->tph", q.unflatten(1, (heads, size)), k.unflatten(1, (heads, size))) / size**0.5
    u, c = FoldedPool(tensors, heads).fold(texts.float().numpy())
    assert (u.dtype, u.shape, c.dtype, c.shape) == ("f4", (5, heads, dim), "f4", (5, heads))
    assert u.flags.c_contiguous
    assert c.flags.c_contiguous
    found = np.einsum("pe,the->tph", x.numpy(), u.astype(float)) + c[:, None]
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(("dim", "heads"), SHAPES)
def test_the_whole_pool_equals_torchs_attention(dim: int, heads: int) -> None:
    """The reference is nn.MultiheadAttention with its zero key, over three separate norms."""
    tensors = RandomTensors(dim, seed=2)
    reference = nn.MultiheadAttention(dim, heads, add_zero_attn=True, batch_first=True).double().requires_grad_(False)
    reference.load_state_dict({name: tensors.torch(f"attn.{name}") for name in reference.state_dict()})
    torch.manual_seed(3)
    texts, local = torch.randn(4, dim).double() * 2, torch.randn(3, 11, dim).double() * 5 + 2
    folded_pool = FoldedPool(tensors, heads)
    x, weights = F.layer_norm(local, (dim,), eps=LAYER_NORM_EPS).numpy(), folded_pool.weights
    for query, text in zip(folded_pool.fold_texts(texts.float().numpy(), list("abcd")), texts, strict=True):
        keys, values = apply_norm(tensors, "ln_k", local), apply_norm(tensors, "ln_v", local)
        query_vector = apply_norm(tensors, "ln_q", text).expand(3, 1, dim)
        expected = reference(query_vector, keys, values, need_weights=False)[0][:, 0].numpy()
        logits = np.pad(np.einsum("npe,he->nhp", x, query.u.astype(float)) + query.c[:, None], ((0, 0), (0, 0), (0, 1)))
        shares = torch.from_numpy(logits).softmax(-1).numpy()[..., :-1]
        mixed = np.einsum("nhp,npe,hde->nhd", shares, x, weights.value.astype(float))
        mixed += shares.sum(-1)[..., None] * weights.value_bias
        found = mixed.reshape(3, dim) @ weights.out.T.astype(float) + weights.out_bias
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("dim", "heads"), SHAPES[:4])
def test_a_models_folded_pool_equals_the_description(dim: int, heads: int) -> None:
    model = pool_flair(dim, heads, seed=dim + heads)
    text, local = torch.randn(dim) * 2, torch.randn(6, 9, dim)
    folded_pool = model.folded_pool
    (query,) = folded_pool.fold_texts(text[None].numpy(), ["a"])
    x = F.layer_norm(local.double(), (dim,), eps=LAYER_NORM_EPS).numpy()
    logits = np.einsum("npe,he->nhp", x, query.u) + query.c[:, None]
    shares = np.exp(logits) / (np.exp(logits).sum(-1, keepdims=True) + 1)
    mixed = np.einsum("nhp,npe,hde->nhd", shares, x, folded_pool.weights.value)
    mixed += shares.sum(-1)[..., None] * folded_pool.weights.value_bias
    pooled = mixed.reshape(6, dim) @ folded_pool.weights.out.T + folded_pool.weights.out_bias
    found = pooled @ text.numpy() / np.linalg.norm(pooled, axis=1) / np.linalg.norm(text.numpy())
    np.testing.assert_allclose(found, oracle_pool(model, text, local)[0], rtol=0, atol=1e-5)


def test_texts_are_folded_independently() -> None:
    folded_pool = FoldedPool(RandomTensors(24), 3)
    vectors = np.random.default_rng(4).normal(size=(9, 24)).astype(np.float32)
    together = folded_pool.fold_texts(vectors, [f"text {i}" for i in range(9)])
    assert [query.text for query in together] == [f"text {i}" for i in range(9)]
    for query, vector in zip(together, vectors, strict=True):
        (alone,) = folded_pool.fold_texts(vector[None], [query.text])
        np.testing.assert_array_equal(query.vector, vector)
        np.testing.assert_allclose(query.u, alone.u, rtol=0, atol=1e-6)
        np.testing.assert_allclose(query.c, alone.c, rtol=0, atol=1e-6)
    assert folded_pool.fold_texts(vectors[:0], []) == []


# -- Weights


def test_weights_are_read_once_when_needed() -> None:
    """Folding a text does not read the output side, and no tensor is read twice."""
    tensors = RandomTensors(24)
    folded_pool = FoldedPool(tensors, 3)
    assert tensors.read == []
    folded_pool.fold(np.ones((1, 24), np.float32))
    assert not any("out_proj" in name or "ln_v" in name or "logit" in name for name in tensors.read)
    weights = folded_pool.weights
    assert weights is folded_pool.weights
    assert (weights.value.shape, weights.value_bias.shape) == ((3, 8, 24), (3, 8))
    assert {part.dtype for part in (weights.value, weights.value_bias, weights.out, weights.out_bias)} == {
        np.dtype("f4")
    }
    assert weights.logit_scale == pytest.approx(float(np.exp(tensors["logit_scale"])))
    assert weights.logit_bias == pytest.approx(float(tensors["logit_bias"]))
    before = len(tensors.read)
    assert folded_pool.weights is weights
    assert len(tensors.read) == before


@pytest.mark.parametrize(("dim", "heads"), SHAPES[:5])
def test_metric_of_random_texts(dim: int, heads: int) -> None:
    """Keys: the mean of (e u)^2 over texts. Values: the squared output for e. Each part has trace 1."""
    tensors = RandomTensors(dim, seed=5)
    folded_pool, rng = FoldedPool(tensors, heads), np.random.default_rng(6)
    metric = folded_pool.token_metric()
    assert (metric.dtype, metric.shape) == (np.float32, (dim, dim))
    np.testing.assert_allclose(metric, metric.T, rtol=0, atol=1e-6)
    texts = rng.normal(size=(4000, dim)).astype(np.float32)
    u = folded_pool.fold(texts)[0].astype(float)
    keys = np.einsum("the,thf->ef", u, u, optimize=True)
    out = folded_pool.weights.out.astype(float).reshape(dim, heads, -1)
    through = np.einsum("ohd,hde->hoe", out, folded_pool.weights.value.astype(float))
    values = np.einsum("hoe,hof->ef", through, through)
    expected = keys / np.trace(keys) + values / np.trace(values)
    assert np.abs(metric - expected).max() < 0.1 * np.abs(expected).max()
