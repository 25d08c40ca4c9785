"""Replace a file atomically: readers see the old content or all of the new content. All writers use this module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_path(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write a new file to; on exit without an error it replaces `path`.

    Several processes may replace the same file at once: the last one wins. After an error the temporary file is
    deleted; a killed process leaves it behind as `NAME.HEX.part`.
    durable: flush the bytes to the disk first, so that they survive a power cut. The new name itself survives one only
    after the caller has synchronised the folder, too.
    Raises OSError when the file cannot be written.
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
    """Yield a binary stream whose content replaces `path` on exit, as in `atomic_path`.

    mode: the permissions of the file, before the umask is applied.
    """
    with atomic_path(path, durable) as part:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
