"""Files derived from one snapshot of the index, prefilter/GENERATION-CRC.KIND.

They can be rebuilt from the catalogue and the segments at any time. A file's name carries the CRC-32 of its contents.
"""

from __future__ import annotations

import os
import secrets
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CHUNK_BYTES = 1 << 20  # Checksums read this number of bytes at a time.


class DerivedFiles:
    """The derived files of one generation."""

    def __init__(self, folder: Path, generation: int) -> None:
        self._folder, self._generation = folder, generation
        self._intact: set[Path] = set()  # The files whose checksums were right.

    def find(self, kind: str) -> Path | None:
        """Return the file of a kind for this generation; None if there is none."""
        return next(self._folder.glob(f"{self._generation:06d}-*.{kind}"), None)

    def find_intact(self, kind: str) -> Path | None:
        """Return the file of a kind if its checksum is right; it is computed once. Raises OSError."""
        file = self.find(kind)
        if file is not None and file not in self._intact:
            if not checksum_matches(file):
                return None
            self._intact.add(file)
        return file

    @contextmanager
    def atomic_write(self, kind: str) -> Iterator[Path]:
        """Yield a path to write to; on success, rename the file and remove files of its kind of older generations.

        Raises OSError if the folder cannot be written; a partial file is removed.
        """
        self._folder.mkdir(exist_ok=True)
        part = self._folder / f"{secrets.token_hex(8)}.{kind}.part"  # Two processes may write at the same time.
        try:
            yield part
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
            file = self._folder / f"{self._generation:06d}-{checksum(part):08x}.{kind}"
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
        # Other files of this generation are removed, too: an earlier flairsearch may have written another format.
        for other in self._folder.glob(f"*.{kind}"):
            number = other.name.partition("-")[0]
            if number.isdigit() and int(number) <= self._generation and other != file:
                with suppress(OSError):  # Some systems do not remove files that are in use.
                    other.unlink()


def checksum(file: Path) -> int:
    """Return the CRC-32 of a file. Raises OSError."""
    value = 0
    with file.open("rb") as stream:
        while piece := stream.read(_CHUNK_BYTES):
            value = zlib.crc32(piece, value)
    return value


def checksum_matches(file: Path) -> bool:
    """Whether a file's contents match the CRC-32 in its name. Raises OSError."""
    return file.stem.partition("-")[2] == f"{checksum(file):08x}"


def drop_damaged(folder: Path) -> list[Path]:
    """Remove damaged files and return their paths; the next search rebuilds them."""
    removed = []
    for file in sorted(folder.glob("*-*.*")):
        with suppress(OSError):  # The file may be gone meanwhile, or unreadable for this user.
            if not checksum_matches(file):
                file.unlink()
                removed.append(file)
    return removed


def drop_leftovers(folder: Path, generation: int) -> None:
    """Remove partial files left by a power cut, and files of later generations left by restoring an older backup.

    Only the writer of the index may call this; generation: the catalogue's.
    """
    for file in [*folder.glob("*.part"), *folder.glob("*-*.*")]:
        number = file.name.partition("-")[0]
        if file.suffix == ".part" or (number.isdigit() and int(number) > generation):
            with suppress(OSError):
                file.unlink()
