"""Words that a model was never trained on: which they are, and the one line in which the command line says so."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flairsearch.cli import main
from flairsearch.engine import Engine
from flairsearch.model import checkpoints
from flairsearch.model.flair import FLAIR, load_model
from flairsearch.model.text_encoder import TextEncoder
from tests.support.fake import paint, paint_red
from tests.support.random_flair import CONV, random_flair, save_flair

TRAINED_ON = ["a dog runs on the grass.", "two dogs, one red ball!", "the dog's ball in the café", "cats & dogs"]


@pytest.fixture(scope="module")
def seen() -> frozenset[int]:
    return frozenset(random_flair(CONV).tokenize(TRAINED_ON).flatten().tolist())


@pytest.fixture(scope="module")
def model(seen: frozenset[int]) -> FLAIR:
    return FLAIR(CONV, seen=seen)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a dog runs on the red grass.", []),
        ("A DOG Runs On The GRASS", []),
        ("a zebra", ["zebra"]),
        ("Zebra, a ZEBRA and a zebra!", ["zebra", "and"]),  # A word is named once, in lower case.
        ("a yak, the zebra, an emu", ["yak", "zebra", "an", "emu"]),  # Words keep their order.
        ("zebra.", ["zebra"]),  # Known punctuation is not part of a word.
        ("the dog's zebra", ["zebra"]),
        ("a zebra's ball", ["zebra"]),
        ("the CAFÉ", []),
        ("cats &amp; dogs", []),  # This is how the tokenizer reads it.
        ("cats\n\n dogs\tzebra ", ["zebra"]),
        ("", []),
        ("   ", []),
        (".", []),
        ("grassdog", ["grassdog"]),
    ],
)
def test_unseen_words(model: FLAIR, text: str, words: list[str]) -> None:
    assert model.unseen_words(text) == words


def test_every_part_of_a_word_must_have_been_seen(seen: frozenset[int]) -> None:
    whole = random_flair(CONV)
    word = "xylozebraphone"
    parts = whole.tokenize([word])[0]
    ids = parts[1 : int(parts.argmax())].tolist()
    assert len(ids) > 1
    assert FLAIR(CONV, seen=frozenset(ids)).unseen_words(word) == []
    for left_out in ids:
        assert FLAIR(CONV, seen=frozenset(ids) - {left_out}).unseen_words(word) == [word]


def test_unseen_words_are_those_of_no_training_text(model: FLAIR, seen: frozenset[int]) -> None:
    """Word by word with the tokenizer alone."""
    text = "two striped zebras and one dog wade through muddy water in the red dusk"
    expected = [word for word in text.split() if not set(model.tokenize([word]).flatten().tolist()) <= seen]
    assert 0 < len(expected) < len(text.split())
    assert model.unseen_words(text) == expected


@pytest.mark.parametrize("text", ["a zebra", "", "!!! ??", "qqqqqqqq 漢字 🦓"])
def test_without_a_list_every_word_is_known(text: str) -> None:
    assert FLAIR(CONV).unseen_words(text) == []
    assert all(word == word.lower() for word in FLAIR(CONV, seen=frozenset()).unseen_words(text))


def test_list_comes_from_the_file(tmp_path: Path, seen: frozenset[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAIRSEARCH_CACHE", str(tmp_path / "cache"))
    path = save_flair(random_flair(CONV), tmp_path / "x.safetensors", seen)
    assert load_model(path).unseen_words("a zebra") == ["zebra"]
    assert TextEncoder(path).unseen_words("a red zebra") == ["zebra"]
    plain = save_flair(random_flair(CONV), tmp_path / "plain.safetensors")
    assert load_model(plain).unseen_words("a zebra") == []


# -- on the command line


EncodedText = Callable[..., tuple[str, str]]


@pytest.fixture
def query(
    tmp_path: Path, seen: frozenset[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> EncodedText:
    """`flairsearch query ARGUMENTS` over three photos -> stdout, stderr."""
    monkeypatch.setenv("FLAIRSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FLAIRSEARCH_HOME", str(tmp_path / "indexes"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    paint_red(tmp_path / "photos" / "3.png", 3)
    paint_red(tmp_path / "photos" / "30.png", 30)
    paint(tmp_path / "photos" / "blue.png", [("blue", (0, 0, 20, 20))], size=(90, 60))
    save_flair(random_flair(CONV), tmp_path / "small.safetensors", seen)
    with Engine.open("default", "small.safetensors", device="cpu") as engine:
        assert engine.unseen_words("a zebra") == ("zebra",)
        engine.add("photos")

    def query(*arguments: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["flairsearch", "query", "--device", "cpu", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main.main()
        assert not caught.value.code
        return tuple(capsys.readouterr())

    return query


def test_note_on_stderr(query: EncodedText, tmp_path: Path) -> None:
    ways = ([], ["--json"], ["--paths"])
    told = [query("a Zebra and a dog", *way) for way in ways]
    assert len(told[1][0].splitlines()) == len(told[2][0].splitlines()) == 3
    assert all(set(json.loads(line)) >= {"path", "score"} for line in told[1][0].splitlines())
    for _, err in told:
        (line,) = err.splitlines()
        assert line.startswith("note: ")
        assert "'zebra', 'and'" in line
        assert "small" in line
        assert "dog" not in line
    known = [query("a dog", *way) for way in ways]
    assert [err for _, err in known] == [""] * len(ways)
    # The same weights in the cache without the list: the same output, and nothing to say.
    save_flair(random_flair(CONV), tmp_path / "cache" / "models" / "small.safetensors")
    assert checkpoints.seen_tokens(tmp_path / "cache" / "models" / "small.safetensors") is None
    assert [query("a Zebra and a dog", *way) for way in ways] == [(out, "") for out, _ in told]


def test_note_is_one_line_whatever_the_words(query: EncodedText) -> None:
    for text in ("a \x1b[31mzebra\x07", "zebra\u2028yak", "quagga's 'okapi'", "zebra " * 100):
        _, err = query(text, "--paths")
        (line,) = err.splitlines()
        assert line.isprintable()
    assert err.count("zebra") == 1
