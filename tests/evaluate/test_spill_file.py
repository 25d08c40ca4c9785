"""Views written to a spill file are read back unchanged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flairsearch.core.errors import FlairSearchError
from flairsearch.core.types import EncodedViews, Frame, Picture
from flairsearch.evaluate.galleries import concatenate
from flairsearch.evaluate.spill_file import SpillFile
from tests.support.fake import FakeEncoder
from tests.support.random_flair import random_pictures

FRAME = Frame(64, 64, 0, 0, 64, 64)


def test_views_are_read_in_any_order() -> None:
    encoder = FakeEncoder()
    pictures = [Picture(pixels, FRAME) for pixels in random_pictures(7, 64)]
    pieces = [encoder.encode_images(pictures[:4]), encoder.encode_images(pictures[4:])]
    whole = concatenate(pieces)
    with SpillFile() as spill_file:
        for piece in pieces:
            spill_file.add(piece)
        assert (len(spill_file), spill_file.patches) == (7, 64)
        for views in ([6, 0, 3, 3], [5], list(range(7))):
            found = spill_file.read(np.array(views))
            for name in ("pooled", "tokens", "shift", "scale"):
                column = getattr(found, name)
                assert column.dtype == np.float16
                assert (column == getattr(whole, name)[views]).all()


def test_no_file_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with SpillFile() as spill_file:
        spill_file.add(FakeEncoder().encode_images([Picture(np.zeros((64, 64, 3), np.uint8), FRAME)]))
        assert not list(tmp_path.iterdir())


def test_a_missing_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(
        FlairSearchError, match=r"cannot be put aside in .*gone \(No such file or directory\) - make room"
    ):
        SpillFile()


def test_a_full_disk() -> None:
    """A limit of 64 KiB per file stands for a full disk."""
    code = """
import resource
import numpy as np
from flairsearch.core.errors import FlairSearchError
from flairsearch.core.types import EncodedViews
from flairsearch.evaluate.spill_file import SpillFile
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
piece = EncodedViews(*(np.zeros(shape, np.float16) for shape in ((3, 8), (3, 64, 8), (3, 64), (3, 64))))
try:
    with SpillFile() as spill_file:
        for _ in range(100):
            spill_file.add(piece)
except FlairSearchError as error:
    print(len(spill_file), error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, message = done.stdout.split(maxsplit=1)
    assert 0 < int(count) < 300
    assert "File too large" in message
    assert "TMPDIR" in message


def test_columns_follow_the_record() -> None:
    """A new column of EncodedViews is written and read without a change here."""
    with SpillFile() as spill_file:
        spill_file.add(FakeEncoder().encode_images([Picture(np.full((64, 64, 3), 255, np.uint8), FRAME)]))
        found = spill_file.read(np.array([0]))
    assert isinstance(found, EncodedViews)
    assert (found.tokens[..., :3] == 1).all()
