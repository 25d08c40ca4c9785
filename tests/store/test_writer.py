import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from flairsearch.core.errors import StoreError
from flairsearch.core.limits import STORE_LIMITS, StoreLimits
from flairsearch.core.settings import IndexSettings
from flairsearch.core.types import ImageFile
from flairsearch.indexing.lifecycle import create_index, replace_index
from flairsearch.store.catalog import Catalog
from flairsearch.store.snapshot import Snapshot
from flairsearch.store.verify import verify
from flairsearch.store.writer import Writer
from tests.support.fake import DIM, PATCHES
from tests.support.indexes import (
    SETTINGS,
    add,
    candidate_count,
    commit,
    compact,
    digest,
    encoded,
    files,
    filled,
    open_shortlist,
)

MERGE = STORE_LIMITS.merge_fan_in


def test_uncommitted_views_leave_no_trace(index, catalog):
    filled(index, range(3))
    before = catalog.generation(), files(index)
    writer = Writer(index, SETTINGS)
    add(writer, range(3, 6))
    assert len(Snapshot(index, SETTINGS, catalog)) == 3
    writer.close()
    assert (catalog.generation(), files(index)) == before
    assert catalog.counts() == (3, 3)
    assert catalog.hashes() == {digest(n) for n in range(3)}


def test_an_empty_commit_changes_nothing(index, catalog):
    filled(index, range(3))
    before = catalog.generation()
    writer = Writer(index, SETTINGS)
    commit(writer)
    writer.close()
    assert catalog.generation() == before


def test_the_next_writer_removes_unreferenced_files(index, catalog):
    filled(index, range(3))
    live = files(index)
    for name in ("000002.tokens", "000002.pooled", "000003.tokens.part", "000001.pooled.part", "000099.fitted"):
        (index / "segments" / name).write_bytes(b"left over")
    assert len(Snapshot(index, SETTINGS, catalog)) == 3  # A reader ignores such files.
    Writer(index, SETTINGS).close()
    assert files(index) == live
    filled(index, range(3, 5))
    np.testing.assert_array_equal(
        Snapshot(index, SETTINGS, catalog).encoded(np.arange(1, 6)).tokens, encoded(range(5)).tokens
    )


def test_the_next_writer_removes_partial_files(index):
    filled(index, range(3))
    (index / "fitted").mkdir(exist_ok=True)
    left = [index / name for name in ("index.json.0f.part", "last-run.json.0f.part", "fitted/codes.0f.part")]
    for file in left:
        file.write_bytes(b"left over")
    Writer(index, SETTINGS).close()
    assert not [file for file in left if file.exists()]


def test_two_writers_at_once_are_refused(index):
    writer = Writer(index, SETTINGS)
    with pytest.raises(StoreError, match=r"is being written by another process - wait") as caught:
        Writer(index, SETTINGS)
    assert "\n" not in str(caught.value)
    other = (
        "from flairsearch.store.writer import Writer; from pathlib import Path; "
        "from flairsearch.core.settings import IndexSettings"
    )
    code = f"{other}; f = Path({str(index)!r}); Writer(f, IndexSettings.load(f)).close()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "StoreError" in ended.stderr
    assert "is being written by another process" in ended.stderr
    writer.close()
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("damage", ["catalogue", "segments", "settings"])
def test_a_writer_that_cannot_start_releases_the_lock(index, damage):
    place = index / {"catalogue": "catalog.sqlite", "segments": "segments", "settings": "index.json"}[damage]
    settings = SETTINGS if damage != "settings" else IndexSettings("fake", "", 64, PATCHES, DIM, "squash", "int9")
    if damage != "settings":
        place.rename(index.parent / "away")
    with pytest.raises(StoreError) as caught:
        Writer(index, settings)
    assert "\n" not in str(caught.value)
    if damage != "settings":
        (index.parent / "away").rename(place)
    Writer(index, SETTINGS).close()


def test_a_read_only_index_cannot_be_written(open_folder, as_user):
    index = open_folder / "index"
    create_index(index, SETTINGS)
    filled(index, range(3))
    (index / "writer.lock").unlink(missing_ok=True)
    for path in [index, *index.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    with as_user():
        catalog = Catalog(index)
        reader = Snapshot(index, SETTINGS, catalog)
        np.testing.assert_array_equal(reader.encoded(reader.views.id).tokens, encoded(range(3)).tokens)
        catalog.close()
        with pytest.raises(StoreError, match="cannot be written") as caught:
            Writer(index, SETTINGS)
        assert "\n" not in str(caught.value)


def test_replace_index_keeps_only_the_new_index(tmp_path):
    old, fresh = tmp_path / "photos", tmp_path / "photos.rebuilding"
    for folder, numbers in ((old, range(3)), (fresh, range(7))):
        create_index(folder, SETTINGS)
        filled(folder, numbers)
    replace_index(old, fresh)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    catalog = Catalog(old)
    assert len(Snapshot(old, SETTINGS, catalog)) == 7
    catalog.close()


def test_sizes_count_every_file_once(index, catalog):
    filled(index, range(10))
    sizes = catalog.statistics.sizes()
    every = [Path(at, name) for at, _, names in os.walk(index) for name in names]
    assert sum(sizes.values()) == sum(path.stat().st_size for path in every)
    assert sizes["tokens"] == sum(path.stat().st_size for path in every if path.suffix == ".tokens")
    assert sizes["tokens"] == 10 * (2 * PATCHES * DIM + 4 * PATCHES)
    assert sizes["pooled_vectors"] == 10 * 2 * DIM
    assert sizes["catalogue"] == sum(path.stat().st_size for path in every if path.name.startswith("catalog.sqlite"))


# -- merging of small segments


def commit_each(index, numbers, limits=STORE_LIMITS):
    writer = Writer(index, SETTINGS, limits)
    for number in numbers:
        add(writer, [number])
        commit(writer)
    writer.close()


def check_all(index, catalog, numbers):
    """Check views, bytes, checksums and files against what was written; `numbers` are in the order of view ids."""
    reader, expected = Snapshot(index, SETTINGS, catalog), encoded(numbers)
    assert reader.damage == []
    assert len(reader) == len(numbers)
    np.testing.assert_array_equal(reader.encoded(reader.views.id).tokens, expected.tokens)
    np.testing.assert_array_equal(np.concatenate(list(reader.all_pooled())), expected.pooled)
    names = catalog.images_of(reader.views.content.tolist())
    assert [names[content][0][1] for content in reader.views.content.tolist()] == [f"/photos/{n}.jpg" for n in numbers]
    assert [found for _, _, some in verify(reader, catalog) for found in some] == []
    assert files(index) == sorted(f"{n:06d}.{kind}" for n, _, _ in catalog.segments() for kind in ("pooled", "tokens"))
    rows = [count for _, count, _ in catalog.segments()]
    assert sum(rows) == len(numbers)


def test_small_commits_are_merged_into_few_segments(index, catalog):
    for count in range(1, 40):
        commit_each(index, [count - 1])
        assert len(catalog.segments()) < MERGE
        check_all(index, catalog, range(count))


def test_segments_of_a_size_become_one_of_the_next(index, catalog):
    limits = StoreLimits(size_tiers=(3, 9), merge_fan_in=3)
    rows, most = 0, 0
    for number in range(60):
        before = {n for n, _, _ in catalog.segments()}
        commit_each(index, [number], limits)
        rows += sum(count for n, count, _ in catalog.segments() if n not in before)
        most = max(most, len(catalog.segments()))
    assert most <= 10
    assert sorted(count for _, count, _ in catalog.segments())[-1] >= 9
    assert rows <= 60 * 4  # Each view is written once for each tier.
    check_all(index, catalog, range(60))


def test_large_segments_are_left_alone(index, catalog):
    limits = StoreLimits(size_tiers=(3, 5), merge_fan_in=2)
    for number in range(6):
        filled(index, range(5 * number, 5 * number + 5), limits=limits)
    assert [count for _, count, _ in catalog.segments()] == [5] * 6
    check_all(index, catalog, range(30))


@pytest.mark.parametrize("dead", [[0, 2], range(MERGE - 1)])
def test_a_dead_view_stays_for_a_returning_content(index, catalog, dead):
    """The decoder skips contents that the writer knows, so none of them may lose its view during a run."""
    commit_each(index, range(MERGE - 1))
    writer = Writer(index, SETTINGS)
    writer.remove_images([number + 1 for number in dead])
    commit(writer)
    known = set(writer.hashes)
    for number in range(100, 100 + 2 * MERGE):
        add(writer, [number])
        commit(writer)
    assert len(catalog.segments()) < MERGE
    for number in dead:
        assert digest(number) in known
        writer.add_image(ImageFile("/photos", f"{number} again.jpg", 1, 1), digest(number))
    commit(writer)
    compact(writer)
    writer.close()
    numbers = [*range(MERGE - 1), *range(100, 100 + 2 * MERGE)]
    reader = Snapshot(index, SETTINGS, catalog)
    np.testing.assert_array_equal(reader.encoded(reader.views.id).tokens, encoded(numbers).tokens)
    assert catalog.counts() == (len(numbers), len(numbers))


def test_compaction_removes_merged_dead_views(index, catalog):
    commit_each(index, range(3))
    writer = Writer(index, SETTINGS)
    writer.remove_images([1, 2, 3])
    for number in range(3, 3 + MERGE):
        add(writer, [number])
        commit(writer)
    compact(writer)
    writer.close()
    check_all(index, catalog, range(3, 3 + MERGE))
    assert digest(0) not in catalog.hashes()


def test_snapshots_older_than_a_merge_do_not_change(index, catalog):
    readers = []
    for number in range(20):
        commit_each(index, [number])
        readers.append(Snapshot(index, SETTINGS, catalog))
    for count, reader in enumerate(readers, 1):
        np.testing.assert_array_equal(reader.encoded(reader.views.id).tokens, encoded(range(count)).tokens)
        np.testing.assert_array_equal(np.concatenate(list(reader.all_pooled())), encoded(range(count)).pooled)
        assert candidate_count(open_shortlist(reader)) == count


@pytest.mark.parametrize("damage", ["flipped", "missing", "cut"])
@pytest.mark.parametrize("kind", ["tokens", "pooled"])
def test_a_damaged_small_segment_stops_neither_indexing_nor_merging(index, catalog, damage, kind):
    commit_each(index, range(3))
    (number, _, _) = catalog.segments()[1]
    file = index / "segments" / f"{number:06d}.{kind}"
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.unlink() if damage == "missing" else file.write_bytes(data if damage == "flipped" else data[:-1])
    commit_each(index, range(3, 60))
    reader = Snapshot(index, SETTINGS, catalog)
    found = [one.view for _, _, some in verify(reader, catalog) for one in some]
    assert found == [2]
    whole = reader.views.id[reader.views.id != 2]
    assert whole.tolist() == [1, *range(3, 61)]
    np.testing.assert_array_equal(reader.encoded(whole).tokens, encoded([0, *range(2, 60)]).tokens)
    writer = Writer(index, SETTINGS)
    writer.replace_views([2], encoded([1]))
    writer.close()
    commit_each(index, range(60, 70))
    list_of_rows = catalog.segments()
    assert len(list_of_rows) <= 2 * MERGE, f"{len(list_of_rows)} segments: one that was damaged kept all from merging"
    reader = Snapshot(index, SETTINGS, catalog)
    assert [one.view for _, _, some in verify(reader, catalog) for one in some] == []
    assert len(reader) == 70


def test_the_number_of_segments_is_bounded_while_one_is_damaged(index, catalog):
    """The damage may be irreparable, and a process may have only 1,024 files open."""
    commit_each(index, range(2))
    (index / "segments" / "000001.tokens").unlink()
    commit_each(index, range(2, 80))
    assert len(catalog.segments()) <= 3 * MERGE


def test_a_full_disk_while_merging_loses_nothing(index, catalog, monkeypatch):
    commit_each(index, range(MERGE - 1))
    writer = Writer(index, SETTINGS)
    add(writer, [MERGE - 1])

    def full(*_):
        raise OSError(28, "No space left on device")

    writer._segment.finish()  # The segment's bytes are written, but those of the merge are not.
    monkeypatch.setattr(writer._segment, "finish", lambda: None)
    monkeypatch.setattr("flairsearch.store.segments.SegmentWriter.append_rows", full)
    with suppress(OSError):  # Committed views stay committed.
        commit(writer)
    writer.close()
    monkeypatch.undo()
    Writer(index, SETTINGS).close()
    check_all(index, catalog, range(MERGE))


def test_many_damaged_segments_do_not_stop_the_others_from_merging(index, catalog):
    """Their number would suffice for a merge, but segments known to be damaged are not counted."""
    commit_each(index, range(MERGE - 1))
    for number in range(1, MERGE):
        (index / "segments" / f"{number:06d}.tokens").unlink()
    commit_each(index, range(100, 100 + 4 * MERGE))
    assert len(catalog.segments()) < 3 * MERGE
    reader = Snapshot(index, SETTINGS, catalog)
    assert len(reader) == 4 * MERGE
    assert len(reader.unreadable_views.id) == MERGE - 1
