import json
from pathlib import Path

import platformdirs
import pytest
from fake import fake_settings

from flairsearch.errors import StoreError, UsageError
from flairsearch.settings import FORMAT_VERSION, IndexSettings, check_views, index_folder


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


def test_settings_come_back_as_saved(here):
    settings = fake_settings("center")
    settings.save(here)
    assert IndexSettings.load(here) == settings
    assert json.loads((here / "index.json").read_text())["format"] == FORMAT_VERSION
    assert [file.name for file in here.iterdir() if file.is_file()] == ["index.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda values: values | {"format": FORMAT_VERSION + 1},
            rf"index format {FORMAT_VERSION + 1}, .* reads {FORMAT_VERSION} - update flairsearch$",
        ),
        (lambda values: values | {"colour": "red"}, r"damaged .*--rebuild"),
        (lambda values: {"format": FORMAT_VERSION}, r"damaged .*--rebuild"),
        (lambda values: {}, r"cannot be read .*--rebuild"),
        (lambda values: [1, 2], r"cannot be read .*--rebuild"),
        (lambda values: "text", r"cannot be read .*--rebuild"),
    ],
)
def test_settings_of_another_kind_are_refused(here, change, message):
    fake_settings().save(here)
    file = here / "index.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(StoreError, match=message) as caught:
        IndexSettings.load(here)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe"])
def test_settings_that_are_no_json_are_refused(here, data):
    (here / "index.json").write_bytes(data)
    with pytest.raises(StoreError, match="cannot be read"):
        IndexSettings.load(here)


def test_no_index_says_how_to_make_one(here):
    with pytest.raises(StoreError, match=r"no index at .*flairsearch index FOLDER"):
        IndexSettings.load(here)


def test_view_policies():
    assert (check_views("squash"), check_views("center")) == ("squash", "center")
    with pytest.raises(UsageError, match="tiles"):
        check_views("tiles")
