import numpy as np
import pytest

from flairsearch.codec import make_codec
from flairsearch.errors import StoreError
from flairsearch.records import Encoded
from flairsearch.tokens import Segment, SegmentWriter, segment_paths

P, D = 4, 8
CODEC = make_codec("fp16", P, D)


def random_encoded(count, seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((count, D), (count, P, D), (count, P), (count, P))
    return Encoded(*(rng.normal(size=shape).astype(np.float16) for shape in shapes))


def write(folder, *pieces, number=1):
    writer = SegmentWriter(folder, number, CODEC)
    checksums = [checksum for piece in pieces for checksum in writer.append(piece)]
    writer.finish()
    return np.asarray(checksums)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_what_was_appended_is_read(tmp_path):
    first, second = random_encoded(3), random_encoded(5, seed=1)
    write(tmp_path, first, second, number=12)
    assert names(tmp_path) == ["000012.pooled", "000012.tokens"]
    segment = Segment(tmp_path, 12, 8, CODEC)
    rows = np.asarray([7, 0, 3, 0])
    np.testing.assert_array_equal(
        CODEC.decode(segment.coded(rows)), np.concatenate([first.tokens, second.tokens])[rows]
    )
    np.testing.assert_array_equal(segment.pooled, np.concatenate([first.pooled, second.pooled]))


def test_nothing_has_its_name_before_it_is_finished(tmp_path):
    writer = SegmentWriter(tmp_path, 1, CODEC)
    writer.append(random_encoded(2))
    assert names(tmp_path) == ["000001.pooled.part", "000001.tokens.part"]
    writer.discard()
    assert names(tmp_path) == []


def test_a_row_that_was_cut_off_is_dropped(tmp_path):
    writer = SegmentWriter(tmp_path, 1, CODEC)
    encoded = random_encoded(2)
    writer.append(encoded)
    writer._streams[0].write(b"x" * (CODEC.stride + 3))  # what a full disk leaves of the next append
    writer.finish()
    rows = Segment(tmp_path, 1, 2, CODEC).coded(np.arange(2))
    np.testing.assert_array_equal(CODEC.decode(rows), encoded.tokens)


@pytest.mark.parametrize("which", [0, 1])
def test_a_flipped_bit_is_found_and_only_it(tmp_path, which):
    checksums = write(tmp_path, random_encoded(6))
    rows = np.arange(6)
    assert not Segment(tmp_path, 1, 6, CODEC).damaged(rows, checksums).any()
    file = segment_paths(tmp_path, 1)[which]
    stride = file.stat().st_size // 6
    for bit in (0, 8 * stride - 1):
        data = bytearray(file.read_bytes())
        data[4 * stride + bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        assert Segment(tmp_path, 1, 6, CODEC).damaged(rows, checksums).tolist() == [row == 4 for row in rows]
        data[4 * stride + bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
    some = np.asarray([5, 1])
    assert not Segment(tmp_path, 1, 6, CODEC).damaged(some, checksums[some]).any()


def test_checksums_tell_rows_that_were_swapped(tmp_path):
    checksums = write(tmp_path, random_encoded(3))
    assert Segment(tmp_path, 1, 3, CODEC).damaged(np.arange(3), checksums[::-1]).tolist() == [True, False, True]


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


def test_a_segment_that_may_not_be_read_is_one_line(open_folder, as_user):
    write(open_folder, random_encoded(3))
    segment_paths(open_folder, 1)[0].chmod(0)
    with as_user(), pytest.raises(StoreError, match=r"tokens cannot be read \(Permission denied\)"):
        Segment(open_folder, 1, 3, CODEC)
