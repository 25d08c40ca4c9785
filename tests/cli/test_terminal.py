"""The command line in its surroundings: pipes, Ctrl-C, encodings, files that exist already."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from flairsearch.engine import Engine
from tests.support.command import RunCommand, settle
from tests.support.fake import paint_red
from tests.support.random_flair import random_flair, save_flair

COMMAND = [sys.executable, "-m", "flairsearch"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three photos, indexed."""
    work = tmp_path / "work"
    for number, name in enumerate(("a.png", "кот.png", "red\x1b[31m.png")):
        paint_red(work / "photos" / name, 9 * number + 9)
    save_flair(random_flair(), work / "small.safetensors")
    settle(work, monkeypatch)
    with Engine.open("default", "small.safetensors", device="cpu") as engine:
        engine.add("photos")
    return work


def test_a_photo_is_no_place_for_an_overlay(home: Path, run: RunCommand) -> None:
    photo = home / "photos" / "a.png"
    data = photo.read_bytes()
    for arguments in (("show", photo, "red", "--out", photo), ("show", photo, "red", "--out", "photos/кот.png")):
        done = run(*arguments)
        assert (done.code, done.out) == (1, "")
        assert "exists and is not an overlay" in done.message
    for rank in (1, 2, 3):
        (home / f"0{rank}-a.jpg").write_text("mine")
    assert run("query", "red", "--overlay", ".").code == 1
    assert photo.read_bytes() == data
    assert {(home / f"0{rank}-a.jpg").read_text() for rank in (1, 2, 3)} == {"mine"}


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_an_overlay_is_drawn_again(home: Path, run: RunCommand, kind: str) -> None:
    out = home / f"drawn.{kind}"
    for heat in ([], ["--heat"]):
        assert run("show", "photos/a.png", "red", "--out", out, *heat).code == 0
    assert Image.open(out).size == Image.open(home / "photos" / "a.png").size


def test_what_cannot_be_an_overlay(home: Path, run: RunCommand) -> None:
    Image.new("RGB", (9, 9)).save(home / "cut.png", exif=b"Exif\0\0MM\0*")  # Pillow cannot read such EXIF.
    (home / "folder.jpg").mkdir()
    data = (home / "cut.png").read_bytes()
    for name in ("cut.png", "folder.jpg", "new.gif", "new", "a" * 300 + ".jpg", "red\x1b[31m.avif"):
        done = run("show", "photos/a.png", "red", "--out", name)
        assert (done.code, done.out) == (1, "")
        assert "\x1b" not in done.message
    assert (home / "cut.png").read_bytes() == data
    assert not list(home.glob("new*"))


def test_paths_are_as_they_are_in_a_pipe(home: Path) -> None:
    done = subprocess.run([*COMMAND, "query", "red", "--paths", "--overlay", "drawn"], capture_output=True, check=True)
    found = done.stdout.splitlines()
    assert len(found) == 3
    assert all(os.path.exists(path) for path in found)
    assert b"\x1b" not in done.stderr
    assert rb"\u001b[31m" in done.stderr


def test_letters_that_the_terminal_lacks(home: Path) -> None:
    for arguments in (["--json"], ["--paths"], []):
        command = [*COMMAND, "query", "red кот 🐶", *arguments]
        done = subprocess.run(
            command, capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "latin-1"}
        )
        assert done.returncode == 0
        assert ("кот.png".encode() if arguments == ["--paths"] else rb"\u043a\u043e\u0442.png") in done.stdout
        if arguments == ["--json"]:
            assert rb"\u043a\u043e\u0442 \ud83d\udc36" in done.stdout


def test_a_reader_that_goes_away(home: Path) -> None:
    for arguments in (["--json"], ["--paths"], []):
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "wb") as gone:
            command = [*COMMAND, "query", "red", *arguments]
            done = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, check=False)
        assert (done.returncode, done.stderr) == (141, b"")


def test_ctrl_c(home: Path, run: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "adding", interrupted)
    done = run("index", "photos")
    assert (done.code, done.out) == (130, "")
    assert done.err.endswith("flairsearch: stopped; what was committed is kept, run it again to go on\n")


def test_a_photo_that_is_gone_is_not_opened(home: Path, run: RunCommand) -> None:
    (best,) = run("query", "red", "--paths", "-k", "1").out.splitlines()
    os.unlink(best)
    done = run("query", "red", "--json", "-k", "1", "--open")
    assert done.code == 0
    assert done.err.startswith("nothing opened: ")
    assert done.err.endswith("is not there any more - run flairsearch index\n")


def test_where_nothing_opens_pictures(home: Path, run: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    done = run("query", "red", "--paths", "-k", "1", "--open")
    assert (done.code, len(done.out.splitlines())) == (0, 1)
    assert done.err == "nothing opened: there is no program that opens pictures - install xdg-utils\n"
