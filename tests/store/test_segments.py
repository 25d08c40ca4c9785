import zlib

import numpy as np
import pytest

from flairsearch.codecs.codec import make_codec
from flairsearch.core.errors import StoreError
from flairsearch.core.types import EncodedViews
from flairsearch.store.segments import Segment, SegmentWriter, checksums, consecutive_runs, segment_paths

P, D = 4, 8
CODEC = make_codec("fp16", P, D)


def random_encoded(count, seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((count, D), (count, P, D), (count, P), (count, P))
    return EncodedViews(*(rng.normal(size=shape).astype(np.float16) for shape in shapes))


def write(folder, *pieces, number=1):
    writer = SegmentWriter(folder, number, CODEC)
    expected = [checksum for piece in pieces for checksum in writer.append(piece)]
    writer.finish()
    return expected


def damaged(folder, count, expected):
    """Return the rows whose checksum differs from the expected one."""
    segment = Segment(folder, 1, count, CODEC)
    found = checksums(segment.tokens.rows, segment.pooled.rows)
    return [row for row in range(count) if found[row] != expected[row]]


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_appended_views_are_read(tmp_path):
    first, second = random_encoded(3), random_encoded(5, seed=1)
    write(tmp_path, first, second, number=12)
    assert names(tmp_path) == ["000012.pooled", "000012.tokens"]
    segment = Segment(tmp_path, 12, 8, CODEC)
    rows = np.asarray([7, 0, 3, 0])
    np.testing.assert_array_equal(
        CODEC.decode(segment.tokens.rows[rows]), np.concatenate([first.tokens, second.tokens])[rows]
    )
    np.testing.assert_array_equal(segment.pooled.rows.view("<f2"), np.concatenate([first.pooled, second.pooled]))


def test_checksums_are_of_the_bytes_on_disk(tmp_path):
    """The CRC-32 covers the token row and then the pooled vector in the files; append_rows gives the same."""
    expected = write(tmp_path, random_encoded(3))
    tokens, pooled = (path.read_bytes() for path in segment_paths(tmp_path, 1))
    rows = [tokens[i * CODEC.stride :][: CODEC.stride] + pooled[i * 2 * D :][: 2 * D] for i in range(3)]
    assert expected == [zlib.crc32(row) for row in rows]
    segment = Segment(tmp_path, 1, 3, CODEC)
    coded, vectors = segment.tokens.rows, segment.pooled.rows.view("<f2")
    with SegmentWriter(tmp_path, 2, CODEC) as writer:
        assert writer.append_rows(coded[[2, 0]], vectors[[2, 0]]) == [expected[2], expected[0]]
        assert writer.append_rows(coded[::2], vectors[::2]) == [expected[0], expected[2]]
        writer.finish()
    copy = Segment(tmp_path, 2, 4, CODEC)
    np.testing.assert_array_equal(copy.tokens.rows, coded[[2, 0, 0, 2]])
    np.testing.assert_array_equal(copy.pooled.rows, segment.pooled.rows[[2, 0, 0, 2]])


def test_consecutive_runs():
    rng = np.random.default_rng(0)
    for count in (0, 1, 2, 50):
        rows = np.sort(rng.choice(70, count, replace=False))
        for some in (rows, rng.permutation(rows), np.repeat(rows, 2)):
            found = list(consecutive_runs(some))
            assert [row for start, stop in found for row in range(start, stop)] == list(range(len(some)))
            for start, stop in found:
                assert some[start:stop].tolist() == list(range(some[start], some[start] + stop - start))
            assert all(some[stop - 1] + 1 != some[stop] for _, stop in found[:-1])  # No run is split.


def test_prefetching_does_not_change_rows(tmp_path):
    write(tmp_path, random_encoded(50))
    tokens = Segment(tmp_path, 1, 50, CODEC).tokens
    before = tokens.rows.copy()
    for rows in (np.arange(50), np.asarray([49]), np.arange(0), np.asarray([3, 4, 40])):
        tokens.prefetch(rows)
        assert type(tokens.in_page_cache(rows)) is bool
        into = np.empty((len(rows), CODEC.stride), np.uint8)
        tokens.gather(rows, into)
        np.testing.assert_array_equal(into, before[rows])
    np.testing.assert_array_equal(tokens.rows, before)


def test_files_get_their_names_when_they_are_finished(tmp_path):
    writer = SegmentWriter(tmp_path, 1, CODEC)
    writer.append(random_encoded(2))
    assert names(tmp_path) == ["000001.pooled.part", "000001.tokens.part"]
    writer.discard()
    assert names(tmp_path) == []


def test_a_partial_row_is_removed(tmp_path):
    writer = SegmentWriter(tmp_path, 1, CODEC)
    encoded = random_encoded(2)
    writer.append(encoded)
    writer._streams[0].write(b"x" * (CODEC.stride + 3))  # A full disk may leave part of an append.
    writer.finish()
    rows = Segment(tmp_path, 1, 2, CODEC).tokens.rows
    np.testing.assert_array_equal(CODEC.decode(rows), encoded.tokens)


@pytest.mark.parametrize("which", [0, 1])
def test_only_the_row_with_a_flipped_bit_is_damaged(tmp_path, which):
    expected = write(tmp_path, random_encoded(6))
    assert damaged(tmp_path, 6, expected) == []
    file = segment_paths(tmp_path, 1)[which]
    stride = file.stat().st_size // 6
    for bit in (0, 8 * stride - 1):
        data = bytearray(file.read_bytes())
        data[4 * stride + bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        assert damaged(tmp_path, 6, expected) == [4]
        data[4 * stride + bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
    assert damaged(tmp_path, 6, expected) == []


def test_checksums_detect_swapped_rows(tmp_path):
    expected = write(tmp_path, random_encoded(3))
    assert damaged(tmp_path, 3, expected[::-1]) == [0, 2]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("damage", ["shorter", "longer", "empty", "missing", "folder"])
def test_a_segment_of_the_wrong_size_is_refused(tmp_path, which, damage):
    write(tmp_path, random_encoded(3))
    file = segment_paths(tmp_path, 1)[which]
    data = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage != "missing":
        file.write_bytes({"shorter": data[:-1], "longer": data + b"\0", "empty": b""}[damage])
    with pytest.raises(StoreError) as caught:
        Segment(tmp_path, 1, 3, CODEC)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unreadable_segment_gives_one_line(open_folder, as_user):
    write(open_folder, random_encoded(3))
    segment_paths(open_folder, 1)[0].chmod(0)
    with as_user(), pytest.raises(StoreError, match=r"tokens cannot be read \(Permission denied\)"):
        Segment(open_folder, 1, 3, CODEC)
