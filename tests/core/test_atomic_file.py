"""Files are replaced atomically."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from flairsearch.core.atomic_file import atomic_path, atomic_write


def test_a_file_is_new_or_replaced(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    for content in (b"one", b"another"):
        with atomic_write(file) as stream:
            stream.write(content)
        assert file.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"old")
    with atomic_write(file) as stream:
        stream.write(b"new")
        stream.flush()
        assert file.read_bytes() == b"old"
    assert file.read_bytes() == b"new"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failed_write_leaves_no_file(tmp_path: Path, error: type[BaseException]) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"old")

    def fail() -> None:
        with atomic_write(file) as stream:
            stream.write(b"half")
            raise error("no space")

    with pytest.raises(error):
        fail()
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_two_writers_do_not_mix(tmp_path: Path) -> None:
    file = tmp_path / "x"
    with atomic_path(file) as first, atomic_path(file) as second:
        assert first != second
        first.write_bytes(b"1" * 1000)
        second.write_bytes(b"2")
    assert file.read_bytes() == b"1" * 1000


def test_permissions_are_those_asked_for(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "secret", mode=0o600) as stream:
        stream.write(b"x")
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_bytes_are_synchronised_before_they_get_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (done.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(Path, "replace", lambda self, target: (done.append("replace"), replace(self, target))[1])
    with atomic_write(tmp_path / "x") as stream:
        stream.write(b"x")
    with atomic_write(tmp_path / "y", durable=False) as stream:
        stream.write(b"y")
    assert done == ["fsync", "replace", "replace"]
