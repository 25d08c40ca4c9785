"""What people and programs see of a hit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from flairsearch import present
from flairsearch.records import Frame, Hit, Phrase, Region, Report, Skipped

REGIONS = (Region((40, 60, 90, 120), 0.61234567), Region((0, 0, 10, 10), 0.25))
HEAT, FRAME = np.zeros((4, 4), np.float32), Frame(200, 150, 0, 0, 200, 150)
PUPPY = Phrase("white puppy", 0.31234567, REGIONS, HEAT, FRAME)
EARS = Phrase("black [ears]", 0.20987654, (Region((41, 61, 71, 81), 0.4), Region((5, 5, 6, 6), 0.3)), HEAT, FRAME)
HIT = Hit(1, "/photos/dogs/white puppy.jpg", 0.31234567, 0.2, 200, 150, REGIONS, (PUPPY,), logit=4.40625, image=7)
BOTH = replace(HIT, phrases=(PUPPY, EARS), regions=(REGIONS[0], EARS.regions[0], REGIONS[1], EARS.regions[1]))


def test_json_has_the_documented_fields() -> None:
    line = present.to_json(HIT)
    assert "\n" not in line
    found = json.loads(line)
    assert list(found) == [
        *("rank", "id", "path", "score", "score_global", "logit", "width_px", "height_px", "regions"),
        *("phrases", "weakest", "confidence", "matches"),
    ]
    regions = [{"box": [40, 60, 90, 120], "score": 0.612346}, {"box": [0, 0, 10, 10], "score": 0.25}]
    assert found == {
        "rank": 1,
        "id": 7,
        "path": "/photos/dogs/white puppy.jpg",
        "score": 0.312346,
        "score_global": 0.2,
        "logit": 4.40625,
        "width_px": 200,
        "height_px": 150,
        "regions": regions,
        "phrases": [{"text": "white puppy", "score": 0.312346, "regions": regions}],
        "weakest": None,
        "confidence": None,
        "matches": None,
    }


def test_json_of_several_phrases() -> None:
    found = json.loads(present.to_json(replace(BOTH, confidence=0.97654321, matches=False)))
    assert [phrase["text"] for phrase in found["phrases"]] == ["white puppy", "black [ears]"]
    assert found["phrases"][1] == {
        "text": "black [ears]",
        "score": 0.209877,
        "regions": [{"box": [41, 61, 71, 81], "score": 0.4}, {"box": [5, 5, 6, 6], "score": 0.3}],
    }
    assert (found["weakest"], found["confidence"], found["matches"]) == ("black [ears]", 0.976543, False)
    again = replace(BOTH, phrases=(EARS, replace(PUPPY, score=0.1)))
    assert json.loads(present.to_json(again))["weakest"] == "white puppy"


@pytest.mark.parametrize(
    "text", ["a\nb", "a\u2028b\u2029", "a\x85b", "\x1b[31mred", '"', "\\u0041", "\udc80", "写真 🐶", "\u202e"]
)
def test_json_of_any_text_is_one_line_of_utf8(text: str) -> None:
    line = present.to_json(replace(HIT, path=f"/{text}", phrases=(replace(PUPPY, text=text), EARS)))
    assert len(line.encode().splitlines()) == len(line.splitlines()) == 1
    found = json.loads(line)
    assert (found["path"], found["phrases"][0]["text"]) == (f"/{text}", text)


@pytest.mark.parametrize("path", ['/a/"quoted"\n\\x.jpg', "/a/ünïcode 写真.jpg"])
def test_json_of_any_path_is_one_line(path: str) -> None:
    line = present.to_json(replace(HIT, path=path))
    assert len(line.splitlines()) == 1
    assert json.loads(line)["path"] == path


def render(hits: list[Hit], logits: bool = False, width: int = 200) -> str:
    console = Console(width=width, color_system=None)
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


def test_table_of_one_phrase_has_a_line_a_hit() -> None:
    lines = render([HIT, replace(HIT, rank=2)]).splitlines()
    assert [line.split()[0] for line in lines] == ["score", "1", "2"]
    assert "sure" not in lines[0]


def test_table_of_several_phrases_has_a_line_for_each() -> None:
    for width in (100, 200):
        head, hit, puppy, ears = [line.rstrip() for line in render([BOTH], width=width).splitlines()]
        assert hit.split() == ["1", "0.312", "/photos/dogs/white", "puppy.jpg"]
        assert puppy.split() == ["0.312", "white", "puppy", "40,60,90,120"]
        assert ears.split() == ["0.210", "black", "[ears]", "41,61,71,81", "weakest"]  # the best box alone
        assert puppy.index("0.312") == hit.index("0.312")
        assert puppy.index("white") == hit.index("/photos") + 2
        assert head.index("where") == puppy.index("40,60")
    assert len(render([BOTH, replace(BOTH, rank=2)], width=100).splitlines()) == 7


def test_table_of_phrases_without_region_or_end() -> None:
    long = replace(BOTH, phrases=(replace(PUPPY, regions=()), replace(EARS, text="ear " * 5000)))
    lines = render([long], width=100).splitlines()
    assert lines[2].split() == ["0.312", "white", "puppy", "-"]
    assert len(lines) <= 6
    assert "…" in lines[-1] + lines[-2]


def test_table_of_phrases_with_logits_says_which_number_is_which() -> None:
    lines = render([BOTH], logits=True).splitlines()
    assert "4.406" in lines[1]
    assert "cos 0.312" in lines[2]


@pytest.mark.parametrize(
    ("confidence", "matches", "shown"),
    [
        (0.97, True, "97 %"),
        (0.29, None, "29 %"),
        (0.9499, False, "? 94 %"),
        (0.9996, True, "99 %"),
        (1.0, True, "100 %"),
    ],
)
def test_table_says_how_sure_a_hit_is(confidence: float, matches: bool | None, shown: str) -> None:
    hits = [replace(HIT, confidence=confidence, matches=matches), replace(HIT, rank=2), replace(HIT, matches=False)]
    head, *lines = render(hits).splitlines()
    assert [line[: head.index("sure") + 4].split(maxsplit=2)[2] for line in lines] == [shown, "-", "? -"]


def test_what_does_not_match_is_dim() -> None:
    console = Console(width=200, color_system="standard", force_terminal=True, _environ={})
    with console.capture() as capture:
        console.print(present.to_table([replace(BOTH, matches=True), replace(BOTH, matches=False)]))
    dim = ["\x1b[2m" in line for line in capture.get().splitlines()]
    assert dim == [True, False, False, False, True, True, True]  # the head is dim as well


@pytest.mark.parametrize("name", ["a\nb.jpg", "a\x1b[2Jb.jpg", "a\u202eb.jpg", "a\udc80b.jpg", "a\tb\x9b1m.jpg"])
def test_table_hands_no_orders_to_the_terminal(name: str) -> None:
    hit = replace(BOTH, path=f"/photos/{name}", phrases=(replace(PUPPY, text=name), EARS))
    lines = render([hit]).encode().decode().splitlines()
    assert len(lines) == 4
    assert all(letter.isprintable() for line in lines for letter in line)
    assert render([replace(HIT, path="/写真 \u3000👩\u200d👧.jpg")]).count("写真 \u3000👩\u200d👧.jpg") == 1


def test_path_is_short_below_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert present.short_path(str(tmp_path / "a" / "b.jpg")) == "a/b.jpg"
    assert present.short_path(f"{tmp_path}2/b.jpg") == f"{tmp_path}2/b.jpg"


def test_report_in_a_line() -> None:
    report = Report(added=1200, unchanged=3, skipped=(Skipped("a", "b"),))
    assert present.to_text(report) == "1,200 added, 3 unchanged, 1 skipped"
    assert present.to_text(Report()) == "nothing to do"
