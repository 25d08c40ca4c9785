"""index.json, and the names of view policies."""

import json

import pytest

from flairsearch.core.errors import StoreError, UsageError
from flairsearch.core.settings import FORMAT_VERSION, IndexSettings, check_views, tile_count
from tests.support.fake import fake_settings


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, without settings of the user."""
    monkeypatch.delenv("FLAIRSEARCH_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("views", ["center", "tiles:12"])
def test_settings_are_restored(folder, views):
    settings = fake_settings(views)
    settings.save(folder)
    assert IndexSettings.load(folder) == settings
    assert json.loads((folder / "index.json").read_text())["format"] == FORMAT_VERSION
    assert [file.name for file in folder.iterdir() if file.is_file()] == ["index.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda values: values | {"format": FORMAT_VERSION + 1},
            rf"index format {FORMAT_VERSION + 1}, .* reads {FORMAT_VERSION} - update flairsearch$",
        ),
        (lambda values: values | {"colour": "red"}, r"damaged .*--rebuild"),
        (lambda values: values | {"views": "tiles:900"}, r"has views 'tiles:900', unknown here - update flairsearch$"),
        (lambda values: values | {"views": "spiral"}, r"has views 'spiral', unknown here - update flairsearch$"),
        (lambda values: values | {"views": 5}, r"has views 5, unknown here - update flairsearch$"),
        (lambda values: {"format": FORMAT_VERSION}, r"damaged .*--rebuild"),
        (lambda values: {}, r"cannot be read .*--rebuild"),
        (lambda values: [1, 2], r"cannot be read .*--rebuild"),
        (lambda values: "text", r"cannot be read .*--rebuild"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder, change, message):
    fake_settings().save(folder)
    file = folder / "index.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(StoreError, match=message) as caught:
        IndexSettings.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe"])
def test_settings_that_are_not_json_are_refused(folder, data):
    (folder / "index.json").write_bytes(data)
    with pytest.raises(StoreError, match="cannot be read"):
        IndexSettings.load(folder)


def test_no_index_says_how_to_make_one(folder):
    with pytest.raises(StoreError, match=r"no index at .*flairsearch index FOLDER"):
        IndexSettings.load(folder)


def test_view_policies():
    for views, count in (
        ("squash", 0),
        ("center", 0),
        ("tiles:2", 2),
        ("tiles:4", 4),
        ("tiles:10", 10),
        ("tiles:64", 64),
    ):
        assert check_views(views) == views
        assert tile_count(views) == count
        if count:
            with pytest.raises(UsageError, match=rf"^{views} makes several views .* use squash or center$"):
                check_views(views, tiles=False)
        else:
            assert check_views(views, tiles=False) == views


@pytest.mark.parametrize(
    "views",
    [
        *("", "tiles", "tiles:", "tiles:0", "tiles:1", "tiles:65", "tiles:-4", "tiles:+4", "tiles:04", "tiles: 4"),
        *("tiles:4 ", "tiles:4.0", "tiles:four", "tiles:\u0664", "tiles:4\n", "Tiles:4", "tiles:" + "9" * 5000),
        *("squash:4", "squash\n"),
    ],
)
def test_other_policies_are_refused(views):
    with pytest.raises(
        UsageError, match=r"no view policy .* - use squash or center, or tiles:N with N from 2 to 64$"
    ) as e:
        check_views(views)
    assert "\n" not in str(e.value)
    with pytest.raises(UsageError, match=r"no view policy .* - use squash or center$"):
        check_views(views, tiles=False)
    assert tile_count(views) == 0
