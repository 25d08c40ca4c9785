"""Measurements as tables and as JSON."""

from __future__ import annotations

import json

from rich.console import Console

from flairsearch.evaluate import tables
from flairsearch.evaluate.results import RegionRow, RetrievalRow, SegmentationRow, ShortlistRow, ShortlistSize

RETRIEVAL = RetrievalRow("full", "text to image", {1: 0.20664, 5: 0.5, 10: 1.0}, 1234.56, 6)
SHORTLIST = ShortlistRow("global", 10, (ShortlistSize("1,000", 700), ShortlistSize("1%", 7)), (1.0, 0.43999))


def test_measurements_as_tables() -> None:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(tables.to_retrieval_table([RETRIEVAL]), tables.to_shortlist_table([SHORTLIST]))
    lines = [line.split() for line in capture.get().splitlines()]
    assert lines[1] == ["full", "text", "to", "image", "20.7%", "50.0%", "100.0%", "1,234.6", "6"]
    assert lines[2] == ["prefilter", "of", "the", "1,000", "1%", "(7)"]
    assert lines[3] == ["global", "top", "10", "100.0%", "44.0%"]
    assert tables.to_shortlist_table([]).row_count == 0


def test_measurements_as_json() -> None:
    assert json.loads(tables.to_json_line(RETRIEVAL)) == {
        "mode": "full",
        "direction": "text to image",
        "recall": {"1": 0.20664, "5": 0.5, "10": 1.0},
        "mean_rank": 1234.56,
        "median_rank": 6,
    }
    assert json.loads(tables.to_json_line(SHORTLIST)) == {
        "prefilter": "global",
        "top": 10,
        "shortlists": [
            {"shortlist": "1,000", "views": 700, "recall": 1.0},
            {"shortlist": "1%", "views": 7, "recall": 0.43999},
        ],
    }


LEVELS = {0.0: (0.5, 0.6, 0.7), 0.3: (0.4, 0.5, 0.6), 0.5: (0.3, 0.4, 0.5), 0.7: (0.1, 0.2, 0.3456)}
REGIONS = RegionRow(
    "regions",
    {level: dict(zip((1, 5, 10), shares, strict=True)) for level, shares in LEVELS.items()},
    0.54321,
    {0.3: 0.9, 0.5: 0.8, 0.7: 0.1234},
    0.75,
    None,
    0.4567,
    0.321,
    0.654,
)
SEGMENTATION = SegmentationRow(0.75, 0.9876, {"[cat]": 1.0, "dog": 0.5, "cow": None})


def render(table: object) -> list[str]:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def test_regions_as_tables() -> None:
    rows = render(tables.to_region_tables([REGIONS]))
    assert (
        rows[0].split()[-9:]
        == ["0.3", "R@1", "R@5", "R@10", "0.5", "R@1", "R@5", "R@10", "0.7", "R@1", "R@5", "R@10"][-9:]
    )
    assert rows[1].split() == ["any", "box", *["50.0%", "60.0%", "70.0%"] * 3]
    assert rows[2].split()[0] == "regions"
    assert rows[2].split()[1:] == ["40.0%", "50.0%", "60.0%", "30.0%", "40.0%", "50.0%", "10.0%", "20.0%", "34.6%"]
    assert rows[3] == ""
    assert "pointing" in rows[4]
    assert rows[5].split() == ["regions", "75.0%", "-", "0.543", "90.0%", "80.0%", "12.3%"]
    assert rows[6] == ""
    assert rows[7].split("  ")[0] == "right views among the first 20"
    assert rows[7].split()[-5:] == ["precision", "IoU", "0.5", "centre", "inside"]
    assert rows[8].split() == ["regions", "45.7%", "32.1%", "65.4%"]
    assert len(rows) == 9
    assert render(tables.to_region_tables([]))


def test_regions_as_json() -> None:
    found = json.loads(tables.to_json_line(REGIONS))
    assert list(found)[:6] == ["source", "recall", "iou", "reached", "pointing", "energy"]
    assert list(found)[6:] == ["precision", "hits_reached", "hits_centred"]
    assert (found["precision"], found["hits_reached"], found["hits_centred"]) == (0.4567, 0.321, 0.654)
    assert found["recall"]["0.7"] == {"1": 0.1, "5": 0.2, "10": 0.3456}
    assert (found["iou"], found["energy"]) == (0.54321, None)


def test_segmentation() -> None:
    rows = [row.split() for row in render(tables.to_segmentation_table([SEGMENTATION]))]
    assert rows == [
        ["class", "IoU"],
        ["[cat]", "100.0%"],
        ["dog", "50.0%"],
        ["cow", "-"],
        ["mean", "75.0%"],
        ["pixels", "98.8%"],
    ]
    found = json.loads(tables.to_json_line(SEGMENTATION))
    assert found == {"mean_iou": 0.75, "accuracy": 0.9876, "iou": {"[cat]": 1.0, "dog": 0.5, "cow": None}}
