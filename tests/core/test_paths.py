"""Where indexes live."""

from pathlib import Path

import platformdirs
import pytest

from flairsearch.core.errors import UsageError
from flairsearch.core.paths import index_folder


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.delenv("FLAIRSEARCH_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_path_is_taken_as_it_is(here, monkeypatch):
    monkeypatch.setenv("FLAIRSEARCH_HOME", "/elsewhere")
    monkeypatch.setenv("HOME", "/home/me")
    assert index_folder("/data/photos") == Path("/data/photos")
    assert index_folder("./photos") == here / "photos"
    assert index_folder("some/photos") == here / "some" / "photos"
    assert index_folder("~/photos") == Path("/home/me/photos")
    assert index_folder(Path("photos")) == here / "photos"


def test_a_name_goes_home_first(here, monkeypatch):
    (here / "indexes").mkdir()
    monkeypatch.setenv("FLAIRSEARCH_HOME", str(here / "home"))
    assert index_folder("photos") == here / "home" / "photos"
    assert index_folder() == here / "home" / "default"


def test_then_into_indexes_where_there_is_one(here):
    (here / "indexes").mkdir()
    assert index_folder("photos") == here / "indexes" / "photos"
    assert index_folder(None) == here / "indexes" / "default"


def test_and_else_to_the_users_data():
    home = Path(platformdirs.user_data_path("flairsearch")) / "indexes"
    assert index_folder("photos") == home / "photos"
    assert index_folder("") == home / "default"


def test_a_place_where_no_index_can_be_is_said(here, monkeypatch, open_folder, as_user):
    closed = open_folder / "closed"
    closed.mkdir(mode=0)
    monkeypatch.setenv("FLAIRSEARCH_HOME", str(here))
    for index in ("a" * 300, "a\0b", f"{here}/{'a' * 300}", f"{here}/" + "ab/" * 3000, closed / "index"):
        with as_user(), pytest.raises(UsageError, match=r" is no place for an index \(.*\) - .* --index FOLDER$") as e:
            index_folder(index)
        assert len(str(e.value).splitlines()) == 1
