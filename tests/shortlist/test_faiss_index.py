"""FaissIndex against brute force."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flairsearch.shortlist.faiss_index import FaissIndex
from flairsearch.store.derived_files import DerivedFiles


def unit(count: int, dim: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def kept(prefilter: FaissIndex, folder: Path) -> Path:
    """Save an index as a derived file and return its path."""
    with DerivedFiles(folder, 1).atomic_write("faiss") as part:
        prefilter.save(part)
    file = DerivedFiles(folder, 1).find("faiss")
    assert file is not None
    return file


def opened(prefilter: FaissIndex, ids: np.ndarray) -> Iterator[FaissIndex]:
    """Yield the index as it was built, and the one loaded from its file."""
    yield prefilter
    with TemporaryDirectory() as folder:
        found = FaissIndex.load(kept(prefilter, Path(folder)), ids, prefilter._index.d)
        assert found is not None
        yield found


# Vectors and texts are fixed, because cosines closer than float32 can resolve have no defined order.


@given(count=st.integers(1, 900))
@example(count=1)
@example(count=50)
@example(count=499)
@example(count=500)
@example(count=900)
def test_equals_brute_force(count: int) -> None:
    rng = np.random.default_rng(1)
    vectors, ids = unit(500, 24), np.sort(rng.permutation(10_000)[:500]).astype(np.int64)
    texts = rng.standard_normal((5, 24)).astype(np.float32) * 7
    for prefilter in opened(FaissIndex.build(ids, 24, [vectors[:1], vectors[1:300], vectors[300:]]), ids):
        assert len(prefilter) == 500
        for text in texts:
            cosine = vectors.astype(np.float64) @ text / np.linalg.norm(text)
            order = np.lexsort((ids, -cosine))[:count]
            found = prefilter.search(text, count)
            assert found.views.tolist() == ids[order].tolist()
            assert np.abs(found.scores - cosine[order]).max() <= 1e-5


@given(share=st.floats(0, 1), count=st.integers(1, 900))
@example(share=0.0, count=7)
@example(share=0.01, count=1)
@example(share=0.01, count=900)
@example(share=0.3, count=7)
@example(share=0.3, count=100)
@example(share=1.0, count=1)
@example(share=1.0, count=100)
@example(share=1.0, count=900)
def test_the_search_is_restricted_to_given_views(share: float, count: int) -> None:
    """There are ties among the given views and with others; some of the given ids do not exist."""
    rng = np.random.default_rng(2)
    vectors, ids = np.tile(unit(250, 24), (2, 1)), np.sort(rng.permutation(10_000)[:500]).astype(np.int64)
    among = np.union1d(ids[rng.random(500) < share], [10_001, 10_002])
    here, texts = np.flatnonzero(np.isin(ids, among)), rng.standard_normal((5, 24)).astype(np.float32)
    for prefilter in opened(FaissIndex.build(ids, 24, [vectors]), ids):
        for text in texts:
            cosine = np.round(vectors[here].astype(np.float64) @ text / np.linalg.norm(text), 6)
            order = np.lexsort((ids[here], -cosine))[:count]
            found = prefilter.search(text, count, among)
            assert found.views.tolist() == ids[here][order].tolist()
            assert np.allclose(found.scores, cosine[order], atol=1e-5)


def test_the_length_of_a_text_does_not_matter() -> None:
    prefilter = FaissIndex.build(np.arange(20), 8, [unit(20, 8)])
    text = unit(1, 8, seed=3)[0].astype(np.float32)
    short, long = prefilter.search(text * 1e-3, 20), prefilter.search(text * 1e3, 20)
    assert short.views.tolist() == long.views.tolist()
    assert np.allclose(short.scores, long.scores, atol=1e-6)


@given(count=st.integers(1, 30), order=st.permutations(range(12)))
@example(count=1, order=list(range(12)))
@example(count=30, order=list(range(12)))
@example(count=5, order=list(range(12))[::-1])
@example(count=12, order=list(range(12))[::-1])
@example(count=9, order=[5, 0, 11, 3, 7, 1, 9, 2, 10, 4, 8, 6])
def test_ties_are_broken_by_view_id(count: int, order: list[int]) -> None:
    """Three groups of four equal views; the nearest group is last or in the middle."""
    places = np.eye(3, dtype=np.float16)
    group = np.asarray(order) % 3
    ids = np.cumsum(np.asarray(order) + 1)  # The ids ascend with gaps.
    text = np.asarray([0.2, 0.9, 0.4], np.float32)
    cosine = (places.astype(np.float32) @ text / np.linalg.norm(text))[group]
    expected = ids[np.lexsort((ids, -cosine))][:count]
    for prefilter in opened(FaissIndex.build(ids, 3, [places[group]]), ids):
        assert prefilter.search(text, count).views.tolist() == expected.tolist()


def test_an_empty_index() -> None:
    for prefilter in opened(FaissIndex.build(np.zeros(0, np.int64), 8, []), np.zeros(0, np.int64)):
        assert len(prefilter) == 0
        found = prefilter.search(np.ones(8, np.float32), 5)
        assert found.views.dtype == np.int64
        assert len(found.views) == len(found.scores) == 0


def test_a_zero_text_is_answered() -> None:
    found = FaissIndex.build(np.arange(3), 4, [unit(3, 4)]).search(np.zeros(4, np.float32), 2)
    assert found.views.tolist() == [0, 1]
    assert np.isfinite(found.scores).all()


IDS, VECTORS = np.arange(3, 103), unit(100, 8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return kept(FaissIndex.build(IDS, 8, [VECTORS]), tmp_path)


def test_a_truncated_or_missing_file_is_not_loaded(file: Path) -> None:
    """Even if the checksum in its name matches; then FAISS rejects it."""
    data = file.read_bytes()
    for broken in (b"", data[:3], data[:40], data[:-1], data[: len(data) // 2], b"no index" * 300):
        for other in (file, file.with_name(f"000001-{zlib.crc32(broken):08x}.faiss")):
            other.write_bytes(broken)
            assert FaissIndex.load(other, IDS, 8) is None
    file.unlink()
    assert FaissIndex.load(file, IDS, 8) is None
    file.mkdir()
    assert FaissIndex.load(file, IDS, 8) is None


def test_a_file_of_other_views_is_not_loaded(file: Path) -> None:
    assert FaissIndex.load(file, IDS, 8) is not None
    for ids, dim in ((IDS[:-1], 8), (np.arange(101), 8), (IDS, 7), (IDS, 16)):
        assert FaissIndex.load(file, ids, dim) is None


@pytest.mark.parametrize("path", ["nowhere/p.faiss", "/dev/full"])
def test_an_unwritable_file_raises_os_error(path: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No such file|No space left"):
        FaissIndex.build(IDS, 8, [VECTORS]).save(tmp_path / path)


def test_a_file_with_a_flipped_bit_is_not_loaded(file: Path) -> None:
    whole = file.read_bytes()
    for bit in range(0, 8 * len(whole), 37):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        assert FaissIndex.load(file, IDS, 8) is None
