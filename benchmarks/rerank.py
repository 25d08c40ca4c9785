"""Measure re-ranking on the CPU: every codec against the reference's top-k mode, the machine's limits and float64.

    python -m benchmarks.rerank [--dim 512] [--heads 8] [--quick] [--json FILE]

Tokens are synthetic, with 196 patches. Rows lie in memory in random order, as after a read from the store. All paths
end in scores, so heads, output projection and cosine are included. Pairs are views times queries, times are medians of
wall time. The roofline is the smaller of the memory's rate and of the matrix rate at 4 H operations per pair and
number, for all P x D numbers and for the coded numbers only. The machine's limits are measured between the rows too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from flairsearch.codecs.codec import AVERAGE_BITS, Fp16, Quantised, make_codec, needs_basis
from flairsearch.codecs.transform import fit_basis
from flairsearch.core.types import EncodedText, EncodedViews, PoolWeights
from flairsearch.rerank.numba_backend import attend, pack_projection
from flairsearch.rerank.numba_backend import score as score_rows
from flairsearch.rerank.torch_backend import TorchPool

PATCHES = 196
DISTINCT_VIEWS = 128  # Number of different views; more candidates are copies of them.
CODECS = ("fp16", "int8", "q4", "q2", "q1")
MIN_SECONDS = 1.0  # Shortest total time of one figure, except for very slow calls.
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """One measured path."""

    path: str
    queries: int
    candidates: int
    bytes: int  # Stored bytes per view.
    pairs: float  # Pairs per second.
    gigabytes: float  # Stored gigabytes read per second.
    roofline: float  # Share of the roofline over all numbers.
    coded: float  # Share of the roofline over the coded numbers.
    times: float  # Rate as a multiple of the reference's rate.
    error: float | None  # Largest difference of a score from float64.


class Machine:
    """Limits of the machine, as medians of all measurements so far."""

    def __init__(self) -> None:
        self._memory = np.ones(64 << 20, np.float32)
        self._matrix = torch.randn(2048, 2048)
        self._bandwidths: list[float] = []
        self._rates: list[float] = []

    def measure(self) -> None:
        """Measure the memory bandwidth and the matrix rate once more."""
        parts = np.array_split(self._memory, os.cpu_count() or 1)
        with ThreadPoolExecutor(len(parts)) as pool:
            seconds = median_time(lambda: list(pool.map(np.sum, parts)), 0.3)
        self._bandwidths.append(self._memory.nbytes / seconds)
        self._rates.append(2 * 2048**3 / median_time(lambda: self._matrix @ self._matrix, 0.5))

    @property
    def bandwidth(self) -> float:
        """Return the bytes read per second."""
        return statistics.median(self._bandwidths)

    @property
    def rate(self) -> float:
        """Return the fp32 operations of a matrix product per second."""
        return statistics.median(self._rates)

    @staticmethod
    def name() -> str:
        """Return the processor and the number of its cores."""
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {platform.system()}"


def median_time(work: Callable[[], object], seconds: float = MIN_SECONDS) -> float:
    """Return the median seconds of a call, over at least three calls and `seconds`."""
    work()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 50):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
        if times[0] > 20:
            break
    return statistics.median(times)


class Reference:
    """The reference model's top-k mode, which projects keys and values of every candidate."""

    def __init__(self, dim: int, heads: int) -> None:
        self._norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self._attention = nn.MultiheadAttention(dim, heads, batch_first=True, add_zero_attn=True)

    @torch.inference_mode()
    def score(self, local: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Score tokens [n, P, D] for one text [1, D]."""
        scores = []
        for part in local.split(16):
            q, k, v = (n(x) for n, x in zip(self._norms, (text.expand(len(part), 1, -1), part, part), strict=True))
            pooled, _ = self._attention(q, k, v, need_weights=False)
            scores.append(F.cosine_similarity(pooled[:, 0], text, dim=-1))
        return torch.cat(scores)


def make_weights(dim: int, heads: int) -> PoolWeights:
    """Draw random weights of the pool."""
    rng = np.random.default_rng(1)
    shapes = ((heads, dim // heads, dim), (heads, dim // heads), (dim, dim), (dim,))
    return PoolWeights(*(rng.normal(size=s).astype(np.float32) / dim**0.5 for s in shapes), 1.0, 0.0)


def make_queries(number: int, dim: int, heads: int) -> list[EncodedText]:
    """Draw random encoded texts."""
    rng = np.random.default_rng(2)
    shapes = ((dim,), (heads, dim), (heads,))
    return [EncodedText("", *(rng.normal(size=s).astype(np.float32) / dim**0.5 for s in shapes)) for _ in range(number)]


def make_tokens(dim: int) -> NDArray[np.float16]:
    """Draw tokens f16[n, P, D] with unequal channels and similar neighbours, like tokens of photos."""
    rng = np.random.default_rng(0)
    grid = rng.normal(size=(DISTINCT_VIEWS, 14, 14, dim)).astype(np.float32)
    grid += np.roll(grid, 1, 1) + np.roll(grid, 1, 2)
    tokens = (grid * np.logspace(0.5, -0.5, dim)).reshape(DISTINCT_VIEWS, PATCHES, dim)
    return np.asarray(tokens / tokens.std(-1, keepdims=True), np.float16)


def exact_scores(x: NDArray[np.float64], queries: list[EncodedText], weights: PoolWeights) -> NDArray[np.float64]:
    """Compute scores f64[n, Q] from coordinates f64[n, P, C], with queries and weights in these coordinates."""
    scores = []
    for q in queries:
        logits = np.concatenate([x @ q.u.T.astype(float) + q.c, np.zeros((len(x), 1, len(q.c)))], axis=1)
        weight = np.exp(logits - logits.max(1, keepdims=True))
        weight = (weight / weight.sum(1, keepdims=True))[:, :-1]
        mixed = np.einsum("nph,npc->nhc", weight, x, optimize=True)
        heads = np.einsum("nhc,hdc->nhd", mixed, weights.value.astype(float), optimize=True)
        heads += weight.sum(1)[..., None] * weights.value_bias
        pooled = heads.reshape(len(x), -1) @ weights.out.T.astype(float) + weights.out_bias
        scores.append(pooled @ q.vector / np.linalg.norm(pooled, axis=1) / np.linalg.norm(q.vector))
    return np.stack(scores, axis=1)


class Benchmark:
    """Measures all paths for one size of the model."""

    def __init__(self, dim: int, heads: int) -> None:
        self.dim, self.heads, self.machine = dim, heads, Machine()
        self.weights, self.tokens, self.rows = make_weights(dim, heads), make_tokens(dim), list[Row]()
        self._reference = 0.0

    def reference(self, candidates: int) -> None:
        """Measure the reference, to which the other rates are compared."""
        model = Reference(self.dim, self.heads)
        local = torch.from_numpy(self.tokens[np.arange(candidates) % DISTINCT_VIEWS].astype(np.float32))
        text = torch.randn(1, self.dim)
        seconds = median_time(lambda: model.score(local, text))
        self._reference = candidates / seconds
        self.add("reference, top-k", 1, candidates, 4 * PATCHES * self.dim, PATCHES * self.dim, (seconds, None))

    def codec(self, name: str, queries: list[int], candidates: list[int], *, unfused: bool = False) -> None:
        """Measure one codec, fused or (fp16 only) decoded and scored in torch."""
        sample = self.tokens.astype(np.float16)
        metric = np.eye(self.dim, dtype=np.float32)
        basis = fit_basis(sample, metric, AVERAGE_BITS[name]) if needs_basis(name) else None
        codec = make_codec(name, PATCHES, self.dim, basis)
        ones = np.ones(sample.shape[:2], np.float16)
        encoded = codec.encode(EncodedViews(sample[:, 0], sample, ones, ones))
        coded = int(codec.basis.counts.sum(dtype=np.int64)) if isinstance(codec, Quantised) else PATCHES * self.dim
        weights = codec.fold_weights(self.weights)
        projection = pack_projection(weights)
        plain = TorchPool(weights, spatial=codec.spatial)
        order = np.random.default_rng(3).integers(0, DISTINCT_VIEWS, max(candidates))
        rows = encoded[order]  # Copies, so that as many bytes are read as from different views.
        for number in queries:
            asked = [codec.fold(query) for query in make_queries(number, self.dim, self.heads)]
            u, c, text = (np.stack([getattr(q, part) for q in asked]) for part in ("u", "c", "vector"))

            def score(
                rows: NDArray[np.uint8], asked: list[EncodedText] = asked, folded: tuple[F32, F32, F32] = (u, c, text)
            ) -> F32:
                if unfused:
                    assert isinstance(codec, Fp16)
                    return plain.score_many((codec.decode(rows[i : i + 128]) for i in range(0, len(rows), 128)), asked)
                return score_rows(codec, rows, projection, *folded)

            y = codec.decode(rows[:16]).astype(float)
            x = y if codec.spatial is None else np.einsum("fp,nfc->npc", codec.spatial.astype(float), y, optimize=True)
            error = float(np.abs(score(rows[:16]) - exact_scores(x, asked, weights)).max())
            for count in candidates:
                if count * number > 64_000:  # Larger products would take minutes.
                    continue
                seconds = median_time(lambda score=score, count=count: score(rows[:count]))  # type: ignore[misc]
                label = "folded, torch fp16" if unfused else f"fused {name}"
                self.add(label, number, count, codec.stride, coded, (seconds, error))

    def add(
        self, path: str, queries: int, count: int, size: int, coded: int, found: tuple[float, float | None]
    ) -> None:
        """Add and print a row. found: seconds and the largest error."""
        self.machine.measure()
        seconds, error = found
        pairs, each = count * queries / seconds, 4 * self.heads
        memory = self.machine.bandwidth / size * queries
        shares = [pairs / min(memory, self.machine.rate / each / n) for n in (PATCHES * self.dim, coded)]
        gigabytes, times = count * size / seconds / 1e9, pairs / self._reference
        row = Row(path, queries, count, size, pairs, gigabytes, shares[0], shares[1], times, error)
        self.rows.append(row)
        print(
            f"| {path} | {queries} | {count:,} | {size:,} | {pairs:,.0f} | {gigabytes:.2f} | {shares[0]:.0%} "
            f"| {shares[1]:.0%} | {times:.1f} | {'' if error is None else f'{error:.1e}'} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure re-ranking on the CPU.")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument(
        "--quick", action="store_true", help="measure only 100 and 1,000 candidates, and 1 and 8 queries"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    queries, candidates = ([1, 8], [100, 1000]) if args.quick else ([1, 8, 64], [100, 1000, 10_000])

    bench = Benchmark(args.dim, args.heads)
    began = time.perf_counter()
    codec = make_codec("int8", PATCHES, args.dim)
    attend(codec, np.zeros((1, codec.stride), np.uint8), np.zeros((1, 1, args.dim), np.float32), np.zeros((1, 1), "f4"))
    first = time.perf_counter() - began
    print(f"{Machine.name()}; {PATCHES} patches, D {args.dim}, H {args.heads}; first call {first:.1f} s")
    print("| path | queries | candidates | bytes a view | pairs/s | GB/s | of roofline | coded | x reference | error |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    bench.reference(100)
    bench.codec("fp16", queries, candidates[:2], unfused=True)
    for name in CODECS:
        bench.codec(name, queries, candidates)
    machine = bench.machine
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    print(f"reads {machine.bandwidth / 1e9:.1f} GB/s, fp32 matrices {machine.rate / 1e9:.0f} GFLOP/s; load {load:.1f}")
    if args.json:
        facts = {"machine": Machine.name(), "dim": args.dim, "heads": args.heads, "patches": PATCHES, "first_s": first}
        facts |= {"bandwidth": machine.bandwidth, "rate": machine.rate, "load": load}
        args.json.write_text(json.dumps({**facts, "rows": [asdict(row) for row in bench.rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
