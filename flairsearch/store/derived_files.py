"""prefilter/GENERATION-CRC.KIND: files of one state of the index that can be made again. Never the truth."""

from __future__ import annotations

import os
import secrets
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_READ = 1 << 20  # bytes at once


class DerivedFiles:
    """The files of one generation; the name carries the CRC-32 of what is in them."""

    def __init__(self, folder: Path, generation: int) -> None:
        self._folder, self._generation = folder, generation

    def find(self, kind: str) -> Path | None:
        """The file of this kind for this generation; None when there is none."""
        return next(self._folder.glob(f"{self._generation:06d}-*.{kind}"), None)

    @contextmanager
    def writing(self, kind: str) -> Iterator[Path]:
        """A path to write to; on leaving, the file gets its name and all others that are not of a newer generation go.

        Raises OSError when the folder cannot be written; nothing is left of the file then.
        """
        self._folder.mkdir(exist_ok=True)
        part = self._folder / f"{secrets.token_hex(8)}.{kind}.part"  # several processes may write the same one
        try:
            yield part
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
            file = self._folder / f"{self._generation:06d}-{checksum(part):08x}.{kind}"
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
        # Others of this generation go too: an earlier flairsearch may have written another format.
        for other in self._folder.glob(f"*.{kind}"):
            number = other.name.partition("-")[0]
            if number.isdigit() and int(number) <= self._generation and other != file:
                with suppress(OSError):  # in use, where a system does not let such files go
                    other.unlink()


def checksum(file: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with file.open("rb") as stream:
        while piece := stream.read(_READ):
            value = zlib.crc32(piece, value)
    return value


def is_whole(file: Path) -> bool:
    """Whether a file has the CRC-32 that its name says."""
    return file.stem.partition("-")[2] == f"{checksum(file):08x}"


def drop_damaged(folder: Path) -> list[Path]:
    """Remove files that are not what was written, and return them: the next search makes them again."""
    bad = []
    for file in sorted(folder.glob("*-*.*")):
        with suppress(OSError):  # gone meanwhile, or not ours to read
            if not is_whole(file):
                file.unlink()
                bad.append(file)
    return bad


def drop_leftovers(folder: Path, generation: int) -> None:
    """Remove what nobody will read: parts that a power cut left, and files of a future that a backup put back has not.

    For the one writer of an index in this generation.
    """
    for file in [*folder.glob("*.part"), *folder.glob("*-*.*")]:
        number = file.name.partition("-")[0]
        if file.suffix == ".part" or (number.isdigit() and int(number) > generation):
            with suppress(OSError):
                file.unlink()
