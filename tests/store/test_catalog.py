import os
import shutil

import numpy as np
import pytest

from flairsearch.core.errors import StoreError
from flairsearch.core.reports import Skipped
from flairsearch.core.types import Frame, ImageFile, IndexedFile
from flairsearch.store import catalog as catalog_module
from flairsearch.store.catalog import Catalog
from flairsearch.store.changeset import Changeset, NewView

FRAME = Frame(640, 480, 80.0, 0.0, 560.0, 480.0)
ROOT = "/photos"


def digest(number):
    return number.to_bytes(16, "big")


def file(path, root=ROOT, size=10):
    return ImageFile(root, path, size, 20)


def add(catalog, first, count, root=ROOT):
    """Commit a segment of `count` views with one image each; contents are numbered from `first`."""
    catalog.add_root(root)
    numbers = range(first, first + count)
    views = [NewView(digest(number), row, 1000 + number, FRAME) for row, number in enumerate(numbers)]
    added = [(file(f"{number:04d}.jpg", root), digest(number)) for number in numbers]
    catalog.commit(Changeset((catalog.last_segment() + 1, count, "fp16"), views, added))


@pytest.fixture
def catalog(tmp_path):
    catalog = Catalog(tmp_path, create=True)
    yield catalog
    catalog.close()


def images(catalog):
    return {path: entry.image for root in catalog.roots().values() for path, entry in catalog.known(root).items()}


def test_commits_are_visible_to_another_connection(catalog, tmp_path):
    add(catalog, 0, 3)
    add(catalog, 3, 2)
    other = Catalog(tmp_path)
    state = other.state()
    assert state.segments == [(1, 3, "fp16"), (2, 2, "fp16")]
    np.testing.assert_array_equal(state.views.segment, [1, 1, 1, 2, 2])
    np.testing.assert_array_equal(state.views.row, [0, 1, 2, 0, 1])
    assert state.generation == other.generation() == catalog.generation() > 1
    assert other.known(other.roots()[ROOT])["0004.jpg"] == IndexedFile(5, 10, 20)
    assert set(other.frames(state.views.id.tolist()).values()) == {FRAME}
    assert other.hashes() == {digest(number) for number in range(5)}
    assert other.image_hashes([5, 1]) == {5: digest(4), 1: digest(0)}
    assert other.counts() == (5, 5)
    other.close()


def test_a_state_is_read_in_one_transaction(catalog, tmp_path, monkeypatch):
    add(catalog, 0, 3)
    reader = Catalog(tmp_path)
    pending = [3]

    def commit_between(connection):
        if pending:
            add(catalog, pending.pop(), 2)
        return live_views(connection)

    live_views = catalog_module._live_views
    monkeypatch.setattr(catalog_module, "_live_views", commit_between)  # This is the last read of a state.
    first = catalog.generation()
    for views in (3, 5):
        state = reader.state()
        assert state.generation == (first if views == 3 else catalog.generation())
        assert len(state.views.id) == sum(count for _, count, _ in state.segments) == views
        assert catalog.generation() > first
    reader.close()


def test_ids_are_never_used_again(catalog):
    add(catalog, 0, 3)
    seen_images, seen_views = set(images(catalog).values()), set(catalog.state().views.id.tolist())
    for first in (10, 20, 30):
        catalog.commit(Changeset(removed=list(images(catalog).values())))
        assert catalog.counts() == (0, 0)
        assert len(catalog.state().views.id) == 0
        with catalog._database.write() as connection:  # A compaction does this, too.
            for table in ("views", "contents"):
                connection.execute(f"DELETE FROM {table}")
        add(catalog, first, 3)
        now = set(images(catalog).values()), set(catalog.state().views.id.tolist())
        assert not now[0] & seen_images
        assert not now[1] & seen_views
        seen_images |= now[0]
        seen_views |= now[1]
    assert catalog.last_segment() == 4


def test_a_returning_content_keeps_its_view(catalog):
    add(catalog, 0, 1)
    (view,) = catalog.state().views.id
    catalog.commit(Changeset(removed=[1]))
    assert digest(0) in catalog.hashes()
    catalog.commit(Changeset(added=[(file("back.jpg"), digest(0))]))
    np.testing.assert_array_equal(catalog.state().views.id, [view])


def test_a_failed_commit_changes_nothing(catalog):
    add(catalog, 0, 2)
    before = (catalog.state().generation, images(catalog), catalog.counts(), catalog.hashes())
    twice = Changeset(added=[(file("new.jpg"), digest(7)), (file("0000.jpg"), digest(8))], removed=[2])
    with pytest.raises(StoreError) as caught:
        catalog.commit(twice)
    assert "\n" not in str(caught.value)
    assert (catalog.state().generation, images(catalog), catalog.counts(), catalog.hashes()) == before


def test_updates_keep_image_ids_and_removals_are_applied_first(catalog):
    add(catalog, 0, 2)
    ids = images(catalog)
    change = Changeset(updated=[(ids["0000.jpg"], file("0001.jpg", size=99), digest(1))], removed=[ids["0001.jpg"]])
    catalog.commit(change)
    assert catalog.known(1) == {"0001.jpg": IndexedFile(ids["0000.jpg"], 99, 20)}


def test_more_rows_than_sqlite_allows_parameters(catalog):
    add(catalog, 0, 1300)
    ids = list(images(catalog).values())
    assert catalog.image_hashes(ids) == {number: digest(number - 1) for number in ids}
    assert len(catalog.images_of(list(range(1, 1301)))) == 1300
    assert len(catalog.frames(catalog.state().views.id.tolist())) == 1300
    catalog.commit(Changeset(removed=ids[:1250]))
    assert sorted(images(catalog).values()) == ids[1250:]


def test_a_folder_does_not_match_paths_beside_it(catalog):
    add(catalog, 0, 1, "/photos/a")
    add(catalog, 10, 2, "/photos/ab")
    assert catalog.images_below("/photos/a") == catalog.images_below("/photos/a/") == [1]
    assert catalog.images_below("/photos/ab/0010.jpg") == [2]
    assert catalog.images_below("/photos/ab/0010") == []
    assert catalog.images_below("/photos") == [1, 2, 3]
    assert catalog.views_at("/photos/ab/0011.jpg") == [3]
    assert catalog.views_at("/photos/ab") == catalog.views_at("/elsewhere/0000.jpg") == []
    assert catalog.images_of([1, 3]) == {1: [(1, "/photos/a/0000.jpg")], 3: [(3, "/photos/ab/0011.jpg")]}


def test_roots(catalog):
    assert catalog.add_root("/a") == catalog.add_root("/a") == 1
    catalog.add_root("/b")
    catalog.remove_root("/a")
    assert catalog.roots() == {"/b": 2}
    assert catalog.add_root("/a") == 3


def test_only_the_last_runs_skipped_files_are_kept(catalog):
    catalog.statistics.replace_skipped([Skipped("/a", "damaged"), Skipped("/ü", "empty")])
    assert catalog.statistics.skipped() == [Skipped("/a", "damaged"), Skipped("/ü", "empty")]
    catalog.statistics.replace_skipped([])
    assert catalog.statistics.skipped() == []


def test_a_folder_with_special_characters_of_a_uri(tmp_path):
    folder = tmp_path / "50% #1? ü &mode=memory"
    folder.mkdir()
    made = Catalog(folder, create=True)
    add(made, 0, 2)
    made.close()
    assert [path.name for path in folder.iterdir()] == ["catalog.sqlite"]
    opened = Catalog(folder)
    assert opened.counts() == (2, 2)
    opened.close()


def test_a_missing_catalogue_gives_one_line(tmp_path):
    with pytest.raises(StoreError, match=r"catalog.sqlite is missing - run flairsearch index --rebuild"):
        Catalog(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"no database" * 500])
def test_a_file_that_is_not_a_catalogue_gives_one_line(tmp_path, data):
    (tmp_path / "catalog.sqlite").write_bytes(data)
    with pytest.raises(StoreError, match=r"catalog.sqlite (is damaged|cannot be read)") as caught:
        Catalog(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_damaged_page_gives_one_line_in_every_method(tmp_path):
    made = Catalog(tmp_path, create=True)
    add(made, 0, 600)
    made.close()
    path = tmp_path / "catalog.sqlite"
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(StoreError) as caught:
        Catalog(tmp_path).state()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_read_only_catalogue_can_be_read(open_folder, as_user):
    folder = open_folder / "index"
    folder.mkdir()
    made = Catalog(folder, create=True)
    add(made, 0, 3)
    made.close()
    for path in (folder / "catalog.sqlite", folder):
        path.chmod(0o444 if path.is_file() else 0o555)
    with as_user():
        reader = Catalog(folder)
        assert reader.counts() == (3, 3)
        with pytest.raises(StoreError, match="readonly"):
            reader.add_root("/b")
        reader.close()
        assert [path.name for path in folder.iterdir()] == ["catalog.sqlite"]


def test_a_closed_catalogue_needs_no_log_file(catalog, tmp_path):
    add(catalog, 0, 3)
    catalog.close()
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "catalog.sqlite", tmp_path / "copy")
    copy = Catalog(tmp_path / "copy")
    assert copy.counts() == (3, 3)
    copy.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_a_reader_without_write_permission_sees_the_log(open_folder, as_user):
    writer = Catalog(open_folder, create=True)
    add(writer, 0, 3)
    assert (open_folder / "catalog.sqlite-wal").stat().st_size > 0
    with as_user():
        reader = Catalog(open_folder)
        assert reader.counts() == (3, 3)
    add(writer, 3, 2)
    with as_user():
        assert reader.counts() == (5, 5)
        reader.close()
    writer.close()
