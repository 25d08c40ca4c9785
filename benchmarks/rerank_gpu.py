"""Measure the fused kernels on a GPU: views and bytes per second against a copy, and a million views scored.

    python -m benchmarks.rerank_gpu [--dim 512] [--patches 196] [--heads 8] [--views 1000000] [--codecs fp16,q4,...]

Rows are 256 encoded views, repeated; each copy has its own memory. Repeated timings read different rows where the
device holds enough of them, so that its cache helps no more than in a search. Times cover complete scores: attention,
projections and cosine. The first call, which compiles and tunes the kernels, is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from flairsearch.codecs.codec import AVERAGE_BITS, Codec, make_codec
from flairsearch.codecs.transform import fit_basis
from flairsearch.core.types import EncodedText, EncodedViews, PoolWeights

CODECS = ("fp16", "int8", "q4", "q2", "q1")
QUERIES = (1, 8, 64)
CANDIDATES = (1_000, 10_000)
DISTINCT_VIEWS = 256  # Number of different views; more views are copies of them.
CHECKED_VIEWS = 32  # Number of views whose scores are compared with float64.
REPEATS = 5
MAX_OUTPUT_NUMBERS = 1 << 26  # float32 numbers that one call may return, which bounds its views.
MEMORY_FRACTION = 0.85  # Fraction of the free device memory that rows may take.


@dataclass(frozen=True)
class Pool:
    """Q texts and the pool's value projection, in the coordinates of a codec.

    u: [Q, H, C] and c: [Q, H], folded queries. text: [Q, D]. value: [H, d, C] and value_bias: [H, d], value projection.
    out: [D, D] and out_bias: [D], output projection.
    """

    u: Tensor
    c: Tensor
    text: Tensor
    value: Tensor
    value_bias: Tensor
    out: Tensor
    out_bias: Tensor

    @staticmethod
    def of(codec: Codec, queries: list[EncodedText], weights: PoolWeights, device: str, dtype: torch.dtype) -> Pool:
        """Fold queries and weights for a codec and move them to the device."""
        folded, side = [codec.fold(query) for query in queries], codec.fold_weights(weights)
        columns = [np.stack([getattr(query, name) for query in folded]) for name in ("u", "c", "vector")]
        arrays = (*columns, side.value, side.value_bias, side.out, side.out_bias)
        return Pool(*(torch.from_numpy(np.ascontiguousarray(array)).to(device, dtype) for array in arrays))

    def cosines(self, mixed: Tensor, share: Tensor) -> Tensor:
        """Return cosines [n, Q] from mixed tokens [n, Q, H, C] and attention of all patches [n, Q, H]."""
        heads = torch.einsum("nqhc,hec->nqhe", mixed, self.value) + share[..., None] * self.value_bias
        return F.cosine_similarity(heads.flatten(2) @ self.out.T + self.out_bias, self.text, dim=-1)

    def scores(self, codec: Codec, rows: Tensor) -> Tensor:
        """Score rows u8[n, stride], f32[n, Q], in calls that return at most MAX_OUTPUT_NUMBERS."""
        from flairsearch.rerank.triton_backend import attend

        step = max(1, MAX_OUTPUT_NUMBERS // self.u.numel())
        parts = [self.cosines(*attend(codec, part, self.u, self.c)) for part in rows.split(step)]
        return torch.cat(parts)

    def exact(self, codec: Codec, rows: np.ndarray) -> Tensor:
        """Compute the scores unfused on the host. The pool must be float64."""
        x = torch.from_numpy(codec.decode(rows).astype(np.float64))
        if codec.spatial is not None:
            x = torch.from_numpy(codec.spatial.astype(np.float64)).T @ x
        logits = torch.einsum("npc,qhc->nqhp", x, self.u) + self.c[..., None]
        weights = F.pad(logits, (0, 1)).softmax(-1)[..., :-1]
        return self.cosines(torch.einsum("nqhp,npc->nqhc", weights, x), weights.sum(-1))


def make_tokens(views: int, patches: int, dim: int) -> EncodedViews:
    """Draw tokens with unequal channels and similar neighbours, like tokens of photos."""
    torch.manual_seed(0)
    local = torch.randn(views, patches, dim).cumsum(1) / patches**0.5 * torch.linspace(3, 0.1, dim)
    x = F.layer_norm(local + 0.3 * torch.randn(views, patches, dim), (dim,)).numpy().astype(np.float16)
    return EncodedViews(
        np.ones((views, dim), np.float16), x, *(np.ones((views, patches), np.float16) for _ in range(2))
    )


def random_pool(queries: int, heads: int, dim: int) -> tuple[list[EncodedText], PoolWeights]:
    """Draw random texts and weights whose logits have a standard deviation of about 2."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> NDArray[np.float32]:
        return rng.normal(size=shape).astype(np.float32)

    texts = [EncodedText("", draw(dim), draw(heads, dim) * 2 / dim**0.5, draw(heads)) for _ in range(queries)]
    small, root = np.float32(0.1), np.float32(dim**0.5)
    value, out = draw(heads, dim // heads, dim) / root, draw(dim, dim) / root
    return texts, PoolWeights(value, draw(heads, dim // heads) * small, out, draw(dim) * small, 1.0, 0.0)


def median_seconds(work: Callable[[int], object], repeats: int = REPEATS) -> float:
    """Return the median device time of work(1), work(2), ...; work(0) runs first and is not counted."""
    work(0)
    times: list[float] = []
    for i in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        work(i + 1)
        end.record()
        torch.cuda.synchronize()
        times.append(float(begin.elapsed_time(end)) / 1e3)
    return statistics.median(times)


def copy_bandwidth() -> float:
    """Return the bytes per second that a copy within the device reads; it writes as many."""
    source = torch.ones(1 << 30, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    return source.nbytes / median_seconds(lambda _: target.copy_(source), 10)


def upload_bandwidth(rows: np.ndarray, pieces: int = 32) -> float:
    """Return the bytes per second that `stream` uploads, in pieces of 256 views."""
    from flairsearch.rerank.triton_backend import stream

    def host_pieces() -> Iterator[np.ndarray]:
        for _ in range(pieces):
            yield rows

    def upload() -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for piece in stream(host_pieces(), "cuda"):
            piece[0, 0].clone()
        torch.cuda.synchronize()
        return time.perf_counter() - began

    upload()
    return pieces * rows.nbytes / statistics.median(upload() for _ in range(3))


def repeated(rows: np.ndarray, views: int) -> Tensor:
    """Repeat rows u8[n, stride] on the device to `views` rows, or to as many as fit."""
    distinct = torch.from_numpy(rows).cuda()
    free, _ = torch.cuda.mem_get_info()
    row_bytes = int(MEMORY_FRACTION * free) - (4 << 30)  # Scoring itself needs up to 4 GiB.
    count = max(1, min(views, row_bytes // rows.shape[1]))
    resident = torch.empty((count, rows.shape[1]), dtype=torch.uint8, device="cuda")
    for start in range(0, count, len(distinct)):
        part = resident[start : start + len(distinct)]
        part.copy_(distinct[: len(part)])
    return resident


def slices(rows: Tensor, count: int) -> Callable[[int], Tensor]:
    """Return a function of i that gives the i-th slice of `count` rows, starting over after the last."""
    slice_count = max(1, len(rows) // count)
    return lambda i: rows[i % slice_count * count :][:count]


def measure(name: str, args: argparse.Namespace, encoded: EncodedViews, copied: float) -> None:
    """Print the table of one codec. copied: bytes per second that a copy reads."""
    basis = None
    if name in AVERAGE_BITS:
        root = np.random.default_rng(1).normal(size=(args.dim, args.dim)).astype(np.float32)
        basis = fit_basis(encoded.tokens, root @ root.T / args.dim, AVERAGE_BITS[name])
    codec = make_codec(name, args.patches, args.dim, basis)
    rows = codec.encode(encoded)
    uploaded = upload_bandwidth(rows)
    resident = repeated(rows, args.views)
    print(f"\n{name}: {codec.stride:,} bytes a view, {len(resident):,} resident; `stream` {uploaded / 1e9:.1f} GB/s")
    print("| queries | views | views/s | stored GB/s | of copy, reads | of copy, reads + writes | error |")
    print("|---|---|---|---|---|---|---|")
    exhaustive = ""
    for queries in QUERIES:
        texts, weights = random_pool(queries, args.heads, args.dim)
        pool = Pool.of(codec, texts, weights, "cuda", torch.float32)
        exact = Pool.of(codec, texts, weights, "cpu", torch.float64).exact(codec, rows[:CHECKED_VIEWS])
        error = (pool.scores(codec, resident[:CHECKED_VIEWS]).double().cpu() - exact).abs().max() / exact.abs().max()
        for count in dict.fromkeys(min(count, len(resident)) for count in (*CANDIDATES, len(resident))):
            part = slices(resident, count)
            rate = count / median_seconds(lambda i, part=part, pool=pool: pool.scores(codec, part(i)))  # type: ignore[misc]
            stored = rate * codec.stride
            shares = f"{stored / copied:.1%} | {stored / copied / 2:.1%}"
            print(f"| {queries} | {count:,} | {rate:,.0f} | {stored / 1e9:,.0f} | {shares} | {error:.1e} |")
        if queries == 1 and name in AVERAGE_BITS:
            took = median_seconds(lambda _, pool=pool: pool.scores(codec, resident)[:, 0].topk(10))  # type: ignore[misc]
            exhaustive = f"1 query, exhaustive, {len(resident):,} views and their top 10: {took * 1e3:.1f} ms"
    print(exhaustive, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the fused kernels on a GPU.")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--patches", type=int, default=196)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--views", type=int, default=1_000_000, help="number of views on the device, if they fit")
    parser.add_argument("--codecs", default=",".join(CODECS))
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA GPU here: nothing measured", file=sys.stderr)
        return 1
    device = torch.cuda.get_device_properties(0)
    copied = copy_bandwidth()
    torch.cuda.empty_cache()
    print(f"{device.name}, {device.total_memory / 2**30:.0f} GiB, torch {torch.__version__}, CUDA {torch.version.cuda}")
    print(f"copies {copied / 1e9:,.0f} GB/s, reads counted once ({2 * copied / 1e9:,.0f} with its writes)")
    print(f"P {args.patches}, D {args.dim}, H {args.heads}")
    encoded = make_tokens(DISTINCT_VIEWS, args.patches, args.dim)
    for name in args.codecs.split(","):
        with torch.inference_mode():
            measure(name, args, encoded, copied)
        torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
