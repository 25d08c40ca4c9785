"""Tells when photos below some folders change, come or go, and the folders themselves too."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from flairsearch.core.errors import FlairSearchError
from flairsearch.images.discovery import IMAGE_EXTENSIONS

if TYPE_CHECKING:
    from watchfiles.main import FileChange

QUIET_MS = 500  # without a change, then those before it are told: a photo is copied in many
LONGEST_MS = 5000  # of changes, quiet or not
TICK_MS = 1000  # between looks at the folders themselves

_Identity = tuple[int, int] | None  # device and inode; None: not there


def check_installed() -> None:
    """Raises FlairSearchError when there is nothing to watch with."""
    if find_spec("watchfiles") is None:
        raise FlairSearchError('watching folders is not installed - pip install "flairsearch[watch]"')


def watch(
    roots: Callable[[], Sequence[str]], apart: str, *, quiet_ms: int = QUIET_MS, tick_ms: int = TICK_MS
) -> Iterator[bool]:
    """For ever: True when something may be new below a root, False after each tick where nothing is.

    The first is True and comes when the roots are watched, so that nothing is missed that happened before; likewise
    after a root came, went, or became another folder. What happens while the caller is busy is told when it comes back.
    Changes below `apart`, the folder that the caller writes to, are no news.
    quiet_ms: without a change, then those before it are told; tick_ms: between looks at the roots themselves.
    Raises FlairSearchError when the system does not let so many folders be watched.
    """
    apart = os.path.realpath(apart)
    while True:
        seen = _look(roots())
        fresh = True
        for changes in _changes([root for root, identity in seen.items() if identity], quiet_ms, tick_ms):
            gone = any(change == change.deleted and path in seen for change, path in changes)
            if gone or _look(roots()) != seen:  # made anew at once, it may even get the inode it had
                break
            yield fresh or any(_matters(path, seen, apart) for _, path in changes)
            fresh = False


def _look(roots: Sequence[str]) -> dict[str, _Identity]:
    return {root: _identify(root) for root in roots}


def _identify(folder: str) -> _Identity:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _changes(folders: Sequence[str], quiet_ms: int, tick_ms: int) -> Iterator[set[FileChange]]:
    """What changed below folders that are there, every tick at least; ends when they cannot be watched just now."""
    from watchfiles import watch as follow

    while not folders:
        time.sleep(tick_ms / 1000)
        yield set()
    try:
        yield from follow(
            *folders,
            watch_filter=None,
            debounce=LONGEST_MS,
            step=quiet_ms,
            rust_timeout=tick_ms,
            yield_on_timeout=True,
            ignore_permission_denied=True,
        )
    except OSError as error:
        if "limit" in str(error):
            raise FlairSearchError(
                f"the folders below {', '.join(folders)} are too many to watch ({error}) - raise the limit "
                "(sysctl fs.inotify.max_user_watches), or run flairsearch index from cron"
            ) from None
        time.sleep(tick_ms / 1000)  # one went since it was looked at


def _matters(path: str, roots: dict[str, _Identity], apart: str) -> bool:
    """Whether an indexing run could find something new: a photo, a folder, or what is gone and may have been one.

    apart: a real path; changes may come by way of links.
    """
    real = os.path.realpath(path)
    if real == apart or real.startswith((f"{apart}/", f"{apart}.")):
        return False
    inside = [os.path.relpath(path, root) for root in roots if path.startswith(root.rstrip("/") + "/")]
    if inside and all(any(part.startswith(".") for part in relative.split("/")) for relative in inside):
        return False
    photo = os.path.splitext(path)[1].lower() in IMAGE_EXTENSIONS
    return photo or os.path.isdir(path) or not os.path.lexists(path)
