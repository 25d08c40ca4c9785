"""Re-ranking on the CPU: every codec against the reference's top-k mode, the machine's limits, and float64.

    python -m benchmarks.rerank [--dim 512] [--heads 8] [--quick] [--json FILE]

Synthetic tokens of 196 patches; rows lie in memory, as after a read from the store, in no order. All paths end in
scores: heads, output projection and cosine are in the time. Pairs are views times queries; medians of wall time. The
roofline is the smaller of what the memory can deliver and of the matrix rate over 4 H operations a pair and number:
of all P x D numbers, and of those that are coded. What the machine can do is measured between the rows, too.
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

PATCHES, DISTINCT = 196, 128
CODECS = ("fp16", "int8", "q4", "q2", "q1")
SECONDS = 1.0  # spent on one figure at least, but for the slowest
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    path: str
    queries: int
    candidates: int
    bytes: int  # of a view
    pairs: float  # a second
    gigabytes: float  # of stored bytes a second
    roofline: float  # share, over all numbers
    coded: float  # share, over the coded ones
    times: float  # the reference's rate
    error: float | None  # largest of a score against float64


class Machine:
    """What it can do; the median of all measurements."""

    def __init__(self) -> None:
        self._memory = np.ones(64 << 20, np.float32)
        self._matrix = torch.randn(2048, 2048)
        self._bandwidths: list[float] = []
        self._rates: list[float] = []

    def measure(self) -> None:
        parts = np.array_split(self._memory, os.cpu_count() or 1)
        with ThreadPoolExecutor(len(parts)) as pool:
            seconds = median_time(lambda: list(pool.map(np.sum, parts)), 0.3)
        self._bandwidths.append(self._memory.nbytes / seconds)
        self._rates.append(2 * 2048**3 / median_time(lambda: self._matrix @ self._matrix, 0.5))

    @property
    def bandwidth(self) -> float:
        return statistics.median(self._bandwidths)

    @property
    def rate(self) -> float:
        return statistics.median(self._rates)

    @staticmethod
    def name() -> str:
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {platform.system()}"


def median_time(work: Callable[[], object], seconds: float = SECONDS) -> float:
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
    """Keys and values projected for every candidate, as the reference model does in its top-k mode."""

    def __init__(self, dim: int, heads: int) -> None:
        self._norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self._attention = nn.MultiheadAttention(dim, heads, batch_first=True, add_zero_attn=True)

    @torch.inference_mode()
    def score(self, local: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        scores = []
        for part in local.split(16):
            q, k, v = (n(x) for n, x in zip(self._norms, (text.expand(len(part), 1, -1), part, part), strict=True))
            pooled, _ = self._attention(q, k, v, need_weights=False)
            scores.append(F.cosine_similarity(pooled[:, 0], text, dim=-1))
        return torch.cat(scores)


def make_weights(dim: int, heads: int) -> PoolWeights:
    rng = np.random.default_rng(1)
    shapes = ((heads, dim // heads, dim), (heads, dim // heads), (dim, dim), (dim,))
    return PoolWeights(*(rng.normal(size=s).astype(np.float32) / dim**0.5 for s in shapes), 1.0, 0.0)


def make_queries(number: int, dim: int, heads: int) -> list[EncodedText]:
    rng = np.random.default_rng(2)
    shapes = ((dim,), (heads, dim), (heads,))
    return [EncodedText("", *(rng.normal(size=s).astype(np.float32) / dim**0.5 for s in shapes)) for _ in range(number)]


def make_tokens(dim: int) -> NDArray[np.float16]:
    """f16[n, P, D] with some channels louder than others and neighbours alike, as tokens of photos are."""
    rng = np.random.default_rng(0)
    grid = rng.normal(size=(DISTINCT, 14, 14, dim)).astype(np.float32)
    grid += np.roll(grid, 1, 1) + np.roll(grid, 1, 2)
    tokens = (grid * np.logspace(0.5, -0.5, dim)).reshape(DISTINCT, PATCHES, dim)
    return np.asarray(tokens / tokens.std(-1, keepdims=True), np.float16)


def exact_scores(x: NDArray[np.float64], queries: list[EncodedText], weights: PoolWeights) -> NDArray[np.float64]:
    """Coordinates over patches f64[n, P, C], queries and weights in them -> f64[n, Q]."""
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


class Bench:
    def __init__(self, dim: int, heads: int) -> None:
        self.dim, self.heads, self.machine = dim, heads, Machine()
        self.weights, self.tokens, self.rows = make_weights(dim, heads), make_tokens(dim), list[Row]()
        self._reference = 0.0

    def reference(self, candidates: int) -> None:
        model = Reference(self.dim, self.heads)
        local = torch.from_numpy(self.tokens[np.arange(candidates) % DISTINCT].astype(np.float32))
        text = torch.randn(1, self.dim)
        seconds = median_time(lambda: model.score(local, text))
        self._reference = candidates / seconds
        self.add("reference, top-k", 1, candidates, 4 * PATCHES * self.dim, PATCHES * self.dim, (seconds, None))

    def codec(self, name: str, queries: list[int], candidates: list[int], *, unfused: bool = False) -> None:
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
        order = np.random.default_rng(3).integers(0, DISTINCT, max(candidates))
        rows = encoded[order]  # copies: as many bytes as that many views
        for number in queries:
            asked = [codec.fold(query) for query in make_queries(number, self.dim, self.heads)]
            u, c, text = (np.stack([getattr(q, part) for q in asked]) for part in ("u", "c", "vector"))

            def score(
                some: NDArray[np.uint8], asked: list[EncodedText] = asked, folded: tuple[F32, F32, F32] = (u, c, text)
            ) -> F32:
                if unfused:
                    assert isinstance(codec, Fp16)
                    return plain.score_many((codec.decode(some[i : i + 128]) for i in range(0, len(some), 128)), asked)
                return score_rows(codec, some, projection, *folded)

            y = codec.decode(rows[:16]).astype(float)
            x = y if codec.spatial is None else np.einsum("fp,nfc->npc", codec.spatial.astype(float), y, optimize=True)
            error = float(np.abs(score(rows[:16]) - exact_scores(x, asked, weights)).max())
            for count in candidates:
                if count * number > 64_000:  # minutes
                    continue
                seconds = median_time(lambda score=score, count=count: score(rows[:count]))  # type: ignore[misc]
                label = "folded, torch fp16" if unfused else f"fused {name}"
                self.add(label, number, count, codec.stride, coded, (seconds, error))

    def add(
        self, path: str, queries: int, count: int, size: int, coded: int, found: tuple[float, float | None]
    ) -> None:
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
    parser = argparse.ArgumentParser(description="Re-ranking on the CPU.")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="100 and 1,000 candidates, 1 and 8 queries")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    queries, candidates = ([1, 8], [100, 1000]) if args.quick else ([1, 8, 64], [100, 1000, 10_000])

    bench = Bench(args.dim, args.heads)
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
