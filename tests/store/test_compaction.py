"""Several codecs in one index, compaction, and the change of codec once there are enough views for a basis."""

import itertools
import zlib
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from flairsearch.codecs.codec import AVERAGE_BITS, needs_basis
from flairsearch.core.errors import StoreError, UsageError
from flairsearch.core.limits import IngestLimits, StoreLimits
from flairsearch.core.query import Query
from flairsearch.core.request import SearchRequest
from flairsearch.core.settings import IndexSettings
from flairsearch.core.timing import StageTimer
from flairsearch.core.types import EncodedQuery, EncodedText, EncodedViews, ImageFile, PoolWeights
from flairsearch.indexing.lifecycle import create_index
from flairsearch.rerank.backend import Backend
from flairsearch.search.local_place import LocalPlace
from flairsearch.search.policy import DEFAULT_POLICY
from flairsearch.search.searcher import Searcher
from flairsearch.store.catalog import Catalog
from flairsearch.store.codec_training import is_trained, train_codec
from flairsearch.store.snapshot import Snapshot
from flairsearch.store.writer import Writer
from tests.support import by_hand
from tests.support.fake import DIM, PATCHES, FakeEncoder, fake_engine, paint, paint_red
from tests.support.indexes import FRAME, SETTINGS, add, digest, encoded, files

METRIC = np.eye(DIM, dtype=np.float32)
SMALL = StoreLimits(min_basis_views=12)
CODECS = ("fp16", "int8", "q4", "q2", "q1")


@contextmanager
def made(folder):
    """Make an empty index and its catalogue like the fixtures; a test may need several."""
    create_index(folder, SETTINGS)
    catalog = Catalog(folder)
    try:
        yield folder, catalog
    finally:
        catalog.close()


def write(index, numbers, codec="fp16", removed=()):
    """Commit views in a codec; a codec with a basis gets one fitted to the existing views."""
    writer = Writer(index, replace(SETTINGS, codec=codec))
    if needs_basis(codec) and not is_trained(writer) and len(writer.hashes):
        train_codec(writer, METRIC)
    if numbers:
        add(writer, numbers)
        writer.commit()
    writer.remove_images(removed)
    writer.commit()
    writer.close()


def compact(index, codec="fp16", steps=None, **limits):
    """Compact and return (done, total) of each step, interrupted after `steps`. limits: fields of StoreLimits."""
    writer = Writer(index, replace(SETTINGS, codec=codec), StoreLimits(**limits))
    try:
        if needs_basis(codec) and not is_trained(writer):
            train_codec(writer, METRIC)
        told = []
        for step in writer.compactor.compact(writer.target, dead_too=True):
            told.append(step)
            if len(told) == steps:
                break
        return told
    finally:
        writer.close()


def labels(catalog):
    return [label for _, _, label in catalog.segments()]


def numbers(catalog):
    return [number for number, _, _ in catalog.segments()]


def all_tokens(reader):
    """Return x of each view id, whatever its codec."""
    return reader.encoded(reader.views.id).tokens


def check_checksums(index, catalog):
    """Check that the catalogue's checksums match the bytes in the files."""
    reader = Snapshot(index, SETTINGS, catalog)
    expected = catalog.checksums(reader.views.id.tolist())
    seen = 0
    for number, count, _ in catalog.segments():
        here = reader.views.segment == number
        tokens = (index / "segments" / f"{number:06d}.tokens").read_bytes()
        pooled = (index / "segments" / f"{number:06d}.pooled").read_bytes()
        stride = len(tokens) // count
        for view, row in zip(reader.views.id[here].tolist(), reader.views.row[here].tolist(), strict=True):
            both = tokens[row * stride : (row + 1) * stride] + pooled[row * 2 * DIM : (row + 1) * 2 * DIM]
            assert zlib.crc32(both) == expected[view]
            seen += 1
    assert seen == len(reader)


# -- several codecs at once


def test_a_search_covers_all_codecs(index, catalog):
    """Scores and heat of every view equal those of its decoded tokens in float64."""
    for i, codec in enumerate(CODECS):
        write(index, range(40 * i, 40 * i + 40), codec)
    reader = Snapshot(index, SETTINGS, catalog)
    assert [label.partition(":")[0] for label in labels(catalog)] == list(CODECS)
    rng = np.random.default_rng(0)
    shapes = ((DIM,), (2, DIM), (2,), (2, 3, DIM), (2, 3), (DIM, 6), (DIM,))
    vector, u, c, value, value_bias, out, out_bias = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    weights = PoolWeights(value, value_bias, out, out_bias, 1.0, 0.0)
    query = EncodedText("", vector, u, c)
    searcher = Searcher(LocalPlace(reader, catalog, weights, Backend("numba"), DEFAULT_POLICY), DEFAULT_POLICY)
    request = SearchRequest(Query("anything"), k=1000, shortlist="all")
    (hits,) = searcher.search_many([EncodedQuery((query,))], request, StageTimer())
    assert len(hits) == 200

    stored = reader.encoded(reader.views.id)
    scores = by_hand.score(stored.tokens, query, weights)
    order = np.argsort(-scores)
    found = {int(hit.path.split("/")[-1].split(".")[0]): hit for hit in hits}
    for number in range(200):  # Views were written in the order of their numbers.
        assert found[number].score == pytest.approx(scores[number], abs=2e-3)
        heat = by_hand.heat(stored.tokens[number], stored.shift[number], query)
        np.testing.assert_allclose(found[number].phrases[0].heat, heat, atol=2e-3)
    assert [round(hit.score, 2) for hit in hits[:20]] == pytest.approx(scores[order[:20]].tolist(), abs=8e-3)

    exact = by_hand.score(encoded(range(200)).tokens, query, weights)
    error = np.abs(scores - exact).reshape(5, 40).mean(1)
    assert error[0] == 0
    assert error[1] < 5e-3
    assert error[2] < error[3] < error[4] < 0.5  # Fewer bits give larger errors.


def test_views_of_several_codecs_are_read_in_any_order(index, catalog):
    for i, codec in enumerate(("fp16", "int8", "q4", "fp16")):
        write(index, range(10 * i, 10 * i + 10), codec)
    reader = Snapshot(index, SETTINGS, catalog)
    order = reader.views.id[np.random.default_rng(0).permutation(40)]
    found, straight = reader.encoded(order), reader.encoded(reader.views.id)
    for name, column in vars(found).items():
        np.testing.assert_array_equal(column, vars(straight)[name][np.searchsorted(reader.views.id, order)])
    np.testing.assert_array_equal(straight.pooled, encoded(range(40)).pooled)
    np.testing.assert_array_equal(straight.shift, encoded(range(40)).shift)
    np.testing.assert_array_equal(straight.scale, encoded(range(40)).scale)
    parts = dict(reader.by_codec(order))
    assert list(parts) == ["fp16", "int8", "q4:000001"]
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(40))
    for label, here in parts.items():
        rows = np.searchsorted(reader.views.id, order[here])
        kind = np.asarray(["fp16", "int8", "q4:000001", "fp16"])[rows // 10]
        assert set(kind.tolist()) == {label}
        np.testing.assert_array_equal(reader.codecs[label].restore(reader.coded(order[here])), straight.tokens[rows])


# -- dead views


def test_compaction_frees_the_space_of_dead_views(index, catalog):
    write(index, range(100))
    write(index, range(100, 130))
    write(index, range(130, 140), removed=[*range(1, 91), 105])
    before = Snapshot(index, SETTINGS, catalog)
    tokens, known = all_tokens(before), catalog.known(1)
    size = sum(file.stat().st_size for file in (index / "segments").iterdir())
    # Of the first segment; the second has one dead view of thirty. No two segments fit into one.
    assert compact(index, max_segment_views=15) == [(10, 10)]
    after = Snapshot(index, SETTINGS, catalog)
    assert after.views.id.tolist() == before.views.id.tolist()
    assert after.views.content.tolist() == before.views.content.tolist()
    np.testing.assert_array_equal(all_tokens(after), tokens)
    np.testing.assert_array_equal(after.pooled(after.views.id), before.pooled(before.views.id))
    assert catalog.known(1) == known
    assert files(index) == [f"{n:06d}.{kind}" for n in (2, 3, 4) for kind in ("pooled", "tokens")]
    row = 2 * PATCHES * DIM + 4 * PATCHES + 2 * DIM
    assert sum(file.stat().st_size for file in (index / "segments").iterdir()) == size - 90 * row
    check_checksums(index, catalog)
    assert compact(index, max_segment_views=15) == []
    assert digest(0) not in catalog.hashes()
    assert digest(104) in catalog.hashes()
    write(index, [0])  # A photo whose view is gone is encoded again under a new id.
    reader = Snapshot(index, SETTINGS, catalog)
    assert reader.views.id.max() > before.views.id.max()
    np.testing.assert_array_equal(all_tokens(reader)[-1], encoded([0]).tokens[0])


def test_compaction_merges_small_segments(index, catalog):
    write(index, range(100))
    write(index, range(100, 130))
    write(index, range(130, 140), removed=[*range(1, 91), 105])
    before = Snapshot(index, SETTINGS, catalog)
    tokens, frames = all_tokens(before), catalog.frames(before.views.id.tolist())
    assert compact(index) == [(49, 49)]
    after = Snapshot(index, SETTINGS, catalog)
    assert after.views.id.tolist() == before.views.id.tolist()
    assert after.views.content.tolist() == before.views.content.tolist()
    np.testing.assert_array_equal(all_tokens(after), tokens)
    np.testing.assert_array_equal(after.pooled(after.views.id), before.pooled(before.views.id))
    assert catalog.frames(after.views.id.tolist()) == frames
    assert catalog.segments() == [(4, 49, "fp16")]
    assert files(index) == ["000004.pooled", "000004.tokens"]
    check_checksums(index, catalog)
    assert compact(index) == []


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([4, 4, 4], [4, 8]),  # Segments are in the order of their numbers, the new one last.
        ([9, 9], [9, 9]),  # Intact segments of that size are not rewritten.
        ([3, 9, 3], [3, 9, 3]),  # Only neighbours are merged, so that views stay in the order of their ids.
        ([2, 3, 3, 1, 1], [8, 2]),
        ([20, 1, 1], [20, 2]),
    ],
)
def test_merged_segments_are_bounded(index, catalog, sizes, expected):
    first = 0
    for size in sizes:
        write(index, range(first, first + size))
        first += size
    compact(index, max_segment_views=8)
    assert [int(count) for _, count, _ in catalog.segments()] == expected
    reader = Snapshot(index, SETTINGS, catalog)
    np.testing.assert_array_equal(all_tokens(reader), encoded(range(first)).tokens)
    check_checksums(index, catalog)


@pytest.mark.parametrize(("dead", "expected"), [(0, False), (20, False), (21, True), (99, True), (100, True)])
def test_a_segment_with_few_dead_views_is_not_rewritten(index, catalog, dead, expected):
    write(index, range(100))
    write(index, [100], removed=range(1, dead + 1))
    assert bool(compact(index, max_segment_views=1)) == expected
    assert ("000001.tokens" not in files(index)) == expected
    reader = Snapshot(index, SETTINGS, catalog)
    np.testing.assert_array_equal(all_tokens(reader), encoded(range(dead, 101)).tokens)


def test_an_empty_index_and_one_without_photos(index, catalog):
    assert compact(index) == []
    write(index, range(3))
    write(index, range(3, 6), "int8", removed=range(1, 4))
    write(index, [], removed=[4, 5, 6])
    assert compact(index) == [(0, 0)]
    assert compact(index) == []
    assert files(index) == []
    assert catalog.counts() == (0, 0)


def test_segment_numbers_are_never_reused(index, catalog):
    """Otherwise a reader that is opening the old segment would read the bytes of the new one."""
    write(index, range(3))
    write(index, range(3, 6))
    compact(index)
    assert numbers(catalog) == [3]
    write(index, range(6, 9))
    assert numbers(catalog) == [3, 4]
    write(index, [], removed=range(1, 10))
    compact(index)
    assert numbers(catalog) == []
    write(index, range(6, 9))
    assert numbers(catalog) == [5]


def test_rows_of_rewritten_views_count_as_dead(index, catalog):
    write(index, range(10))
    for views in (range(1, 8), range(8, 11)):
        writer = Writer(index, SETTINGS)
        writer.replace_views(list(views), encoded([view - 1 for view in views]))
        writer.close()
        assert compact(index) == [(10, 10)]
        assert "000001.tokens" not in files(index)
        assert [count for _, count, _ in catalog.segments()] == [10]
        np.testing.assert_array_equal(all_tokens(Snapshot(index, SETTINGS, catalog)), encoded(range(10)).tokens)


def test_a_completely_rewritten_segment_leaves_no_file(index, catalog):
    write(index, range(10))
    writer = Writer(index, SETTINGS)
    writer.replace_views(list(range(1, 11)), encoded(range(10)))
    writer.close()
    compact(index)
    assert compact(index) == []
    (number,) = numbers(catalog)
    assert files(index) == [f"{number:06d}.pooled", f"{number:06d}.tokens"]
    np.testing.assert_array_equal(all_tokens(Snapshot(index, SETTINGS, catalog)), encoded(range(10)).tokens)


# -- from any codec to any other


MAX_ERROR = {"fp16": 0, "int8": 0.02, "q4": 1.6, "q2": 3, "q1": 6}  # Errors of Gaussian values in 4 dimensions.


def test_codecs_change_both_ways(tmp_path, subtests):
    for number, (old, new) in enumerate(itertools.product(CODECS, repeat=2)):
        with subtests.test(f"{old} to {new}"), made(tmp_path / str(number)) as (index, catalog):
            write(index, range(50))
            compact(index, old)
            write(index, range(50, 60), old)
            before = Snapshot(index, SETTINGS, catalog)
            tokens = all_tokens(before)
            told = compact(index, new)
            assert told == [(60, 60)]  # The two segments become one in any codec.
            assert len(labels(catalog)) == 1
            assert {label.partition(":")[0] for label in labels(catalog)} == {new}
            after = Snapshot(index, SETTINGS, catalog)
            assert after.damage == []
            assert after.views.id.tolist() == before.views.id.tolist() == list(range(1, 61))
            now, straight = after.encoded(after.views.id), encoded(range(60))
            for name in ("pooled", "shift", "scale"):  # These columns are independent of the codec of x.
                np.testing.assert_array_equal(vars(now)[name], vars(straight)[name])
            error = np.abs(now.tokens.astype(float) - straight.tokens).max()
            assert error <= MAX_ERROR[old] + MAX_ERROR[new]
            if new == "fp16" or new == old:
                np.testing.assert_array_equal(now.tokens, tokens)
            check_checksums(index, catalog)


def test_bits_are_within_the_budget(index, catalog):
    for codec, average in AVERAGE_BITS.items():
        write(index, range(30)) if codec == "q4" else None
        compact(index, codec)
        codec_now = next(iter(Snapshot(index, SETTINGS, catalog).codecs.values()))
        assert codec_now.stride <= PATCHES * (average * DIM / 8 + 2 + 4)  # A plane may end in half a byte.


# -- interrupted compaction, and readers during compaction


def test_an_interrupted_compaction_is_continued(index, catalog):
    for start, end in ((0, 4), (4, 8), (8, 10), (10, 13), (13, 15)):
        write(index, range(start, end))
    assert compact(index, "int8", steps=2, max_segment_views=4, read_views=3) == [(4, 15), (8, 15)]
    assert sorted(set(labels(catalog))) == ["fp16", "int8"]
    reader = Snapshot(index, SETTINGS, catalog)
    assert (len(reader), reader.damage) == (15, [])
    np.testing.assert_allclose(all_tokens(reader), encoded(range(15)).tokens, atol=0.02)
    check_checksums(index, catalog)
    assert compact(index, "int8", max_segment_views=4, read_views=3) == [(2, 7), (5, 7), (7, 7)]
    assert set(labels(catalog)) == {"int8"}
    assert len(files(index)) == 2 * len(labels(catalog))
    assert Snapshot(index, SETTINGS, catalog).views.id.tolist() == list(range(1, 16))
    check_checksums(index, catalog)


def test_an_interrupted_change_of_codec_keeps_its_basis(index, catalog):
    for start in range(0, 20, 5):
        write(index, range(start, start + 5))
    compact(index, "q4", steps=2, max_segment_views=5)
    assert sorted(labels(catalog)) == ["fp16", "fp16", "q4:000001", "q4:000001"]
    compact(index, "q4", max_segment_views=5)
    assert set(labels(catalog)) == {"q4:000001"}


@pytest.mark.parametrize("codec", ["fp16", "q2"])
def test_open_readers_work_during_and_after_compaction(index, catalog, codec):
    for start in range(0, 15, 5):
        write(index, range(start, start + 5))
    write(index, range(15, 20), removed=[1, 2, 3, 11, 12, 13])
    left = [3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 18, 19]
    old, expected = Snapshot(index, SETTINGS, catalog), encoded(left)
    writer = Writer(index, replace(SETTINGS, codec=codec), StoreLimits(max_segment_views=8))
    if codec == "q2":
        train_codec(writer, METRIC)
    steps = 0
    for _ in writer.compactor.compact(writer.target, dead_too=True):
        steps += 1
        np.testing.assert_array_equal(all_tokens(old), expected.tokens)
        fresh = Snapshot(index, SETTINGS, catalog)
        assert (fresh.damage, fresh.views.id.tolist()) == ([], [number + 1 for number in left])
        np.testing.assert_array_equal(fresh.pooled(fresh.views.id), expected.pooled)
    writer.close()
    assert steps >= 2
    np.testing.assert_array_equal(all_tokens(old), expected.tokens)
    np.testing.assert_array_equal(np.concatenate(list(old.all_pooled())), expected.pooled)


def test_a_damaged_segment_stops_compaction_with_one_line(tmp_path, subtests):
    for number, (damage, codec) in enumerate(itertools.product(("bit", "cut", "missing"), ("fp16", "int8", "q2"))):
        with subtests.test(f"{damage}, {codec}"), made(tmp_path / str(number)) as (index, catalog):
            write(index, range(10))
            write(index, range(10, 20), removed=[1, 2, 3, 11, 12, 13])
            file = index / "segments" / "000002.tokens"
            data = file.read_bytes()
            broken = bytearray(data)
            broken[5 * len(data) // 10 + 7] ^= 0x40  # This byte belongs to the sixth view, which is alive.
            file.unlink() if damage == "missing" else file.write_bytes(data[:-1] if damage == "cut" else broken)
            with pytest.raises(
                StoreError, match=r"(segment 2 are damaged|000002.tokens (has|is) .*) - run flairsearch verify --repair"
            ) as error:
                compact(index, codec, max_segment_views=7)
            assert "\n" not in str(error.value)
            whole = Snapshot(index, SETTINGS, catalog)
            assert whole.damage == [] if damage == "bit" else len(whole.damage) == 1
            file.write_bytes(data)
            reader = Snapshot(index, SETTINGS, catalog)
            assert reader.views.id.tolist() == [*range(4, 11), *range(14, 21)]
            error = np.abs(all_tokens(reader).astype(float) - encoded([*range(3, 10), *range(13, 20)]).tokens)
            assert error[:7].max() <= MAX_ERROR[codec]
            assert error[7:].max() == 0
            assert compact(index, codec, max_segment_views=7)[-1] == (7, 7)
            assert set(labels(catalog)) == {"q2:000001" if codec == "q2" else codec}


@pytest.mark.parametrize("kind", ["tokens", "pooled"])
@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_a_damaged_segment_is_kept_and_others_are_compacted(index, catalog, damaged, kind):
    """Three segments would have become one; what was written before the damage was found leaves no trace."""
    for start in range(0, 30, 10):
        write(index, range(start, start + 10))
    file = index / "segments" / f"{damaged:06d}.{kind}"
    data = file.read_bytes()
    broken = bytearray(data)
    broken[-1] ^= 1  # This byte belongs to the last view.
    file.write_bytes(broken)
    with pytest.raises(StoreError, match=f"segment {damaged} are damaged"):
        compact(index)
    assert numbers(catalog) == [damaged, 4]
    assert files(index) == [f"{n:06d}.{kind}" for n in (damaged, 4) for kind in ("pooled", "tokens")]
    file.write_bytes(data)
    assert compact(index) == [(30, 30)]
    np.testing.assert_array_equal(all_tokens(Snapshot(index, SETTINGS, catalog)), encoded(range(30)).tokens)


def test_damaged_dead_views_do_not_stop_compaction(index, catalog):
    write(index, range(10))
    write(index, range(10, 20), removed=range(1, 11))
    (index / "segments" / "000001.tokens").unlink()
    assert compact(index) == [(0, 0)]
    assert numbers(catalog) == [2]
    np.testing.assert_array_equal(all_tokens(Snapshot(index, SETTINGS, catalog)), encoded(range(10, 20)).tokens)


def test_damaged_views_are_not_used_for_a_basis(index, catalog):
    """A flipped bit may make a value infinite, so damaged views are skipped when a basis is fitted."""
    write(index, range(10))
    file = index / "segments" / "000001.tokens"
    data = bytearray(file.read_bytes())
    stride = len(data) // 10
    data[4 * stride + 1] = 0x7C  # A value of the fifth view becomes infinite.
    file.write_bytes(data)
    writer = Writer(index, replace(SETTINGS, codec="q4"))
    train_codec(writer, METRIC)
    others = encoded([0, 1, 2, 3, 5, 6, 7, 8, 9]).tokens.reshape(-1, DIM).astype(float)
    np.testing.assert_allclose(writer.target.codec.basis.mean, others.mean(0), atol=1e-5)
    writer.close()
    file.unlink()
    writer = Writer(index, replace(SETTINGS, codec="q4"))
    with pytest.raises(StoreError, match="has no view that is undamaged - run flairsearch verify --repair first"):
        train_codec(writer, METRIC)
    writer.close()


# -- Engine.compact


def scores(engine, text="red"):
    return {hit.path: hit.score for hit in engine.search(text, k=100)}


def stored(engine):
    """Return the bytes of all segments; the catalogue is left out, because SQLite's log grows and shrinks."""
    return sum(file.stat().st_size for file in (engine.folder / "segments").iterdir())


def test_compacting_keeps_search_results_and_image_ids(tmp_path):
    for number in range(1, 31):
        paint_red(tmp_path / "photos" / f"{number:02d}.png", number)
    with fake_engine(tmp_path / "index") as engine:
        engine.add(tmp_path / "photos")
        for number in range(1, 15):
            (tmp_path / "photos" / f"{number:02d}.png").unlink()
        engine.add()
        before, size = engine.search("red", k=100), stored(engine)
        assert list(engine.compact()) == [(16, 16)]
        after = engine.search("red", k=100)
        assert len(after) == 16
        for old, new in zip(before, after, strict=True):
            assert (new.path, new.score, new.score_global, new.regions) == (
                old.path, old.score, old.score_global, old.regions,
            )  # fmt: skip
            np.testing.assert_array_equal(new.phrases[0].heat, old.phrases[0].heat)
        assert stored(engine) == size * 16 // 30
        assert list(engine.compact()) == []


class SoftEncoder(FakeEncoder):
    """An encoder with logits of 5 instead of 20 per colour, so that errors of tokens change attention little."""

    def encode_texts(self, texts):
        return [
            replace(query, u=5 * query.vector[None], c=np.asarray([-15 - np.log(PATCHES)], np.float32))
            for query in super().encode_texts(texts)
        ]


@pytest.mark.parametrize("codec", ["int8", "q4"])
def test_compact_changes_the_codec_of_an_index(tmp_path, codec):
    for number in range(1, 21):
        paint_red(tmp_path / "photos" / f"{number:02d}.png", 3 * number)
    with fake_engine(tmp_path / "index", encoder=SoftEncoder()) as engine:
        engine.add(tmp_path / "photos")
        before = scores(engine)
        assert list(engine.compact(codec))[-1] == (20, 20)
        assert engine.status().codec == IndexSettings.load(tmp_path / "index").codec == codec
        now = scores(engine)
        assert now == pytest.approx(
            before, abs=1e-3 if codec == "int8" else 0.03
        )  # int8 represents -1, 0 and 1 exactly.
        assert codec == "q4" or list(now) == list(before)
        files_now = files(tmp_path / "index")
        assert list(engine.compact(codec)) == []  # The index has this codec already, so nothing is encoded again.
        assert files(tmp_path / "index") == files_now
        paint_red(tmp_path / "photos" / "99.png", 64)
        engine.add()
        assert set(scores(engine)) == {*now, str(tmp_path / "photos" / "99.png")}
        assert {label.partition(":")[0] for _, _, label in engine._catalog.state().segments} == {codec}
        list(engine.compact("fp16"))
        assert {path: score for path, score in scores(engine).items() if path in now} == pytest.approx(now, abs=1e-2)
        assert {label for _, _, label in engine._catalog.state().segments} == {"fp16"}


def test_an_unknown_codec_changes_nothing(tmp_path):
    with fake_engine(tmp_path / "index") as engine:
        with pytest.raises(UsageError, match="no token codec named 'q3'"):
            list(engine.compact("q3"))
        assert engine.status().codec == IndexSettings.load(tmp_path / "index").codec == "fp16"
        assert list(engine.compact("q2")) == []  # The index is empty.
        assert IndexSettings.load(tmp_path / "index").codec == "q2"


# -- a basis once there are enough views


class PhotoEncoder(FakeEncoder):
    """An encoder whose tokens vary like those of photos; it counts its calls."""

    def __init__(self):
        self.metrics = 0

    def encode_images(self, pictures):
        made = super().encode_images(pictures)
        noise = [
            np.random.default_rng(zlib.crc32(p.pixels.tobytes())).normal(0, 0.05, (PATCHES, DIM)) for p in pictures
        ]
        return EncodedViews(made.pooled, (made.tokens + np.stack(noise)).astype(np.float16), made.shift, made.scale)

    @property
    def token_metric(self):
        self.metrics += 1
        return np.eye(DIM, dtype=np.float32)


def add_photos(tmp_path, engine, numbers):
    for number in numbers:
        paint(tmp_path / "photos" / f"{number:03d}.png", [("red", (0, 0, number + 1, 8))])
    return engine.add(tmp_path / "photos")


def codecs_of(engine):
    return {label for _, _, label in engine._catalog.state().segments}


def test_a_new_index_begins_in_int8_and_gets_a_basis_later(tmp_path):
    encoder = PhotoEncoder()
    with fake_engine(tmp_path / "index", encoder=encoder, codec="q2", store_limits=SMALL) as engine:
        add_photos(tmp_path, engine, range(11))
        assert (codecs_of(engine), encoder.metrics) == ({"int8"}, 0)
        before = scores(engine)
        ids = {path: view for path in before for view in engine._catalog.views_at(path)}
        assert list(engine.compact()) == []
        report = add_photos(tmp_path, engine, [11])
        assert (report.added, report.unchanged) == (1, 11)
        assert (codecs_of(engine), encoder.metrics) == ({"q2:000001"}, 1)
        assert {path: view for path in before for view in engine._catalog.views_at(path)} == ids
        now = scores(engine)
        assert now.keys() > before.keys()
        add_photos(tmp_path, engine, range(12, 30))
        engine.add()
        assert (codecs_of(engine), encoder.metrics) == ({"q2:000001"}, 1)
        assert [file.name for file in (tmp_path / "index" / "codecs").iterdir()] == ["000001.npz"]
        assert len(scores(engine)) == 30
        assert all(found == [] for _, _, found in engine.verify())


def test_a_first_run_over_many_photos_fits_a_basis_once(tmp_path):
    encoder = PhotoEncoder()
    with fake_engine(
        tmp_path / "index",
        encoder=encoder,
        codec="q4",
        store_limits=SMALL,
        ingest_limits=IngestLimits(batch_views=4, commit_views=8),
    ) as engine:
        add_photos(tmp_path, engine, range(40))
        assert (codecs_of(engine), encoder.metrics) == ({"q4:000001"}, 1)
        assert len(scores(engine)) == engine.status().images == 40
        assert all(found == [] for _, _, found in engine.verify())
        stored = Snapshot(tmp_path / "index", engine.settings, engine._catalog)
        again = stored.encoded(np.asarray(engine._catalog.views_at(str(tmp_path / "photos" / "039.png"))))
        error = np.abs(again.tokens[0].astype(float) - np.rint(again.tokens[0].astype(float)))
        assert error.mean() < 0.15  # The colours survive in the view that was int8 and in the others.


def test_an_index_that_shrinks_keeps_its_basis(tmp_path):
    encoder = PhotoEncoder()
    with fake_engine(tmp_path / "index", encoder=encoder, codec="q2", store_limits=SMALL) as engine:
        add_photos(tmp_path, engine, range(12))
        for number in range(8):
            engine.forget(tmp_path / "photos" / f"{number:03d}.png")
            (tmp_path / "photos" / f"{number:03d}.png").unlink()
        list(engine.compact())
        add_photos(tmp_path, engine, range(20, 22))
        assert (codecs_of(engine), encoder.metrics) == ({"q2:000001"}, 1)
        assert len(scores(engine)) == 6


def test_an_interrupted_fit_is_repeated(tmp_path):
    """After a kill the basis may exist without a segment that uses it."""
    with fake_engine(tmp_path / "index", encoder=PhotoEncoder(), codec="q2", store_limits=SMALL) as engine:
        add_photos(tmp_path, engine, range(11))
    settings = IndexSettings.load(tmp_path / "index")
    writer = Writer(tmp_path / "index", settings)
    train_codec(writer, METRIC)
    writer.close()
    (tmp_path / "index" / "codecs" / "000002.part").write_bytes(b"half")
    with fake_engine(tmp_path / "index", encoder=PhotoEncoder(), codec="q2", store_limits=SMALL) as engine:
        assert len(scores(engine)) == 11
        add_photos(tmp_path, engine, [11])
        (label,) = codecs_of(engine)
        assert label.startswith("q2:")
        assert len(scores(engine)) == 12


def test_a_missing_basis_gives_one_line(tmp_path):
    with fake_engine(tmp_path / "index", encoder=PhotoEncoder(), codec="q2", store_limits=SMALL) as engine:
        add_photos(tmp_path, engine, range(12))
    file = tmp_path / "index" / "codecs" / "000001.npz"
    data = file.read_bytes()
    for damage in (None, data[:-5], b""):
        file.unlink() if damage is None else file.write_bytes(damage)
        with fake_engine(tmp_path / "index", encoder=PhotoEncoder(), store_limits=SMALL) as engine:
            result = engine.search("red")
            assert (result.hits, result.complete) == ((), False)
            (line,) = set(result.warnings)
            assert line.startswith(f"{file} is ")
            assert "\n" not in line
            with pytest.raises(
                StoreError, match="has no view that is undamaged - run flairsearch verify --repair first"
            ):
                engine.add()
            assert codecs_of(engine) == {"q2:000001"}
    file.write_bytes(data)
    with fake_engine(tmp_path / "index", encoder=PhotoEncoder(), store_limits=SMALL) as engine:
        assert len(engine.search("red", k=20)) == 12


@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "flipped"])
def test_repair_after_a_damaged_basis_fits_a_new_one(tmp_path, damage):
    with fake_engine(tmp_path / "index", encoder=PhotoEncoder(), codec="q2", store_limits=SMALL) as engine:
        add_photos(tmp_path, engine, range(14))
        before = scores(engine)
        known = catalog_images(engine)
    damage_basis(tmp_path / "index" / "codecs" / "000001.npz", damage)
    with fake_engine(tmp_path / "index", encoder=PhotoEncoder(), store_limits=SMALL) as engine:
        damaged = [one for _, _, some in engine.verify() for one in some]
        assert len(damaged) == 14
        assert engine.repair(damaged) == []
        assert [one for _, _, some in engine.verify() for one in some] == []
        assert len(scores(engine)) == 14
        engine.add()
        (label,) = codecs_of(engine)
        assert label.startswith("q2:")
        assert [one for _, _, some in engine.verify() for one in some] == []
        assert catalog_images(engine) == known
        assert [file.stem for file in (tmp_path / "index" / "codecs").iterdir()] == [label[3:]]
        assert scores(engine).keys() == before.keys()
        for path, score in scores(engine).items():
            assert score == pytest.approx(before[path], abs=0.1)
        assert engine.search("red").warnings == ()


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
@pytest.mark.parametrize("fresh", [1, 20])
def test_photos_are_added_while_a_basis_is_damaged(tmp_path, damage, fresh):
    """A new basis is fitted to the readable views; views encoded in the old basis are never decoded with it."""
    with fake_engine(tmp_path / "index", encoder=PhotoEncoder(), codec="q2", store_limits=SMALL) as engine:
        add_photos(tmp_path, engine, range(14))
        old = set(scores(engine))
    damage_basis(tmp_path / "index" / "codecs" / "000001.npz", damage)
    with fake_engine(tmp_path / "index", encoder=PhotoEncoder(), store_limits=SMALL) as engine:
        report = add_photos(tmp_path, engine, range(20, 20 + fresh))
        assert report.added == fresh
        damaged = [one for _, _, some in engine.verify() for one in some]
        assert {path for one in damaged for path in one.paths} == old
        assert len(scores(engine)) == fresh
        assert len(engine.search("red").warnings) == 1
        assert engine.repair(damaged) == []
        engine.add()
        assert [one for _, _, some in engine.verify() for one in some] == []
        assert len(scores(engine)) == 14 + fresh
        assert engine.search("red").warnings == ()


def damage_basis(file, damage):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes({"cut": data[:-9], "empty": b"", "flipped": data}[damage])


def catalog_images(engine):
    """Return image id and views of each path."""
    return {
        f"{root}/{path}": (known.image, engine._catalog.views_at(f"{root}/{path}"))
        for root, number in engine._catalog.roots().items()
        for path, known in engine._catalog.known(number).items()
    }


def test_compaction_keeps_images_and_frames(index, catalog):
    write(index, range(5))
    frames = catalog.frames([1, 2, 3, 4, 5])
    assert set(frames.values()) == {FRAME}
    writer = Writer(index, SETTINGS)
    writer.update_image(2, ImageFile("/photos", "moved.jpg", 1, 1), digest(1))
    writer.commit()
    writer.close()
    compact(index, "int8")
    assert catalog.frames([1, 2, 3, 4, 5]) == frames
    assert catalog.views_at("/photos/moved.jpg") == [2]
