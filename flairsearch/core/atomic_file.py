"""The one way to replace a file: its new content is there whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_path(path: Path, durable: bool = True) -> Iterator[Path]:
    """A path beside `path` to write a new file to; on leaving without an error, that file takes the place of `path`.

    Several processes may replace the same file at once: the last one wins. Nothing is left of a file that failed;
    what a kill leaves is named `NAME.HEX.part`. durable: the bytes survive a power cut (the folder's entry does when
    the folder is synchronised too). Raises OSError when the file cannot be written.
    """
    part = path.with_name(f"{path.name}.{os.urandom(8).hex()}.part")
    try:
        yield part
        if durable:
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: Path, durable: bool = True, mode: int = 0o666) -> Iterator[BinaryIO]:
    """`atomic_path` as a stream of bytes; mode: the file's permissions, less the umask."""
    with atomic_path(path, durable) as part:
        number = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(number, "wb") as stream:
            yield stream
