"""What people and programs see of a hit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from flairsearch import present
from flairsearch.errors import FlairSearchError
from flairsearch.records import Hit, Region, Report, RetrievalRow, Shortlist, ShortlistRow, Skipped, Status

REGIONS = (Region((40, 60, 90, 120), 0.61234567), Region((0, 0, 10, 10), 0.25))
HIT = Hit(1, "/photos/dogs/white puppy.jpg", 0.31234567, 0.2, 200, 150, REGIONS, logit=4.40625)


def test_json_has_the_documented_fields() -> None:
    line = present.to_json(HIT)
    assert "\n" not in line
    found = json.loads(line)
    assert list(found) == ["rank", "path", "score", "score_global", "width_px", "height_px", "regions"]
    assert found == {
        "rank": 1,
        "path": "/photos/dogs/white puppy.jpg",
        "score": pytest.approx(0.31234567, abs=1e-6),
        "score_global": 0.2,
        "width_px": 200,
        "height_px": 150,
        "regions": [
            {"box": [40, 60, 90, 120], "score": pytest.approx(0.61234567, abs=1e-6)},
            {"box": [0, 0, 10, 10], "score": 0.25},
        ],
    }


@pytest.mark.parametrize("path", ['/a/"quoted"\n\\x.jpg', "/a/ünïcode 写真.jpg"])
def test_json_of_any_path_is_one_line(path: str) -> None:
    line = present.to_json(replace(HIT, path=path))
    assert len(line.splitlines()) == 1
    assert json.loads(line)["path"] == path


def render(hits: list[Hit], logits: bool = False) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(present.to_table(hits, logits))
    return capture.get()


def test_table_shows_rank_score_path_and_boxes() -> None:
    text = render([HIT])
    assert all(part in text for part in ("1", "0.312", "/photos/dogs/white puppy.jpg", "40,60,90,120", "0,0,10,10"))
    assert "4.406" in render([HIT], logits=True)


@pytest.mark.parametrize("name", ["a[red].jpg", "x[/b].jpg", "a[bold]b[/bold].jpg", ":smile:.jpg", "[link=x].jpg"])
def test_table_shows_any_name_as_it_is(name: str) -> None:
    assert f"/photos/{name}" in render([replace(HIT, path=f"/photos/{name}")])


def test_path_is_short_below_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert present.short_path(str(tmp_path / "a" / "b.jpg")) == "a/b.jpg"
    assert present.short_path(f"{tmp_path}2/b.jpg") == f"{tmp_path}2/b.jpg"


def test_overlay_is_the_photo_with_boxes_drawn() -> None:
    photo = Image.new("RGB", (200, 150), (0, 0, 255))
    hit = replace(HIT, regions=REGIONS[:1])
    before, after = np.asarray(photo), np.asarray(present.overlay(hit, photo, "puppy"))
    assert after.shape == (150, 200, 3)
    assert (np.asarray(photo) == before).all()  # the photo itself is left alone
    changed = (after != before).any(-1)
    left, top, right, bottom = hit.regions[0].box
    for row, column in ((top, left), (top, right - 1), (bottom - 1, left), (bottom - 1, right - 1)):
        assert changed[row, column]
    assert changed[bottom - 1, left:right].all()
    assert changed[top:bottom, right - 1].all()
    assert not changed[bottom:].any()  # half-open
    assert not changed[top + 40 : bottom - 6, left + 8 : right - 8].any()  # inside the box one sees the photo
    assert not changed[:, :left].any()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 8), (4000, 3)])
def test_overlay_of_the_smallest_photos_and_boxes(size: tuple[int, int]) -> None:
    width, height = size
    boxes = ((0, 0, 1, 1), (width - 1, height - 1, width, height), (0, 0, width, height), (0, 0, min(2, width), height))
    for box in boxes:
        hit = replace(HIT, width=width, height=height, regions=(Region(box, 0.5),))
        assert present.overlay(hit, Image.new("RGB", size), "a long text about it").size == size


@pytest.mark.parametrize("text", ["", "two\nlines", "写真 🐶", "x" * 500])
def test_overlay_with_any_label(text: str) -> None:
    assert present.overlay(HIT, Image.new("RGB", (200, 150)), text).size == (200, 150)


def test_overlay_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "1.jpg"
    present.save_overlay(HIT, Image.new("RGB", (200, 150)), "puppy", path)
    with Image.open(path) as saved:
        assert saved.size == (200, 150)
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file" / "1.jpg", tmp_path / "1.nothing"):
        with pytest.raises(FlairSearchError) as caught:
            present.save_overlay(HIT, Image.new("RGB", (200, 150)), "puppy", bad)
        assert len(str(caught.value).splitlines()) == 1


def test_report_in_a_line() -> None:
    report = Report(added=1200, unchanged=3, skipped=(Skipped("a", "b"),))
    assert present.to_text(report) == "1,200 added, 3 unchanged, 1 skipped"
    assert present.to_text(Report()) == "nothing to do"


def test_status_in_lines() -> None:
    status = Status(
        "/i", "flair-tiny", "ab" * 32, "squash", "fp16", ("/p",), 4, 4, 1_000_000, (Skipped("/p/x", "bad"),)
    )
    text = "\n".join(present.to_lines(status))
    assert all(
        part in text for part in ("/i", "4 (1.0 MB, 250 kB", "flair-tiny", "abababababab", "squash", "/p/x: bad")
    )


RETRIEVAL = RetrievalRow("full", "text to image", {1: 0.20664, 5: 0.5, 10: 1.0}, 1234.56, 6)
SHORTLIST = ShortlistRow("global", 10, (Shortlist("1,000", 700), Shortlist("1%", 7)), (1.0, 0.43999))


def test_measurements_as_tables() -> None:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(present.to_retrieval_table([RETRIEVAL]), present.to_shortlist_table([SHORTLIST]))
    lines = [line.split() for line in capture.get().splitlines()]
    assert lines[1] == ["full", "text", "to", "image", "20.7%", "50.0%", "100.0%", "1,234.6", "6"]
    assert lines[2] == ["prefilter", "of", "the", "1,000", "1%", "(7)"]
    assert lines[3] == ["global", "top", "10", "100.0%", "44.0%"]
    assert present.to_shortlist_table([]).row_count == 0


def test_measurements_as_json() -> None:
    assert json.loads(present.to_json_line(RETRIEVAL)) == {
        "mode": "full",
        "direction": "text to image",
        "recall": {"1": 0.20664, "5": 0.5, "10": 1.0},
        "mean_rank": 1234.56,
        "median_rank": 6,
    }
    assert json.loads(present.to_json_line(SHORTLIST)) == {
        "prefilter": "global",
        "top": 10,
        "shortlists": [
            {"shortlist": "1,000", "views": 700, "recall": 1.0},
            {"shortlist": "1%", "views": 7, "recall": 0.43999},
        ],
    }
