"""What people and programs see of a hit."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from flairsearch.core.hits import Hit, PhraseMatch, Region
from flairsearch.core.types import Frame
from flairsearch.output import formatting

REGIONS = (Region((40, 60, 90, 120), 0.61234567), Region((0, 0, 10, 10), 0.25))
HEAT, FRAME = np.zeros((4, 4), np.float32), Frame(200, 150, 0, 0, 200, 150)
PUPPY = PhraseMatch("white puppy", 0.31234567, REGIONS, HEAT, FRAME)
EARS = PhraseMatch("black [ears]", 0.20987654, (Region((41, 61, 71, 81), 0.4), Region((5, 5, 6, 6), 0.3)), HEAT, FRAME)
WHEN = datetime(2024, 5, 17, 14, 0, 9, 999_999)
HIT = Hit(
    1, "/photos/dogs/white puppy.jpg", 0.31234567, 0.2, 200, 150, REGIONS, (PUPPY,), logit=4.40625, image=7, date=WHEN
)
BOTH = replace(HIT, phrases=(PUPPY, EARS), regions=(REGIONS[0], EARS.regions[0], REGIONS[1], EARS.regions[1]))


def test_json_has_the_documented_fields() -> None:
    line = formatting.to_json(HIT)
    assert "\n" not in line
    found = json.loads(line)
    assert list(found) == [
        *("rank", "id", "path", "score", "score_global", "logit", "width_px", "height_px", "date", "regions"),
        *("phrases", "weakest"),
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
        "date": "2024-05-17T14:00:09",
        "regions": regions,
        "phrases": [{"text": "white puppy", "score": 0.312346, "regions": regions}],
        "weakest": None,
    }


def test_json_does_not_say_how_sure_a_hit_is() -> None:
    """Such a figure was not worth its place (docs/limits.md); a field that another server adds is passed over."""
    other = {"confidence": 0.97, "matches": False}
    assert not other.keys() & BOTH.to_dict().keys()
    assert Hit.from_dict(BOTH.to_dict() | other).to_dict() == BOTH.to_dict()


def test_json_of_several_phrases() -> None:
    found = json.loads(formatting.to_json(BOTH))
    assert [phrase["text"] for phrase in found["phrases"]] == ["white puppy", "black [ears]"]
    assert found["phrases"][1] == {
        "text": "black [ears]",
        "score": 0.209877,
        "regions": [{"box": [41, 61, 71, 81], "score": 0.4}, {"box": [5, 5, 6, 6], "score": 0.3}],
    }
    assert found["weakest"] == "black [ears]"
    again = replace(BOTH, phrases=(EARS, replace(PUPPY, score=0.1)))
    assert json.loads(formatting.to_json(again))["weakest"] == "white puppy"


TEXTS = ["a\nb", "a\u2028b\u2029", "a\x85b", "\x1b[31mred", '"', "\\u0041", "\udc80", "写真 🐶", "\u202e"]


def test_json_of_any_text_is_one_line_of_utf8(subtests: pytest.Subtests) -> None:
    for text in TEXTS:
        with subtests.test(ascii(text)):
            line = formatting.to_json(replace(HIT, path=f"/{text}", phrases=(replace(PUPPY, text=text), EARS)))
            assert len(line.encode().splitlines()) == len(line.splitlines()) == 1
            found = json.loads(line)
            assert (found["path"], found["phrases"][0]["text"]) == (f"/{text}", text)


@pytest.mark.parametrize("path", ['/a/"quoted"\n\\x.jpg', "/a/ünïcode 写真.jpg"])
def test_json_of_any_path_is_one_line(path: str) -> None:
    line = formatting.to_json(replace(HIT, path=path))
    assert len(line.splitlines()) == 1
    assert json.loads(line)["path"] == path


def test_a_path_in_a_working_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert formatting.short_path(f"{tmp_path}/here/a.png") == "a.png"
    (tmp_path / "here").rmdir()
    assert formatting.short_path(f"{tmp_path}/here/a.png") == f"{tmp_path}/here/a.png"


def render(hits: list[Hit], logits: bool = False, width: int = 200) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(formatting.to_table(hits, logits))
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


def test_table_of_several_phrases_has_a_line_for_each() -> None:
    for width in (100, 200):
        head, hit, puppy, ears = [line.rstrip() for line in render([BOTH], width=width).splitlines()]
        assert hit.split() == ["1", "0.312", "/photos/dogs/white", "puppy.jpg"]
        assert puppy.split() == ["0.312", "white", "puppy", "40,60,90,120"]
        assert ears.split() == ["0.210", "black", "[ears]", "41,61,71,81", "weakest"]  # Only the best box is shown.
        assert puppy.index("0.312") == hit.index("0.312")
        assert puppy.index("white") == hit.index("/photos") + 2
        assert head.index("where") == puppy.index("40,60")
    assert len(render([BOTH, replace(BOTH, rank=2)], width=100).splitlines()) == 7


def test_table_of_phrases_without_region_or_very_long() -> None:
    long = replace(BOTH, phrases=(replace(PUPPY, regions=()), replace(EARS, text="ear " * 5000)))
    lines = render([long], width=100).splitlines()
    assert lines[2].split() == ["0.312", "white", "puppy", "-"]
    assert len(lines) <= 6
    assert "…" in lines[-1] + lines[-2]


def test_table_of_phrases_with_logits_says_which_number_is_which() -> None:
    lines = render([BOTH], logits=True).splitlines()
    assert "4.406" in lines[1]
    assert "cos 0.312" in lines[2]


@pytest.mark.parametrize("name", ["a\nb.jpg", "a\x1b[2Jb.jpg", "a\u202eb.jpg", "a\udc80b.jpg", "a\tb\x9b1m.jpg"])
def test_table_sends_no_control_characters_to_the_terminal(name: str) -> None:
    hit = replace(BOTH, path=f"/photos/{name}", phrases=(replace(PUPPY, text=name), EARS))
    lines = render([hit]).encode().decode().splitlines()
    assert len(lines) == 4
    assert all(letter.isprintable() for line in lines for letter in line)
    assert render([replace(HIT, path="/写真 \u3000👩\u200d👧.jpg")]).count("写真 \u3000👩\u200d👧.jpg") == 1


def test_path_is_short_below_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert formatting.short_path(str(tmp_path / "a" / "b.jpg")) == "a/b.jpg"
    assert formatting.short_path(f"{tmp_path}2/b.jpg") == f"{tmp_path}2/b.jpg"


# -- read again


@pytest.mark.parametrize(
    "hit",
    [
        HIT,
        BOTH,
        replace(HIT, regions=(), phrases=(replace(PUPPY, regions=()),)),
        replace(HIT, rank=2**40, image=2**62, width=10**6, height=1, score=-1.0, logit=-1e9),
        replace(HIT, path="/a\n\u2028写真 🐶\x1b\udc80.jpg", phrases=(replace(PUPPY, text='"\\ \x00'),)),
    ],
)
def test_what_json_says_is_read_again(hit: Hit) -> None:
    """All but the heat is equal to six digits, from a dictionary as from text."""
    for found in (
        hit.to_dict(),
        json.loads(json.dumps(hit.to_dict())),
        json.loads(formatting.to_json(hit)),
    ):
        again = Hit.from_dict(found)
        whole = Frame(hit.width, hit.height, 0, 0, hit.width, hit.height)
        assert all(phrase.frame == whole for phrase in again.phrases)  # A server does not say which view it was.
        assert again.to_dict() == hit.to_dict()
        assert (again.path, again.rank, again.image) == (hit.path, hit.rank, hit.image)
        assert (again.width, again.height) == (hit.width, hit.height)
        assert (again.score, again.logit) == (pytest.approx(hit.score, abs=1e-6), pytest.approx(hit.logit, abs=1e-6))
        assert [region.box for region in again.regions] == [region.box for region in hit.regions]
        assert [phrase.text for phrase in again.phrases] == [phrase.text for phrase in hit.phrases]
        assert again.weakest.text == hit.weakest.text
        assert render([again]) == render([hit])
        assert render([again], logits=True) == render([hit], logits=True)


def test_a_hit_that_lacks_something_is_refused(subtests: pytest.Subtests) -> None:
    """The weakest phrase alone may be missing: the phrases tell it."""
    for name in HIT.to_dict():
        with subtests.test(name):
            found = {key: value for key, value in HIT.to_dict().items() if key != name}
            if name == "weakest":
                assert Hit.from_dict(found).path == HIT.path
            else:
                with pytest.raises(KeyError):
                    Hit.from_dict(found)


REFUSED = (KeyError, TypeError, ValueError, OverflowError)
WRONG = [None, "x", [], {}, [1], ["x"], [None], float("nan"), "1e999", [[]], {"box": 1}]


def test_a_hit_with_something_else_is_refused_or_read(subtests: pytest.Subtests) -> None:
    """No other exception is raised: what another program sends is no bug of ours."""
    for name in [key for key in HIT.to_dict() if key not in ("path", "weakest")]:
        with subtests.test(name):
            for wrong in WRONG:
                try:
                    Hit.from_dict(BOTH.to_dict() | {name: wrong})
                except REFUSED:
                    continue


NO_REGIONS = [
    *(5, None, "box", [5], [None], ["box"], [{}], [{"box": [1, 2, 3, 4]}], [{"score": 0.5}], {"box": [1, 2, 3, 4]}),
    *([{"box": box, "score": 0.5}] for box in (None, 5, "abcd", [], [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, None])),
    *([{"box": [1, 2, 3, 4], "score": score}] for score in (None, "high", [], {})),
    [{"box": [1, 2, 3, float("nan")], "score": 0.5}],
]


def test_regions_that_are_none_are_refused(subtests: pytest.Subtests) -> None:
    for regions in NO_REGIONS:
        with subtests.test(repr(regions)):
            with pytest.raises(REFUSED):
                Hit.from_dict(HIT.to_dict() | {"regions": regions})
            with pytest.raises(REFUSED):
                Hit.from_dict(HIT.to_dict() | {"phrases": [{"text": "a", "score": 1, "regions": regions}]})


@pytest.mark.parametrize("name", ["rank", "id", "width_px", "height_px"])
def test_an_infinite_number_is_refused(name: str) -> None:
    """JSON may write one as 1e999."""
    with pytest.raises(REFUSED):
        Hit.from_dict(HIT.to_dict() | {name: float("inf")})
