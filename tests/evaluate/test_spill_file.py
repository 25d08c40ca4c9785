"""Views put aside come back as they were."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flairsearch.core.errors import FlairSearchError
from flairsearch.core.types import EncodedViews, Frame, Picture
from flairsearch.evaluate.galleries import join
from flairsearch.evaluate.spill_file import SpillFile
from tests.support.fake import FakeEncoder
from tests.support.random_flair import random_pictures

FRAME = Frame(64, 64, 0, 0, 64, 64)


def test_in_any_order() -> None:
    encoder = FakeEncoder()
    pictures = [Picture(pixels, FRAME) for pixels in random_pictures(7, 64)]
    pieces = [encoder.encode_pictures(pictures[:4]), encoder.encode_pictures(pictures[4:])]
    whole = join(pieces)
    with SpillFile() as shelf:
        for piece in pieces:
            shelf.add(piece)
        assert (len(shelf), shelf.patches) == (7, 64)
        for views in ([6, 0, 3, 3], [5], list(range(7))):
            found = shelf.read(np.array(views))
            for name in ("pooled", "tokens", "shift", "scale"):
                column = getattr(found, name)
                assert column.dtype == np.float16
                assert (column == getattr(whole, name)[views]).all()


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with SpillFile() as shelf:
        shelf.add(FakeEncoder().encode_pictures([Picture(np.zeros((64, 64, 3), np.uint8), FRAME)]))
        assert not list(tmp_path.iterdir())


def test_no_folder_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(
        FlairSearchError, match=r"cannot be put aside in .*gone \(No such file or directory\) - make room"
    ):
        SpillFile()


def test_a_full_disk() -> None:
    """Files of more than 64 KiB are refused to this process, as a full disk would."""
    code = """
import resource
import numpy as np
from flairsearch.core.errors import FlairSearchError
from flairsearch.core.types import Encoded
from flairsearch.evaluate.spill_file import Shelf
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
half = np.float16
piece = Encoded(np.zeros((3, 8), half), np.zeros((3, 64, 8), half), np.zeros((3, 64), half), np.zeros((3, 64), half))
try:
    with Shelf() as shelf:
        for _ in range(100):
            shelf.add(piece)
except FlairSearchError as error:
    print(len(shelf), error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, message = done.stdout.split(maxsplit=1)
    assert 0 < int(count) < 300
    assert "File too large" in message
    assert "TMPDIR" in message


def test_columns_are_those_of_the_record() -> None:
    """A column that Encoded gains is put aside as well."""
    with SpillFile() as shelf:
        shelf.add(FakeEncoder().encode_pictures([Picture(np.full((64, 64, 3), 255, np.uint8), FRAME)]))
        found = shelf.read(np.array([0]))
    assert isinstance(found, EncodedViews)
    assert (found.tokens[..., :3] == 1).all()
