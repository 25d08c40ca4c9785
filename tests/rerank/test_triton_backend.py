"""The triton kernels against FLAIR's published formula in float64, in triton's interpreter or on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from flairsearch.codecs.codec import AVERAGE_BITS, Codec, make_codec
from flairsearch.codecs.transform import TransformBasis, fit_basis
from flairsearch.core.types import EncodedText, EncodedViews, PoolWeights
from flairsearch.model.flair import FLAIR, LAYER_NORM_EPS
from tests.support.random_flair import oracle_pool, pool_flair

pytest.importorskip("triton", reason="triton is not installed")
from flairsearch.rerank import triton_backend
from flairsearch.rerank.triton_backend import attend, stream

pytestmark = pytest.mark.interpreter
GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # The variable must be set before triton is imported.
on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not GPU, reason="no CUDA GPU")]
here = [pytest.mark.skipif(GPU and not INTERPRETED, reason="the kernels are compiled for the GPU in this process")]
both = pytest.mark.parametrize("device", [pytest.param("cpu", marks=here), pytest.param("cuda", marks=on_gpu)])
CODECS = ("fp16", "int8", "q4", "q2", "q1")


@cache
def pool(dim: int, heads: int) -> FLAIR:
    return pool_flair(dim, heads, seed=dim)


def local_tokens(views: int, patches: int, dim: int) -> torch.Tensor:
    """Draw tokens f64[N, P, D], each with its own mean and scale; neighbours are similar, variances differ."""
    torch.manual_seed(views + patches)
    tokens = torch.randn(views, patches, dim, dtype=torch.float64).cumsum(1) / patches**0.5
    tokens = tokens * torch.linspace(3, 0.1, dim) + 0.3 * torch.randn(views, patches, dim)
    return tokens * (0.5 + 3 * torch.rand(views, patches, 1)) + torch.randn(views, patches, 1)


def encoded(local: torch.Tensor) -> EncodedViews:
    x = F.layer_norm(local, local.shape[-1:], eps=LAYER_NORM_EPS).numpy().astype(np.float16)
    moments = np.ones(x.shape[:2], np.float16)
    return EncodedViews(np.ones((len(x), x.shape[-1]), np.float16), x, moments, moments)


@cache
def basis_of(patches: int, dim: int, average: float) -> TransformBasis:
    root = (
        np.random.default_rng(dim).normal(size=(dim, dim)).astype(np.float32) * 30
    )  # The metric gives y a scale far from 1.
    return fit_basis(encoded(local_tokens(24, patches, dim)).tokens, root @ root.T / dim, average)


def codec_of(name: str, patches: int, dim: int) -> Codec:
    basis = basis_of(patches, dim, AVERAGE_BITS[name]) if name in AVERAGE_BITS else None
    return make_codec(name, patches, dim, basis)


def queries_of(model: FLAIR, count: int) -> list[EncodedText]:
    torch.manual_seed(count)
    text = 2 * torch.randn(count, model.config.embed_dim)
    u, c = model.folded_pool.fold(text.float().numpy())
    return [EncodedText("", t.numpy(), *folded) for t, *folded in zip(text, u, c, strict=True)]


def run(
    codec: Codec, rows: np.ndarray | torch.Tensor, queries: list[EncodedText], device: str
) -> tuple[np.ndarray, np.ndarray]:
    """Fold queries into the codec's coordinates and run `attend`."""
    folded = [codec.fold(query) for query in queries]
    u, c = (np.stack([getattr(query, name) for query in folded]).astype(np.float32) for name in ("u", "c"))
    rows = torch.from_numpy(rows).to(device) if isinstance(rows, np.ndarray) else rows
    mixed, share = attend(codec, rows, torch.from_numpy(u).to(device), torch.from_numpy(c).to(device))
    assert mixed.dtype == share.dtype == torch.float32
    assert mixed.shape == (len(rows), *u.shape)
    assert share.shape == (len(rows), *c.shape)
    return mixed.cpu().numpy().astype(np.float64), share.cpu().numpy().astype(np.float64)


def plain(codec: Codec, rows: np.ndarray, queries: list[EncodedText]) -> tuple[np.ndarray, np.ndarray]:
    """Return mixed f64[n, Q, H, D] and share f64[n, Q, H] over decoded tokens, with an explicit zero key."""
    x = codec.decode(rows).astype(np.float64)
    if codec.spatial is not None:
        x = codec.spatial.T.astype(np.float64) @ x @ codec.basis.inverse.astype(np.float64) + codec.basis.mean
    u, c = (np.stack([getattr(query, name) for query in queries]).astype(np.float64) for name in ("u", "c"))
    logits = np.einsum("npd,qhd->nqhp", x, u, optimize=True) + c[..., None]
    logits = np.concatenate([logits, np.zeros((*logits.shape[:-1], 1))], -1)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights = (weights / weights.sum(-1, keepdims=True))[..., :-1]
    return np.einsum("nqhp,npd->nqhd", weights, x, optimize=True), weights.sum(-1)


def unfolded(codec: Codec, mixed: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Convert sum_p a_p y_p in the codec's coordinates to sum_p a_p x_p."""
    if codec.spatial is None:
        return mixed
    return mixed @ codec.basis.inverse.astype(np.float64) + share[..., None] * codec.basis.mean


def scores_of(weights: PoolWeights, queries: list[EncodedText], mixed: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Project mixed tokens and return the scores f64[n, Q]."""
    pooled = np.einsum("nqhd,hed->nqhe", mixed, weights.value.astype(np.float64), optimize=True)
    pooled = (pooled + share[..., None] * weights.value_bias).reshape(*share.shape[:2], -1)
    pooled = pooled @ weights.out.T.astype(np.float64) + weights.out_bias
    text = np.stack([query.vector for query in queries]).astype(np.float64)
    return (pooled * text).sum(-1) / np.linalg.norm(pooled, axis=-1) / np.linalg.norm(text, axis=-1)


def check(name: str, views: int, patches: int, dim: int, queries: int, heads: int, device: str) -> None:
    model, local, codec = pool(dim, heads), local_tokens(views, patches, dim), codec_of(name, patches, dim)
    rows, asked = codec.encode(encoded(local)), queries_of(model, queries)
    mixed, share = run(codec, rows, asked, device)
    expected, whole = plain(codec, rows, asked)
    assert np.abs(share - whole).max() <= (2e-4 if codec.spatial is not None else 2e-6)
    assert ((share > 0) & (share <= 1)).all()
    assert np.abs(unfolded(codec, mixed, share) - expected).max() <= 2e-3 * np.abs(expected).max()

    weights, folded = model.folded_pool.weights, codec.fold_weights(model.folded_pool.weights)
    found, right = scores_of(folded, asked, mixed, share), scores_of(weights, asked, expected, whole)
    typical = 0.5 * dim**-0.5  # Half the typical cosine of random vectors; a single score can be near 0.
    assert np.abs(found - right).max() <= 1e-3 * max(typical, np.abs(right).max())
    if name in ("fp16", "int8"):  # This error includes the codec's; it is larger if one patch has all attention.
        exact = np.stack([oracle_pool(model, torch.from_numpy(q.vector), local)[0] for q in asked], 1)
        codecs = {"fp16": 1e-3, "int8": 1e-2}[name] * (2 if patches == 1 else 1)
        assert np.abs(found - exact).max() <= codecs * max(typical, np.abs(exact).max())


GRID = list(product((1, 3, 127), (1, 49, 196), (64, 512), (1, 2, 5), (8,)))
HUGE = [(127, 196, 512, 5, 8), (127, 196, 512, 1, 8), (3, 196, 512, 64, 8), (1000, 49, 100, 2, 4)]


def with_logits(query: EncodedText, x: np.ndarray, spread: float, middle: float) -> EncodedText:
    """Scale and shift a query so that each head's logits over x f64[n, P, D] have a given spread and middle."""
    u = query.u.astype(np.float64)
    logits = np.einsum("npd,hd->nph", x, u, optimize=True).reshape(-1, len(u))
    factor = spread / np.maximum(logits.std(0), 1e-9)
    c = middle - factor * logits.mean(0)
    return EncodedText("", query.vector, (u * factor[:, None]).astype(np.float32), c.astype(np.float32))


def interpret(*arguments: str, timeout: int) -> None:
    """Run pytest in a separate process, because triton chooses the interpreter when it is first imported."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    assert " passed" in done.stdout


elsewhere = pytest.mark.skipif(GPU or INTERPRETED, reason="the kernels are tested in this very process")


@elsewhere
def test_kernels_in_the_interpreter() -> None:
    interpret(f"{__file__}::TestKernels", str(Path(__file__).with_name("test_gpu_segment_cache.py")), timeout=600)


@elsewhere
def test_the_contract_in_the_interpreter() -> None:
    interpret("-k", "triton", str(Path(__file__).with_name("test_backends.py")), timeout=600)


@elsewhere
@pytest.mark.grid
def test_the_whole_grid_in_the_interpreter() -> None:
    """This takes minutes, so only `make test-all` runs it."""
    interpret("-m", "grid", f"{__file__}::TestGrid", timeout=3000)


@pytest.mark.grid
class TestGrid:
    """Every shape with every codec."""

    __test__ = GPU or INTERPRETED

    @both
    @pytest.mark.parametrize("name", CODECS)
    @pytest.mark.parametrize("shape", GRID, ids=str)
    def test_equals_flair_in_float64(self, name: str, shape: tuple[int, int, int, int, int], device: str) -> None:
        check(name, *shape, device)


class TestKernels:
    __test__ = GPU or INTERPRETED

    @pytest.mark.gpu
    @pytest.mark.skipif(not GPU, reason="no CUDA GPU")
    @pytest.mark.parametrize("name", CODECS)
    @pytest.mark.parametrize("shape", HUGE, ids=str)
    def test_equals_flair_on_a_gpu(self, name: str, shape: tuple[int, int, int, int, int]) -> None:
        check(name, *shape, "cuda")

    @both
    @pytest.mark.parametrize("name", CODECS)
    @pytest.mark.parametrize(
        ("spread", "middle"), [(0, 0), (0, 60), (1, 300), (1, -12), (1, -30), (1, -60), (40, 0), (200, 0), (20, -60)]
    )
    def test_extreme_logits(self, name: str, spread: float, middle: float, device: str) -> None:
        """The zero key takes all attention or none, one patch takes all, and weights are too small for float16."""
        patches, dim = 49, 64
        codec, model = codec_of(name, patches, dim), pool(dim, 4)
        rows = codec.encode(encoded(local_tokens(3, patches, dim)))
        x = codec.restore(rows).astype(np.float64)
        asked = [with_logits(query, x, spread, middle) for query in queries_of(model, 2)]
        mixed, share = run(codec, rows, asked, device)
        expected, whole = plain(codec, rows, asked)
        loudest = max(np.abs(x @ query.u.T).max() for query in asked)
        tolerance = 1e-3 + 5e-4 * loudest * (
            codec.spatial is not None
        )  # In frequencies, y is rounded to 11 bits a second time.
        assert np.isfinite(mixed).all()
        assert np.abs(share / whole - 1).max() <= tolerance + 1e-5 * (abs(middle) + loudest)
        found, right = unfolded(codec, mixed, share) / share[..., None], expected / whole[..., None]
        assert np.abs(found - right).max() <= 2 * tolerance * np.abs(right).max()

    @both
    def test_constant_and_zero_views(self, device: str) -> None:
        """With equal tokens and with zero tokens, every step and gain is at the end of its range."""
        for name in CODECS:
            codec, asked = codec_of(name, 49, 64), queries_of(pool(64, 4), 1)
            x = encoded(local_tokens(3, 49, 64)).tokens
            x[0], x[1] = x[0, 0], 0
            rows = codec.encode(EncodedViews(np.ones((3, 64), np.float16), x, x[..., 0], x[..., 0]))
            mixed, share = run(codec, rows, asked, device)
            expected, whole = plain(codec, rows, asked)
            assert np.abs(share - whole).max() <= 1e-3
            assert np.abs(unfolded(codec, mixed, share) - expected).max() <= 2e-3 * np.abs(expected).max()

    @both
    @pytest.mark.parametrize("name", CODECS)
    def test_rows_at_any_address(self, name: str, device: str) -> None:
        """Rows are parts of wider rows, have odd lengths, or are empty."""
        patches, dim = (7, 9) if name in ("fp16", "int8") else (49, 64)
        codec = codec_of(name, patches, dim)
        model = pool(9, 3) if dim == 9 else pool(64, 4)
        asked = queries_of(model, 1)
        rows = codec.encode(encoded(local_tokens(6, patches, dim)))
        assert name != "int8" or codec.stride % 2
        there = torch.from_numpy(rows).to(device)
        mixed, share = run(codec, rows, asked, device)
        for part in (slice(1, 2), slice(3, 6)):
            found = run(codec, there[part], asked, device)
            assert np.allclose(found[0], mixed[part], rtol=1e-5, atol=1e-6)
            assert np.allclose(found[1], share[part], rtol=1e-5)
        assert len(run(codec, there[:0], asked, device)[0]) == 0
        with pytest.raises(ValueError, match="rows are"):
            run(codec, there[:, 1:], asked, device)

    @both
    def test_the_division_into_chunks_does_not_change_results(
        self, device: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A quantised codec with scratch memory for few views gives the same results."""
        codec, asked = codec_of("q2", 49, 64), queries_of(pool(64, 4), 1)
        rows = codec.encode(encoded(local_tokens(21, 49, 64)))
        mixed, share = run(codec, rows, asked, device)
        monkeypatch.setattr(triton_backend, "_SCRATCH_VALUES", 9 * 64 * 4)
        again = run(codec, rows, asked, device)
        close = 1e-6 * float(np.abs(mixed).max())  # Large numbers cancel, and are summed in another order.
        assert np.allclose(again[0], mixed, rtol=1e-5, atol=close)
        assert np.allclose(again[1], share, rtol=1e-5)


def overwritten(pieces: list[np.ndarray]):
    """Yield pieces as a reader does: each overwrites the one before."""
    memory = np.empty(max(piece.size for piece in pieces), np.uint8)
    for piece in pieces:
        memory[: piece.size] = piece.reshape(-1)
        yield memory[: piece.size].reshape(piece.shape)
    memory[:] = 0


@both
def test_stream(device: str) -> None:
    """Sums are computed on the device while the next piece is copied, and compared at the end."""
    rng = np.random.default_rng(0)
    pieces = [rng.integers(0, 256, (n, 1001), dtype=np.uint8) for n in (3, 1, 700, 0, 2, 900, 900, 900, 5)]
    sums = [piece.sum(1, dtype=torch.int64) for piece in stream(overwritten(pieces), device)]
    assert [s.tolist() for s in sums] == [piece.sum(1, dtype=np.int64).tolist() for piece in pieces]
    assert list(stream([], device)) == []


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from flairsearch.rerank import triton_kernels as module

POINTERS = dict(high="*fp16", low="*fp16", factor="*fp32", c="*fp32", mixed="*fp32", share="*fp32", addresses="*i32",
                steps="*fp32", coded_channels="*i32", out="*fp32", coded_frequencies="*i32",
                weights="*fp16", size="*fp32", scale="*fp32")
FIXED = dict(ALIGN=8, BD=64, BQ=16)
for kernel, rows, fixed in (
    (module.attend_patches, "*fp16", {"INT8": False}),
    (module.attend_patches, "*i8", {"INT8": True}),
    (module.project, "*u8", {}),
    (module.mix, "*u8", {}),
):
    config, names = kernel.configs[-1], kernel.fn.arg_names
    fixed = {n: v for n, v in {**FIXED, **fixed, **config.kwargs}.items() if n in names}
    types = {n: "constexpr" if n in fixed else {**POINTERS, "rows": rows}.get(n, "i32") for n in names}
    source = ASTSource(kernel.fn, types, {(names.index(n),): v for n, v in fixed.items()})
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert len(compiled.asm["cubin"]) > 1000
    print(source.name, compiled.metadata.shared)
"""


def test_the_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    """The compiler may reject what the interpreter accepts; compile to machine code for compute capability 9.0."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-W", "ignore", "-c", COMPILE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 4
