"""Thumbnails of hits in a real pseudo-terminal, which answers questions as terminals do."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flairsearch.cli import thumbnails
from tests.support.fake import COLOURS, paint
from tests.support.hits import hit_of

pytest.importorskip("textual_image")

CODE = """
import sys
from pathlib import Path
from tests.support.hits import hit_of
from rich.console import Console
from rich.table import Table
from flairsearch.cli import thumbnails as terminal
found = terminal.thumbnails([hit_of(Path(sys.argv[1])), hit_of(Path("gone.png"))], 4)
if found is None:
    print("none", "textual_image.renderable" in sys.modules)
else:
    table = Table(box=None)
    for one in found:
        table.add_row("before", one, "after")
    Console(width=80).print(table)
"""


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return paint(tmp_path / "red.png", background="red", size=(400, 300))


def in_terminal(photo: Path, answers: dict[bytes, bytes], columns: int = 80, **environment: str) -> str:
    """What the code prints in a terminal. answers: the terminal's answer to each question."""
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("4H", 40 if columns else 0, columns, 0, 0))
    places = [str(Path(__file__).parents[2])]
    variables = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "PYTHONPATH": ":".join(places)}
    variables.pop("NO_COLOR", None)
    command = [sys.executable, "-c", CODE, str(photo)]
    process = subprocess.Popen(command, stdin=there, stdout=there, stderr=there, env=variables | environment)
    os.close(there)
    out, answered = b"", set[bytes]()
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if not select.select([here], [], [], 0.1)[0]:
            continue
        try:
            piece = os.read(here, 65536)
        except OSError:  # The other end is closed.
            break
        if not piece:
            break
        out += piece
        for asked in [asked for asked in answers if asked in out and asked not in answered]:
            answered.add(asked)
            os.write(here, answers[asked])
    os.close(here)
    assert process.wait(10) == 0, out
    assert b"Traceback" not in out, out
    return out.decode()


def test_half_blocks_where_the_terminal_has_no_pictures(photo: Path) -> None:
    out = in_terminal(photo, {})  # This terminal does not answer.
    assert "cell size" not in out
    assert "cell size" not in in_terminal(photo, {b"\x1b[c": b"\x1b[?62;22c"})
    assert "\x1b[38;2;255;0;0;48;2;255;0;0m▀" in out
    rows = [line for line in out.splitlines() if "▀" in line]
    assert len(rows) == 4
    assert "before" in rows[0]
    assert "after" in rows[0]
    assert len({line.count("▀") for line in rows}) == 1
    assert out.count("before") == 2  # The photo that is gone is blank.


def test_pictures_proper_where_it_has_them(photo: Path) -> None:
    sixel = in_terminal(photo, {b"\x1b[c": b"\x1b[?62;4c", b"\x1b[16t": b"\x1b[6;20;10t"})
    assert "\x1bP0;0;0q" in sixel
    assert "▀" not in sixel


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_a_terminal_without_colours_gets_none_and_is_not_asked(photo: Path, environment: dict[str, str]) -> None:
    assert in_terminal(photo, {}, **environment).split() == ["none", "False"]


def test_nor_does_one_of_no_size(photo: Path) -> None:
    assert in_terminal(photo, {}, columns=0).split() == ["none", "False"]


def test_no_terminal_is_not_asked(photo: Path) -> None:
    places = [str(Path(__file__).parents[2])]
    variables = {**os.environ, "PYTHONPATH": ":".join(places), "FORCE_COLOR": "1", "COLORTERM": "truecolor"}
    command = [sys.executable, "-c", CODE, str(photo)]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, input="", check=True)
    assert done.stdout.split() == ["none", "False"]


def test_the_best_region_is_drawn_on_a_small_picture(photo: Path) -> None:
    small = thumbnails.shrink(hit_of(photo), 120)
    assert small is not None
    assert small.size == (160, 120)
    pixels = np.asarray(small).astype(int)
    changed = np.abs(pixels - COLOURS["red"]).sum(-1) > 60
    rows, columns = np.nonzero(changed)  # Only the box and a hairline around it are drawn.
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (29, 90, 39, 120)
    assert not changed[35:85, 45:115].any()


def test_what_cannot_be_read_is_blank_and_what_is_wide_stays_small(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    assert thumbnails.shrink(hit_of(tmp_path / "broken.jpg"), 8) is None
    wide = paint(tmp_path / "wide.png", background="red", size=(4000, 30))
    small = thumbnails.shrink(replace(hit_of(wide), width=4000, height=30), 12)
    assert small is not None
    assert small.size == (24, 1)
    large = tmp_path / "large.jpg"  # A JPEG is decoded at a smaller size.
    Image.new("RGB", (4000, 3000), "red").save(large)
    small = thumbnails.shrink(replace(hit_of(large), width=4000, height=3000), 12)
    assert small is not None
    assert small.size == (16, 12)
