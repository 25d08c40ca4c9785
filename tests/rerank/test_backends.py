"""One contract for all backends that score stored rows: float64 oracles with an explicit zero key."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from flairsearch.codecs.codec import Codec, make_codec
from flairsearch.core.types import EncodedText, EncodedViews, PoolWeights
from flairsearch.model.flair import LAYER_NORM_EPS
from flairsearch.rerank import numba_backend, numpy_backend
from flairsearch.rerank.backend import Backend
from flairsearch.rerank.reranker import Reranker
from flairsearch.rerank.torch_backend import TorchPool
from tests.support.backends import CODECS, Rows, ask, in_float64, make, pool, stacked
from tests.support.random_flair import oracle_pool, pool_flair

ONE_CODEC = st.sampled_from(CODECS).map(lambda name: (name,))  # Explicit examples try all codecs.


def in_numpy(codec: Codec, rows: Rows, weights: PoolWeights, queries: list[EncodedText]) -> np.ndarray:
    return numpy_backend.score(codec, rows, codec.fold_weights(weights), *stacked(codec, queries))


def in_numba(codec: Codec, rows: Rows, weights: PoolWeights, queries: list[EncodedText]) -> np.ndarray:
    projection = numba_backend.pack_projection(codec.fold_weights(weights))
    return numba_backend.score(codec, rows, projection, *stacked(codec, queries))


def in_torch(codec: Codec, rows: Rows, weights: PoolWeights, queries: list[EncodedText]) -> np.ndarray:
    reranker = TorchPool(codec.fold_weights(weights), spatial=codec.spatial)
    return reranker.score_many([codec.decode(rows)], [codec.fold(query) for query in queries])


def in_triton(codec: Codec, rows: Rows, weights: PoolWeights, queries: list[EncodedText]) -> np.ndarray:
    on_device = torch.from_numpy(np.ascontiguousarray(rows)).to(TRITON_DEVICE)
    return Reranker(codec, weights, Backend("triton", TRITON_DEVICE)).score_on_device([on_device], queries)


@dataclass(frozen=True)
class BackendCase:
    """A scoring backend and its accuracy."""

    score: Callable[[Codec, Rows, PoolWeights, list[EncodedText]], np.ndarray]
    exact: float  # The largest allowed error of a cosine.
    steepest: float  # The largest factor of the logits with finite results.
    slow: bool = False


BACKENDS = {
    "numpy": BackendCase(in_numpy, 1e-5, 1e20),
    "numba": BackendCase(in_numba, 1e-5, 1e20),
    "torch": BackendCase(in_torch, 1e-5, 1e20),
    "triton": BackendCase(in_triton, 1e-3, 30, slow=True),
}
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TRITON_DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
no_triton = find_spec("triton") is None or (TRITON_DEVICE == "cpu" and not INTERPRETED)
on_triton = [pytest.mark.interpreter, pytest.mark.skipif(no_triton, reason="neither a GPU nor triton's interpreter")]


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=on_triton if name == "triton" else []) for name in BACKENDS]
)
def backend(request: pytest.FixtureRequest) -> BackendCase:
    return BACKENDS[request.param]


# -- queries


def steeper(queries: list[EncodedText], factor: float, bias: float) -> list[EncodedText]:
    """Return queries whose logits are multiplied by a factor and shifted by a bias."""
    return [EncodedText("", q.vector, np.float32(factor) * q.u, q.c + np.float32(bias)) for q in queries]


# -- the contract


SHAPES = {
    "names": ONE_CODEC,
    "views": st.integers(0, 40),
    "patches": st.sampled_from([1, 9, 14, 49]) | st.integers(1, 49),
    "heads": st.integers(1, 9),
    "size": st.integers(4, 16),
    "queries": st.integers(1, 5),
    "seed": st.integers(0, 2**32 - 1),
}
EDGES = [  # Each case has views, patches, heads, dimensions of a head, queries.
    (0, 49, 8, 8, 1),
    (1, 196, 8, 32, 1),
    (3, 196, 4, 16, 16),
    (33, 14, 5, 20, 3),  # The patches are not a square, the dimensions no multiple of a vector.
    (64, 4, 1, 8, 1),
    (31, 1, 4, 16, 2),
    (127, 9, 1, 4, 1),
    (3, 9, 2, 2, 64),  # There are more queries than a thread takes views.
    (3, 9, 1, 13, 1),
    (70, 9, 16, 1, 2),
    (3, 49, 8, 8, 5),  # 40 columns do not fill a block of the GPU kernel.
]


def check(backend: BackendCase, name: str, shape: tuple[int, ...], seed: int) -> None:
    views, patches, heads, size, count = shape
    codec, rows = make(name, views, patches, heads * size, seed)
    weights, queries = pool(heads, size), ask(count, heads, heads * size)
    before = rows.copy()
    found = backend.score(codec, rows, weights, queries)
    assert (found.dtype, found.shape) == (np.float32, (views, count))
    np.testing.assert_allclose(found, in_float64(codec, rows, weights, queries), rtol=0, atol=backend.exact)
    np.testing.assert_array_equal(rows, before)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(**SHAPES)
def test_equals_float64(
    backend: BackendCase, names: Sequence[str], views: int, patches: int, heads: int, size: int, queries: int, seed: int
) -> None:
    views = min(views, 3) if backend.slow else views
    for name in names:
        note(name)
        check(backend, name, (views, patches, heads, size, queries), seed)


def test_edges_equal_float64(backend: BackendCase, subtests: pytest.Subtests) -> None:
    for (views, *shape), name in product(EDGES, CODECS):
        with subtests.test(f"{views}, {shape}, {name}"):
            check(backend, name, (min(views, 3) if backend.slow else views, *shape), 0)


@pytest.mark.parametrize(("patches", "dim", "heads"), [(49, 64, 8), (9, 48, 3)])
def test_fp16_equals_the_published_formula(backend: BackendCase, patches: int, dim: int, heads: int) -> None:
    """The oracle folds nothing; the only difference is the rounding of the tokens."""
    model = pool_flair(dim, heads, seed=7)
    local = torch.randn(5, patches, dim).double() * 3 + 1
    tokens = F.layer_norm(local, (dim,), eps=LAYER_NORM_EPS).numpy().astype(np.float16)
    flat = np.zeros(tokens.shape[:2], np.float16)
    codec = make_codec("fp16", patches, dim)
    rows = codec.encode(EncodedViews(tokens[:, 0], tokens, flat, flat))
    texts = 2 * torch.randn(4, dim)
    queries = model.folded_pool.fold_texts(texts.numpy(), ["text"] * 4)
    found = backend.score(codec, rows, model.folded_pool.weights, queries)
    expected = [oracle_pool(model, text, local)[0] for text in texts]
    np.testing.assert_allclose(found, np.stack(expected, 1), rtol=0, atol=2e-3)


@pytest.mark.filterwarnings("error")
@given(names=ONE_CODEC, bias=st.floats(-200, 200, width=32))
@example(names=CODECS, bias=-200.0)
@example(names=CODECS, bias=0.0)
@example(names=CODECS, bias=200.0)
def test_extreme_logits(backend: BackendCase, names: Sequence[str], bias: float) -> None:
    """The zero key takes all of the attention or none, without overflow or warning."""
    weights, queries = pool(4, 16), ask(2, 4, 64)
    for name in names:
        note(name)
        codec, rows = make(name, 3, 49, 64)
        for factor in (0, 1, 30):
            moved = steeper(queries, factor, bias)
            found, exact = backend.score(codec, rows, weights, moved), in_float64(codec, rows, weights, moved)
            np.testing.assert_allclose(found, exact, rtol=0, atol=10 * backend.exact)
        for factor in (1e6, 1e20):
            if factor <= backend.steepest:
                found = backend.score(codec, rows, weights, steeper(queries, factor, bias))
                assert np.isfinite(found).all()
                assert np.abs(found).max() <= 1 + 1e-5


@pytest.mark.filterwarnings("error")
def test_a_pool_with_zero_output_scores_zero(backend: BackendCase) -> None:
    codec, rows = make("fp16", 3, 9, 16)
    nothing = PoolWeights(*(np.zeros(s, np.float32) for s in ((2, 8, 16), (2, 8), (16, 16), (16,))), 1.0, 0.0)
    np.testing.assert_array_equal(backend.score(codec, rows, nothing, ask(2, 2, 16)), np.zeros((3, 2)))


def layouts_of(rows: Rows, file: Path) -> Iterator[Rows]:
    """Yield the same rows memory-mapped, read-only, strided, in column order, and as a part of wider rows."""
    rows.tofile(file)
    yield np.memmap(file, np.uint8, "r", shape=rows.shape)
    frozen = rows.copy()
    frozen.flags.writeable = False
    yield frozen
    yield np.repeat(rows, 2, axis=0)[::2]
    yield np.asfortranarray(rows)
    wide = np.full((len(rows), rows.shape[1] + 7), 255, np.uint8)
    wide[:, 3:-4] = rows
    yield wide[:, 3:-4]


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_rows_of_any_memory_layout(backend: BackendCase, tmp_path: Path) -> None:
    for name in CODECS:
        codec, rows = make(name, 6, 9, 64)
        weights, queries = pool(4, 16), ask(1, 4, 64)
        expected = backend.score(codec, rows, weights, queries)
        for kind in layouts_of(rows, tmp_path / name):
            found = backend.score(codec, kind, weights, queries)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
        alone = [backend.score(codec, rows[i : i + 1], weights, queries) for i in range(len(rows))]
        np.testing.assert_allclose(np.concatenate(alone), expected, rtol=0, atol=1e-6)
