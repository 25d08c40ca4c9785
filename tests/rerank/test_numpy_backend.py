"""When numpy scores and when numba does; test_backends.py checks that both are right."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from flairsearch.codecs.codec import Codec
from flairsearch.rerank import numba_backend, numpy_backend
from flairsearch.rerank.backend import MAX_NUMPY_SCORES, Backend, choose_backend
from flairsearch.rerank.reranker import Reranker
from flairsearch.search.policy import SearchPolicy
from tests.support.backends import ask, in_float64, make, pool

EXACT = 1e-5


class Counted:
    """Counts the views that each backend scored."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.numpy: list[int] = []
        self.compiled: list[int] = []
        for module, calls in ((numpy_backend, self.numpy), (numba_backend, self.compiled)):
            self._count_calls(module, calls, patch)

    def _count_calls(self, module: object, calls: list[int], patch: pytest.MonkeyPatch) -> None:
        real = module.score  # type: ignore[attr-defined]

        def score(codec: Codec, rows: np.ndarray, *rest: object) -> np.ndarray:
            calls.append(len(rows))
            return real(codec, rows, *rest)

        patch.setattr(module, "score", score)


@pytest.mark.parametrize("name", ["fp16", "q4"])
def test_the_chosen_backend_scores_all_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is loaded, the other backend scores nothing; scores of both backends are equal."""
    codec, rows = make(name, 60, 9, 32)
    weights, asked = pool(4, 8), ask(2, 4, 32)
    expected = in_float64(codec, rows, weights, asked)
    assert "numba" in sys.modules

    def pieces() -> Iterator[np.ndarray]:
        yield from (rows[:10], rows[10:10], rows[10:60])

    counted = Counted(monkeypatch)
    with_numba = Reranker(codec, weights, Backend("numba")).score(pieces(), asked)
    assert (counted.numpy, counted.compiled) == ([], [10, 0, 50])
    counted.compiled.clear()
    reranker = Reranker(codec, weights, Backend("numpy"))
    np.testing.assert_allclose(reranker.score(pieces(), asked), expected, rtol=0, atol=EXACT)
    assert (counted.numpy, counted.compiled) == ([10, 0, 50], [])
    found = [reranker.score([rows[:5]], asked), reranker.score([rows[5:]], asked)]
    assert (counted.numpy, counted.compiled) == ([10, 0, 50, 5, 55], [])
    np.testing.assert_allclose(np.concatenate(found), with_numba, rtol=0, atol=EXACT)
    np.testing.assert_allclose(with_numba, expected, rtol=0, atol=EXACT)
    assert reranker.score([rows], []).shape == (60, 0)
    assert reranker.score([], asked).shape == (0, 2)


def test_numpy_is_chosen_for_few_scores_on_a_cpu() -> None:
    assert choose_backend("cpu", 0) == choose_backend("cpu", MAX_NUMPY_SCORES) == Backend("numpy", "cpu")
    assert choose_backend("cpu", MAX_NUMPY_SCORES + 1) == choose_backend("cpu", 10**9) == Backend("numba", "cpu")
    assert choose_backend("mps", 1) == choose_backend("mps", 10**9) == Backend("torch", "mps")
    assert [Backend(name).is_compiled for name in ("numpy", "numba", "torch", "triton")] == [False, True, True, True]


@pytest.mark.parametrize("has_triton", [True, False])
def test_the_kernels_are_chosen_where_triton_is_installed(has_triton: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flairsearch.rerank.backend.find_spec", lambda name: object() if has_triton else None)
    for device in ("cuda", "cuda:7"):
        assert choose_backend(device, 1) == Backend("triton" if has_triton else "torch", device)
    assert choose_backend("cpu", 1) == Backend("numpy", "cpu")


@pytest.mark.parametrize(
    ("views", "shortlist", "searches", "expected"),
    [
        (1000, "auto", 1, "numpy"),  # A small index is ranked whole; 1000 scores are few.
        (1001, "auto", 1, "numba"),
        (1000, "auto", 2, "numba"),
        (100_000, "auto", 1, "numpy"),  # A growing shortlist ends after about 300 views.
        (100_000, "auto", 1000, "numba"),
        (100_000, "all", 1, "numba"),
        (100_000, "1000", 1, "numpy"),
        (100_000, "1001", 1, "numba"),
    ],
)
def test_one_query_of_a_small_shortlist_is_few_scores(views: int, shortlist: str, searches: int, expected: str) -> None:
    """These are the numbers that search/index_states.py gives for a query of one phrase."""
    assert choose_backend("cpu", SearchPolicy().expected_views(shortlist, views) * searches).name == expected


def test_a_fresh_process_loads_numba_for_many_pairs_only() -> None:
    """It never loads torch; both backends give the same scores."""
    code = (
        "import sys; import numpy as np\n"
        "from flairsearch.codecs.codec import make_codec\n"
        "from flairsearch.core.types import EncodedText, EncodedViews, PoolWeights\n"
        "from flairsearch.rerank.backend import MAX_NUMPY_SCORES as FEW, choose_backend\n"
        "from flairsearch.rerank.reranker import Reranker\n"
        "rng = np.random.default_rng(0); codec = make_codec('fp16', 9, 16)\n"
        "def draw(*shape): return rng.normal(size=shape).astype(np.float32)\n"
        "tokens = draw(FEW, 9, 16).astype(np.float16); flat = np.zeros((FEW, 9), np.float16)\n"
        "rows = codec.encode(EncodedViews(tokens[:, 0], tokens, flat, flat))\n"
        "weights = PoolWeights(draw(2, 8, 16), draw(2, 8), draw(16, 16), draw(16), 1.0, 0.0)\n"
        "query = EncodedText('', draw(16), draw(2, 16), draw(2))\n"
        "few, many = (Reranker(codec, weights, choose_backend('cpu', count)) for count in (FEW, FEW + 1))\n"
        "first = few.score([rows[:FEW // 2], rows[FEW // 2:]], [query])\n"
        "assert not {'numba', 'torch', 'faiss'} & set(sys.modules), set(sys.modules)\n"
        "again = many.score([rows], [query])\n"
        "assert 'numba' in sys.modules and 'torch' not in sys.modules\n"
        "assert np.abs(first - again).max() <= 1e-5 and first.std() > 0.01\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
