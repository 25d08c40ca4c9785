"""When numpy scores and when numba does; test_backends.py checks that both are right."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from flairsearch.codecs.codec import Codec
from flairsearch.rerank import numba_backend, numpy_backend
from flairsearch.rerank import reranker as reranker_module
from flairsearch.rerank.reranker import Reranker
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
def test_numpy_scores_only_the_first_pairs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit counts views times queries over all calls; scores of both backends are equal."""
    codec, rows = make(name, 60, 9, 32)
    weights, asked = pool(4, 8), ask(2, 4, 32)
    expected = in_float64(codec, rows, weights, asked)
    assert "numba" in sys.modules
    monkeypatch.setattr(reranker_module, "_FEW", 130)

    def pieces() -> Iterator[np.ndarray]:
        yield from (rows[:10], rows[10:10], rows[10:60])

    counted = Counted(monkeypatch)
    with_numba = Reranker(codec, weights).score(pieces(), asked)
    assert (counted.numpy, counted.compiled) == ([], [10, 0, 50])  # Once numba is loaded, it scores everything.
    monkeypatch.delitem(sys.modules, "numba")
    reranker = Reranker(codec, weights)
    np.testing.assert_allclose(reranker.score(pieces(), asked), expected, rtol=0, atol=EXACT)
    assert counted.numpy == [10, 0, 50]
    counted.numpy.clear()
    counted.compiled.clear()
    found = [reranker.score([rows[:5]], asked), reranker.score([rows[5:]], asked)]
    assert (counted.numpy, counted.compiled) == (
        [5],
        [55],
    )  # 120 + 10 pairs are below the limit, another 110 exceed it.
    np.testing.assert_allclose(np.concatenate(found), with_numba, rtol=0, atol=EXACT)
    np.testing.assert_allclose(with_numba, expected, rtol=0, atol=EXACT)
    assert reranker.score([rows], []).shape == (60, 0)
    assert reranker.score([], asked).shape == (0, 2)


def test_a_fresh_process_loads_numba_for_many_pairs_only() -> None:
    """It never loads torch; both backends give the same scores."""
    code = (
        "import sys; import numpy as np\n"
        "from flairsearch.codecs.codec import make_codec\n"
        "from flairsearch.core.types import EncodedText, EncodedViews, PoolWeights\n"
        "from flairsearch.rerank.reranker import _FEW, Reranker\n"
        "rng = np.random.default_rng(0); codec = make_codec('fp16', 9, 16)\n"
        "def draw(*shape): return rng.normal(size=shape).astype(np.float32)\n"
        "tokens = draw(_FEW, 9, 16).astype(np.float16); flat = np.zeros((_FEW, 9), np.float16)\n"
        "rows = codec.encode(EncodedViews(tokens[:, 0], tokens, flat, flat))\n"
        "weights = PoolWeights(draw(2, 8, 16), draw(2, 8), draw(16, 16), draw(16), 1.0, 0.0)\n"
        "reranker = Reranker(codec, weights); query = EncodedText('', draw(16), draw(2, 16), draw(2))\n"
        "first = reranker.score([rows[:_FEW // 2], rows[_FEW // 2:]], [query])\n"
        "assert not {'numba', 'torch', 'faiss'} & set(sys.modules), set(sys.modules)\n"
        "again = reranker.score([rows], [query])\n"
        "assert 'numba' in sys.modules and 'torch' not in sys.modules\n"
        "assert np.abs(first - again).max() <= 1e-5 and first.std() > 0.01\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
