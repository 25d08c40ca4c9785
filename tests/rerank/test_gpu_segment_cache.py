"""Cached and streamed rows on a device; a search through the cache finds what the CPU path finds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.support.fake import FakeEncoder, fake_engine, paint_red

pytest.importorskip("triton", reason="triton is not installed")
from flairsearch.engine import Engine
from flairsearch.rerank import gpu_segment_cache, numba_backend, triton_backend
from flairsearch.rerank.backend import Backend, choose_backend
from flairsearch.rerank.gpu_segment_cache import GpuSegmentCache, ResidencePolicy
from flairsearch.search.index_states import OpenedState, open_snapshot
from flairsearch.search.local_place import LocalPlace
from flairsearch.search.policy import DEFAULT_POLICY
from flairsearch.search.scorer import Scorer
from flairsearch.search.searcher import Searcher
from flairsearch.store.snapshot import Snapshot

GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not GPU, reason="no CUDA GPU")]
both = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_gpu)])
ROWS, WIDTH = 10, 100  # A segment of these tests has 10 rows of 100 bytes.


def segment(number: int) -> np.ndarray:
    rows = np.random.default_rng(number).integers(0, 256, (ROWS, WIDTH), dtype=np.uint8)
    rows.flags.writeable = False  # A memory-mapped segment is read-only, too.
    return rows


def cached_numbers(cache: GpuSegmentCache) -> list[int]:
    return [number for number in range(9) if number in cache]


def unread() -> Iterator[np.ndarray]:
    raise AssertionError("the segment is on the device: nothing is to be read")
    yield


def ask(cache: GpuSegmentCache, number: int, wanted: list[int], streams: bool = False) -> list[torch.Tensor]:
    """Return the requested pieces, and check their contents and whether they were streamed."""
    rows, read = segment(number), []

    def pieces() -> Iterator[np.ndarray]:
        read.append(number)
        yield from (rows[wanted[:3]], rows[wanted[3:]])

    places = np.asarray(wanted, np.int64)
    found = [piece.clone() for piece in cache.rows(number, rows, places, pieces() if streams else unread())]
    assert read == [number] * streams
    assert (number in cache) is not streams
    assert np.array_equal(torch.cat(found).cpu().numpy(), rows[wanted])
    return list(cache.rows(number, rows, places, pieces()))


@both
@pytest.mark.filterwarnings("error")
def test_whole_segments(device: str) -> None:
    cache = GpuSegmentCache(device, 3000, ResidencePolicy(copy_bytes=250))
    for number in (0, 1, 2):
        kept = cache.put(number, segment(number))
        assert kept is not None
        assert np.array_equal(kept.cpu().numpy(), segment(number))
    assert cache.get(0) is not None  # Now segment 1 is the least recently used one.
    assert cache.put(3, segment(3)) is not None
    assert cached_numbers(cache) == [0, 2, 3]
    assert cache.put(1, np.zeros((31, WIDTH), np.uint8)) is None
    assert cached_numbers(cache) == [0, 2, 3]
    assert cache.put(2, np.zeros((30, WIDTH), np.uint8)) is not None
    assert cached_numbers(cache) == [2]


@both
def test_segments_are_cached_while_there_is_capacity(device: str) -> None:
    """A tenth of a segment must be requested in total; in one request if another segment must be evicted."""
    cache = GpuSegmentCache(device, capacity=2 * ROWS * WIDTH + 999)
    ask(cache, 0, [7])
    ask(cache, 1, [3, 2])
    assert cached_numbers(cache) == [0, 1]
    ask(cache, 0, [1, 0])
    ask(cache, 2, [9])  # A tenth at once evicts segment 1, the least recently used one.
    assert cached_numbers(cache) == [0, 2]
    ask(cache, 0, list(range(ROWS)))
    ask(cache, 1, [5, 4, 3, 2, 8])
    assert cached_numbers(cache) == [0, 1]


@both
def test_rows_are_streamed_below_the_admitted_fraction(device: str) -> None:
    cache = GpuSegmentCache(device, ROWS * WIDTH, ResidencePolicy(admit_fraction=0.3))
    ask(cache, 0, [0], streams=True)  # `ask` requests the rows twice, so two of ten are counted.
    ask(cache, 0, [1])  # Three of ten rows were requested by now.
    ask(cache, 1, [4, 2], streams=True)
    assert cached_numbers(cache) == [0]
    ask(cache, 1, [4, 2, 0])
    assert cached_numbers(cache) == [1]


@both
def test_a_segment_larger_than_the_capacity_is_streamed(device: str) -> None:
    cache = GpuSegmentCache(device, capacity=ROWS * WIDTH - 1)
    ask(cache, 0, list(range(ROWS)), streams=True)
    ask(cache, 0, [4, 1, 1, 9], streams=True)


def test_rows_are_streamed_if_the_device_is_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "empty", full)
    ask(GpuSegmentCache("cpu", capacity=10**6), 0, [4, 2], streams=True)


@both
def test_consecutive_rows_are_not_copied(device: str) -> None:
    cache = GpuSegmentCache(device, ROWS * WIDTH, ResidencePolicy(gather_bytes=2 * WIDTH))
    (whole,) = ask(cache, 0, list(range(ROWS)))
    assert cache.get(0) is not None
    assert whole.data_ptr() == cache.get(0).data_ptr()
    (part,) = ask(cache, 0, [3, 4, 5])
    assert part.data_ptr() == whole[3].data_ptr()
    for wanted in ([5, 4, 3], [1, 3, 2, 4], [1, 2, 4], [1, 1], list(range(ROWS))[::-1]):
        pieces = ask(cache, 0, wanted)
        assert [len(piece) for piece in pieces] == [2] * (len(wanted) // 2) + [1] * (len(wanted) % 2)
        assert all(piece.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr() for piece in pieces)


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="no CUDA GPU")
def test_the_capacity_is_a_share_of_the_devices_memory() -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    cache = GpuSegmentCache("cuda", policy=ResidencePolicy(memory_share=1000.5 / total))
    assert cache.put(0, np.zeros((10, 100), np.uint8)) is not None
    assert cache.put(1, np.zeros((10, 101), np.uint8)) is None


# -- searches through the cache

AREAS = [5, 40, 1, 23, 64, 12, 44, 31, 55, 9, 17, 60]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Make an index of one fp16 and three int8 segments; the first image's view is in the last segment."""
    with fake_engine(tmp_path / "index") as engine:
        for i, area in enumerate(AREAS):
            if i and i % 4 == 0:
                engine.add(tmp_path / "photos")
                engine.settings = replace(engine.settings, codec="int8")
            paint_red(tmp_path / "photos" / f"{i}.png", area, mark=i)
        engine.add()
        paint_red(tmp_path / "photos" / "0.png", 8, mark=50)
        engine.add()
    return tmp_path / "index"


def on(device: str, index: Path, cache: GpuSegmentCache, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Open an engine whose rows go through a cache; numba_backend stands in for kernels that cannot run here."""
    if device == "cpu" and not INTERPRETED:

        def attend(codec, rows, u, c):
            return tuple(map(torch.from_numpy, numba_backend.attend(codec, rows.numpy(), u.numpy(), c.numpy())))

        monkeypatch.setattr(triton_backend, "attend", attend)
    encoder = FakeEncoder()
    encoder.device = device
    engine = fake_engine(index, encoder=encoder)
    snapshot = open_snapshot(index, engine.settings, engine._catalog, DEFAULT_POLICY)
    backend, weights = Backend("triton", device), encoder.pool_weights
    place = LocalPlace(snapshot, engine._catalog, weights, backend, DEFAULT_POLICY)
    place._scorer = Scorer(snapshot, weights, backend, cache)
    engine._states._opened = OpenedState(snapshot, Searcher(place, DEFAULT_POLICY), backend)
    return engine


@both
@pytest.mark.parametrize("held", [0, 1, 2.5, 100])
def test_a_search_finds_what_the_cpu_path_finds(
    device: str, held: float, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The capacities: all rows are streamed, segments evict each other, a mixture of both, all segments stay cached."""
    with fake_engine(index) as plain:
        reader = Snapshot(index, plain.settings, plain._catalog)
        sizes = [rows.nbytes for _, rows, _, _ in reader.by_segment(reader.views.id)]
        assert len(sizes) == 4
        assert len(reader.codecs) == 2
        cache = GpuSegmentCache(device, capacity=int(held * max(sizes)))
        with on(device, index, cache, monkeypatch) as engine:
            for texts, k, shortlist in (
                (["red"], 3, "all"),
                (["red"], 12, 5),
                (["red", "cyan", "blue"], 4, "all"),
                (["cyan", "red"], 2, 4),
                (["red"], 1, 1),
                (["red"], 12, "all"),
            ):
                found = engine.search_many(texts, k, shortlist=shortlist)
                expected = plain.search_many(texts, k, shortlist=shortlist)
                if texts == ["red"]:
                    assert [hit.path for hit in found[0]] == [hit.path for hit in expected[0]]
                for hits, others in zip(found, expected, strict=True):
                    scores = [hit.score for hit in hits]
                    assert scores == pytest.approx([hit.score for hit in others], abs=2e-4)
            assert len(cached_numbers(cache)) == {0: 0, 1: 1, 100: 4}.get(held, len(cached_numbers(cache)))
            photo = index.parent / "photos" / "3.png"
            assert engine.show(photo, "red").score == pytest.approx(plain.show(photo, "red").score, abs=2e-4)


def test_cached_segments_are_read_before_others_evict_them(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With capacity for two of the three requested segments, each search copies only one."""
    with on("cpu", index, GpuSegmentCache("cpu", capacity=0), monkeypatch) as engine:
        reader, copied = Snapshot(index, engine.settings, engine._catalog), []
        views = reader.views.id[dict(reader.by_codec(reader.views.id))["int8"]]
        parts = list(reader.by_segment(views))
        assert [len(wanted) for _, _, _, wanted in parts] == [4, 4, 1]
        cache = GpuSegmentCache("cpu", capacity=2 * parts[0][1].nbytes)
        own = Scorer(reader, FakeEncoder().pool_weights, Backend("triton", "cpu"), cache)
        put = cache.put
        monkeypatch.setattr(cache, "put", lambda number, rows: copied.append(number) or put(number, rows))
        expected = None
        for copies in (3, 4, 5, 6):
            scores = own.score(views, FakeEncoder().encode_texts(["red"]))
            assert len(copied) == copies
            expected = scores if expected is None else expected
            assert np.array_equal(scores, expected)


def test_there_is_no_cache_on_a_cpu_and_it_is_made_lazily(monkeypatch: pytest.MonkeyPatch) -> None:
    no_codecs, weights, made = SimpleNamespace(codecs={}), FakeEncoder().pool_weights, []
    for expected_scores in (1, 10**9):
        assert Scorer(no_codecs, weights, choose_backend("cpu", expected_scores)).segment_cache is None
    monkeypatch.setattr(gpu_segment_cache, "GpuSegmentCache", lambda device: made.append(device) or "a cache")
    on_gpu = Scorer(no_codecs, weights, choose_backend("cuda:7", 1))
    assert made == []
    assert [on_gpu.segment_cache, on_gpu.segment_cache] == ["a cache", "a cache"]
    assert made == ["cuda:7"]
