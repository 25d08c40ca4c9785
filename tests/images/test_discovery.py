"""Walking folders, and comparing what is found with the index."""

import os

import pytest

from flairsearch.core.reports import Skipped
from flairsearch.core.types import ImageFile, IndexedFile
from flairsearch.images.discovery import compare, walk


def make(folder, *paths):
    """Make files that hold their own path."""
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode())


def paths(root, *args):
    return [entry.path for entry in walk(str(root), *args) if isinstance(entry, ImageFile)]


def skipped(root):
    return {os.path.relpath(entry.path, root): entry.reason for entry in walk(str(root)) if isinstance(entry, Skipped)}


def index_all(root):
    """The indexed files if every image below the root were indexed; image ids count from 1."""
    found = [entry for entry in walk(str(root)) if isinstance(entry, ImageFile)]
    return {file.path: IndexedFile(number, file.size, file.mtime_ns) for number, file in enumerate(found, 1)}


def test_walk_finds_images_in_name_order(tmp_path):
    make(tmp_path, "b.JPG", "a.png", "z/1.webp", "c/d/2.tiff", "notes.txt", "movie.mp4", "jpg")
    assert paths(tmp_path) == ["a.png", "b.JPG", "c/d/2.tiff", "z/1.webp"]
    first = next(iter(walk(str(tmp_path))))
    status = (tmp_path / "a.png").stat()
    assert first == ImageFile(str(tmp_path), "a.png", status.st_size, status.st_mtime_ns)
    assert first.absolute == str(tmp_path / "a.png")


def test_walk_passes_over_hidden_and_thumbnail_folders(tmp_path):
    make(tmp_path, ".hidden.jpg", ".git/a.jpg", "@eaDir/b.jpg", "Thumbnails/c.jpg", "x/.thumbs/d.jpg", "x/e.jpg")
    assert paths(tmp_path) == ["x/e.jpg"]


def test_a_hidden_root_is_walked_when_asked_for(tmp_path):
    make(tmp_path, ".photos/a.jpg")
    assert paths(tmp_path / ".photos") == ["a.jpg"]


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("*.png", ["a.jpg", "x/c.jpg", "y/d.jpg"]),
        ("x", ["a.jpg", "b.png", "y/d.jpg"]),
        ("y/*", ["a.jpg", "b.png", "x/c.jpg"]),
    ],
)
def test_ignore_matches_names_and_relative_paths(tmp_path, pattern, left):
    make(tmp_path, "a.jpg", "b.png", "x/c.jpg", "y/d.jpg")
    assert paths(tmp_path, [pattern]) == left


def test_links_to_folders_are_followed_once_and_loops_are_skipped(tmp_path):
    root = tmp_path / "root"
    make(root, "a.jpg", "sub/b.jpg")
    make(tmp_path, "outside/c.jpg")
    (root / "sub" / "up").symlink_to(root)
    (root / "other").symlink_to(tmp_path / "outside")
    (root / "twice").symlink_to(tmp_path / "outside")
    assert paths(root) == ["a.jpg", "other/c.jpg", "sub/b.jpg"]
    assert skipped(root) == {"sub/up": "symbolic link to a folder above it"}


def test_links_that_lead_nowhere_and_special_files_are_skipped(tmp_path):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    (tmp_path / "self.jpg").symlink_to(tmp_path / "self.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    found = skipped(tmp_path)
    assert found["gone.jpg"] == "broken symbolic link"
    assert found["pipe.jpg"] == "not a regular file"
    assert "symbolic link" in found["self.jpg"]
    assert paths(tmp_path) == []


def test_names_that_are_not_utf8_are_skipped_and_can_be_printed(tmp_path):
    root = os.fsencode(tmp_path)
    try:
        os.mkdir(root + b"/f\xff")
    except OSError:
        pytest.skip("the file system allows UTF-8 names only")
    for name in (b"/caf\xe9.jpg", b"/f\xff/a.jpg"):
        with open(root + name, "wb"):
            pass
    os.symlink(root, root + b"/f\xff/loop")
    make(tmp_path, "café.jpg")
    assert paths(tmp_path) == ["café.jpg"]
    found = skipped(tmp_path)
    assert found["caf\\xe9.jpg"] == found["f\\xff/a.jpg"] == "the name is not UTF-8 - rename the file"
    assert found["f\\xff/loop"] == "symbolic link to a folder above it"
    assert all(path.encode() for path in found)


def test_compare_finds_added_updated_unchanged_and_removed(tmp_path):
    make(tmp_path, "same.jpg", "size.jpg", "time.jpg", "gone.jpg", "x/gone.jpg", "x/same.jpg")
    before = index_all(tmp_path)
    (tmp_path / "size.jpg").write_bytes(b"longer than it was")
    os.utime(tmp_path / "time.jpg", ns=(1, 1))
    (tmp_path / "gone.jpg").unlink()
    (tmp_path / "x" / "gone.jpg").unlink()
    make(tmp_path, "new.jpg")
    changes = compare(str(tmp_path), dict(before))
    assert [file.path for file in changes.added] == ["new.jpg"]
    assert {(file.path, image) for file, image in changes.updated} == {
        (path, before[path].image) for path in ("size.jpg", "time.jpg")
    }
    assert changes.unchanged == 2
    assert sorted(changes.removed) == sorted(before[path].image for path in ("gone.jpg", "x/gone.jpg"))
    assert (changes.skipped, changes.warnings) == ([], [])


def test_compare_keeps_a_file_that_exists_but_cannot_be_read(tmp_path):
    make(tmp_path, "a.jpg", "b.jpg")
    before = index_all(tmp_path)
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "a.jpg").symlink_to("/nowhere")
    changes = compare(str(tmp_path), dict(before))
    assert changes.removed == []
    assert [s.reason for s in changes.skipped] == ["broken symbolic link"]


def empty(root):
    for file in list(root.rglob("*.jpg")):
        file.unlink()


def remove(root):
    root.rename(root.with_name("elsewhere"))


def replace_by_file(root):
    remove(root)
    root.write_bytes(b"")


@pytest.mark.parametrize("damage", [empty, remove, replace_by_file])
def test_a_root_that_is_missing_or_suddenly_empty_loses_nothing(tmp_path, damage):
    root = tmp_path / "root"
    make(root, "a.jpg", "sub/b.jpg", "sub/c.jpg")
    before = index_all(root)
    damage(root)
    changes = compare(str(root), before)
    assert (changes.removed, changes.added, changes.updated) == ([], [], [])
    (warning,) = changes.warnings
    assert warning.startswith(f"{root}: ")
    assert warning.endswith(f"its 3 photos stay in the index; to remove them: flairsearch forget {root}")


def test_a_suddenly_empty_folder_gives_one_warning(tmp_path):
    make(tmp_path, "a.jpg", "sub/b.jpg", "sub/deep/c.jpg")
    before = index_all(tmp_path)
    empty(tmp_path / "sub")
    (tmp_path / "sub" / "deep").rmdir()
    changes = compare(str(tmp_path), dict(before))
    assert (changes.removed, changes.unchanged) == ([], 1)
    assert len(changes.warnings) == 1
    assert changes.warnings[0].startswith(f"{tmp_path / 'sub'}: empty - its 2 photos stay")


def test_a_folder_that_may_not_be_read_loses_nothing(open_folder, as_user):
    make(open_folder, "a.jpg", "locked/b.jpg", "locked/c.jpg", "new/d.jpg")
    before = {path: entry for path, entry in index_all(open_folder).items() if path != "new/d.jpg"}
    (open_folder / "locked").chmod(0)
    (open_folder / "new").chmod(0)
    with as_user():
        changes = compare(str(open_folder), before)
    assert changes.removed == []
    assert [w.split(" - ")[0] for w in changes.warnings] == [f"{open_folder / 'locked'}: permission denied"]
    assert changes.skipped == [Skipped(str(open_folder / "new"), "permission denied")]


def test_nested_roots_are_not_walked(tmp_path):
    make(tmp_path, "a.jpg", "trip [1]/b.jpg", "old/trip [1]/c.jpg", "trip 1/d.jpg")
    changes = compare(str(tmp_path), {}, nested=[str(tmp_path / "trip [1]")])
    assert [file.path for file in changes.added] == ["a.jpg", "old/trip [1]/c.jpg", "trip 1/d.jpg"]
