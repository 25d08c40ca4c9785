"""Scores in numpy against torch in float64, over every codec; and when they are used."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import example, given, note
from hypothesis import strategies as st
from random_flair import oracle_pool, pool_flair
from test_rerank_cpu import CODECS, ONE_CODEC, make
from torch.nn import functional as F

from flairsearch import rerank, rerank_cpu, rerank_numpy
from flairsearch.codec import Codec, make_codec
from flairsearch.model import FLAIR, LAYER_NORM_EPS
from flairsearch.records import Encoded, PoolWeights, Query
from flairsearch.rerank import RowReranker
from flairsearch.rerank_torch import Reranker

EXACT = 1e-5


def ask(model: FLAIR, count: int, seed: int = 1) -> list[Query]:
    torch.manual_seed(seed)
    texts = 2 * torch.randn(count, model.config.embed_dim)
    return model.folding.queries(texts.numpy(), [str(i) for i in range(count)])


def stacked(codec: Codec, queries: list[Query]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    folded = [codec.fold(query) for query in queries]
    u, c, text = (np.stack([getattr(query, name) for query in folded]) for name in ("u", "c", "vector"))
    return u, c, text


def in_float64(codec: Codec, rows: np.ndarray, weights: PoolWeights, queries: list[Query]) -> np.ndarray:
    reference = Reranker(codec.fold_weights(weights), dtype=torch.float64, spatial=codec.spatial)
    found = reference.score_many([codec.decode(rows)], [codec.fold(query) for query in queries])
    return found.astype(np.float64)


@given(
    names=ONE_CODEC,
    views=st.integers(0, 70),
    patches=st.sampled_from([1, 9, 14, 49]) | st.integers(1, 49),
    heads=st.integers(1, 8),
    size=st.integers(8, 16),
    queries=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
@example(names=CODECS, views=0, patches=49, heads=8, size=8, queries=1, seed=0)
@example(names=CODECS, views=1, patches=196, heads=8, size=32, queries=1, seed=0)
@example(names=CODECS, views=33, patches=196, heads=4, size=16, queries=3, seed=0)
@example(names=CODECS, views=3, patches=49, heads=2, size=32, queries=40, seed=0)
@example(names=CODECS, views=70, patches=9, heads=16, size=1, queries=2, seed=0)
@example(names=CODECS, views=31, patches=1, heads=4, size=16, queries=2, seed=0)
@example(names=CODECS, views=32, patches=14, heads=5, size=20, queries=3, seed=0)  # no square, no whole vectors
@example(names=CODECS, views=64, patches=4, heads=1, size=8, queries=1, seed=0)
def test_equals_float64(
    names: Sequence[str], views: int, patches: int, heads: int, size: int, queries: int, seed: int
) -> None:
    model = pool_flair(heads * size, heads)
    weights, asked = model.folding.weights, ask(model, queries)
    for name in names:
        note(name)
        codec, rows = make(name, views, patches, heads * size, seed)
        before = rows.copy()
        found = rerank_numpy.score(codec, rows, codec.fold_weights(weights), *stacked(codec, asked))
        assert (found.dtype, found.shape) == (np.float32, (views, queries))
        np.testing.assert_allclose(found, in_float64(codec, rows, weights, asked), rtol=0, atol=EXACT)
        np.testing.assert_array_equal(rows, before)


def test_equals_the_compiled_path(subtests: pytest.Subtests) -> None:
    model = pool_flair(64, 8, seed=3)
    for name in CODECS:
        with subtests.test(name):
            codec, rows = make(name, 50, 49, 64)
            weights, parts = codec.fold_weights(model.folding.weights), stacked(codec, ask(model, 3))
            found = rerank_numpy.score(codec, rows, weights, *parts)
            compiled = rerank_cpu.score(codec, rows, rerank_cpu.project_with(weights), *parts)
            np.testing.assert_allclose(found, compiled, rtol=0, atol=EXACT)
            for several in (rows[::2], np.asfortranarray(rows[::2])):
                again = rerank_numpy.score(codec, several, weights, *parts)
                np.testing.assert_allclose(again, found[::2], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("patches", "dim", "heads"), [(49, 64, 8), (9, 48, 3)])
def test_fp16_scores_as_the_description_says(patches: int, dim: int, heads: int) -> None:
    """Nothing folded, the zero key written out: what is between is the rounding of the tokens alone."""
    model = pool_flair(dim, heads, seed=7)
    local = torch.randn(5, patches, dim).double() * 3 + 1
    tokens = F.layer_norm(local, (dim,), eps=LAYER_NORM_EPS).numpy().astype(np.float16)
    flat = np.zeros(tokens.shape[:2], np.float16)
    codec = make_codec("fp16", patches, dim)
    rows = codec.encode(Encoded(tokens[:, 0], tokens, flat, flat))
    asked = ask(model, 4)
    found = rerank_numpy.score(codec, rows, codec.fold_weights(model.folding.weights), *stacked(codec, asked))
    expected = [oracle_pool(model, torch.from_numpy(query.vector), local)[0] for query in asked]
    np.testing.assert_allclose(found, np.stack(expected, 1), rtol=0, atol=2e-3)


@pytest.mark.filterwarnings("error")
@given(names=ONE_CODEC, bias=st.floats(-200, 200, width=32))
@example(names=CODECS, bias=-200.0)
@example(names=CODECS, bias=-80.0)
@example(names=CODECS, bias=0.0)
@example(names=CODECS, bias=80.0)
@example(names=CODECS, bias=200.0)
def test_extreme_logits(names: Sequence[str], bias: float) -> None:
    """The zero key has all, or nothing; no number is too large, and no warning comes."""
    model = pool_flair(64, 4)
    weights = model.folding.weights
    for name in names:
        note(name)
        codec, rows = make(name, 3, 49, 64)
        u, c, text = stacked(codec, ask(model, 2))
        for factor in (0, 1, 30):
            steep, moved = np.float32(factor) * u, c + np.float32(bias)
            folded = [Query("", *parts) for parts in zip(text, steep, moved, strict=True)]
            reference = Reranker(codec.fold_weights(weights), dtype=torch.float64, spatial=codec.spatial)
            found = rerank_numpy.score(codec, rows, codec.fold_weights(weights), steep, moved, text)
            np.testing.assert_allclose(found, reference.score_many([codec.decode(rows)], folded), rtol=0, atol=1e-4)
        for factor in (1e6, 1e20):
            found = rerank_numpy.score(codec, rows, codec.fold_weights(weights), np.float32(factor) * u, c, text)
            assert np.isfinite(found).all()
            assert np.abs(found).max() <= 1 + 1e-5


@pytest.mark.filterwarnings("error")
def test_a_pool_that_gives_nothing_scores_nothing() -> None:
    codec, rows = make("fp16", 3, 9, 16)
    nothing = PoolWeights(*(np.zeros(s, np.float32) for s in ((2, 8, 16), (2, 8), (16, 16), (16,))), 1.0, 0.0)
    found = rerank_numpy.score(codec, rows, nothing, *stacked(codec, ask(pool_flair(16, 2), 2)))
    np.testing.assert_array_equal(found, np.zeros((3, 2)))


# -- when it is used


class Counted:
    """Which path scored how many views."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.numpy: list[int] = []
        self.compiled: list[int] = []
        for module, calls in ((rerank_numpy, self.numpy), (rerank_cpu, self.compiled)):
            self._listen(module, calls, patch)

    def _listen(self, module: object, calls: list[int], patch: pytest.MonkeyPatch) -> None:
        real = module.score  # type: ignore[attr-defined]

        def score(codec: Codec, rows: np.ndarray, *rest: object) -> np.ndarray:
            calls.append(len(rows))
            return real(codec, rows, *rest)

        patch.setattr(module, "score", score)


@pytest.mark.parametrize("name", ["fp16", "q4"])
def test_numpy_scores_the_first_few_and_no_more(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Views times queries, over all calls; whichever path it is, scores are alike."""
    codec, rows = make(name, 60, 9, 32)
    model = pool_flair(32, 4)
    asked = ask(model, 2)
    expected = in_float64(codec, rows, model.folding.weights, asked)
    assert "numba" in sys.modules
    monkeypatch.setattr(rerank, "_FEW", 130)

    def pieces() -> Iterator[np.ndarray]:
        yield from (rows[:10], rows[10:10], rows[10:60])

    counted = Counted(monkeypatch)
    with_numba = RowReranker(codec, model.folding.weights).score(pieces(), asked)
    assert (counted.numpy, counted.compiled) == ([], [10, 0, 50])  # numba is there: it is never worse
    monkeypatch.delitem(sys.modules, "numba")
    reranker = RowReranker(codec, model.folding.weights)
    np.testing.assert_allclose(reranker.score(pieces(), asked), expected, rtol=0, atol=EXACT)
    assert counted.numpy == [10, 0, 50]
    counted.numpy.clear()
    counted.compiled.clear()
    found = [reranker.score([rows[:5]], asked), reranker.score([rows[5:]], asked)]
    assert (counted.numpy, counted.compiled) == ([5], [55])  # 120 + 10 are few, another 110 are not
    np.testing.assert_allclose(np.concatenate(found), with_numba, rtol=0, atol=EXACT)
    np.testing.assert_allclose(with_numba, expected, rtol=0, atol=EXACT)
    assert reranker.score([rows], []).shape == (60, 0)
    assert reranker.score([], asked).shape == (0, 2)


def test_a_fresh_process_loads_numba_for_many_only() -> None:
    """And torch for none; the first scores and the last are the same."""
    code = (
        "import sys; import numpy as np\n"
        "from flairsearch.codec import make_codec; from flairsearch.records import Encoded, PoolWeights, Query\n"
        "from flairsearch.rerank import _FEW, RowReranker\n"
        "rng = np.random.default_rng(0); codec = make_codec('fp16', 9, 16)\n"
        "def draw(*shape): return rng.normal(size=shape).astype(np.float32)\n"
        "tokens = draw(_FEW, 9, 16).astype(np.float16); flat = np.zeros((_FEW, 9), np.float16)\n"
        "rows = codec.encode(Encoded(tokens[:, 0], tokens, flat, flat))\n"
        "weights = PoolWeights(draw(2, 8, 16), draw(2, 8), draw(16, 16), draw(16), 1.0, 0.0)\n"
        "reranker = RowReranker(codec, weights); query = Query('', draw(16), draw(2, 16), draw(2))\n"
        "first = reranker.score([rows[:_FEW // 2], rows[_FEW // 2:]], [query])\n"
        "assert not {'numba', 'torch', 'faiss'} & set(sys.modules), set(sys.modules)\n"
        "again = reranker.score([rows], [query])\n"
        "assert 'numba' in sys.modules and 'torch' not in sys.modules\n"
        "assert np.abs(first - again).max() <= 1e-5 and first.std() > 0.01\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
