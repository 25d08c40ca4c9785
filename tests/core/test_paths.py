"""The folders of indexes."""

from pathlib import Path

import platformdirs
import pytest

from flairsearch.core.errors import UsageError
from flairsearch.core.paths import index_folder


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, without settings of the user."""
    monkeypatch.delenv("FLAIRSEARCH_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_path_is_taken_as_it_is(folder, monkeypatch):
    monkeypatch.setenv("FLAIRSEARCH_HOME", "/elsewhere")
    monkeypatch.setenv("HOME", "/home/me")
    assert index_folder("/data/photos") == Path("/data/photos")
    assert index_folder("./photos") == folder / "photos"
    assert index_folder("some/photos") == folder / "some" / "photos"
    assert index_folder("~/photos") == Path("/home/me/photos")
    assert index_folder(Path("photos")) == folder / "photos"


def test_a_name_is_in_flairsearch_home_if_that_is_set(folder, monkeypatch):
    (folder / "indexes").mkdir()
    monkeypatch.setenv("FLAIRSEARCH_HOME", str(folder / "home"))
    assert index_folder("photos") == folder / "home" / "photos"
    assert index_folder() == folder / "home" / "default"


def test_a_name_is_else_in_the_folder_indexes_if_it_exists(folder):
    (folder / "indexes").mkdir()
    assert index_folder("photos") == folder / "indexes" / "photos"
    assert index_folder(None) == folder / "indexes" / "default"


def test_a_name_is_else_in_the_users_data_folder():
    home = Path(platformdirs.user_data_path("flairsearch")) / "indexes"
    assert index_folder("photos") == home / "photos"
    assert index_folder("") == home / "default"


def test_a_path_that_cannot_hold_an_index_is_refused(folder, monkeypatch, open_folder, as_user):
    closed = open_folder / "closed"
    closed.mkdir(mode=0)
    monkeypatch.setenv("FLAIRSEARCH_HOME", str(folder))
    for index in ("a" * 300, "a\0b", f"{folder}/{'a' * 300}", f"{folder}/" + "ab/" * 3000, closed / "index"):
        with as_user(), pytest.raises(UsageError, match=r" is no place for an index \(.*\) - .* --index FOLDER$") as e:
            index_folder(index)
        assert len(str(e.value).splitlines()) == 1
