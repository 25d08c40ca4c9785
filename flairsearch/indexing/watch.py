"""Reports when photos below some folders are added, changed or removed, and when the folders themselves are."""

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

DEBOUNCE_MS = 500  # Changes are reported after this time without another: copying a photo makes many changes.
MAX_WAIT_MS = 5000  # Changes that go on are reported after this time.
POLL_MS = 1000  # The folders themselves are looked at after this time.

_Identity = tuple[int, int] | None  # Device and inode of a folder; None where there is no folder.


def check_installed() -> None:
    """Raises FlairSearchError when there is nothing to watch with."""
    if find_spec("watchfiles") is None:
        raise FlairSearchError('watching folders is not installed - pip install "flairsearch[watch]"')


def watch(
    roots: Callable[[], Sequence[str]], apart: str, *, debounce_ms: int = DEBOUNCE_MS, poll_ms: int = POLL_MS
) -> Iterator[bool]:
    """Endlessly yield True when something may be new below a root, False after each poll without news.

    The first value is True and comes when the roots are watched, so that no earlier change is missed; likewise after a
    root was added, removed or replaced. Changes while the caller is busy are reported when it asks again.
    Changes below `apart`, the folder that the caller writes to, are ignored.
    debounce_ms, poll_ms: see DEBOUNCE_MS and POLL_MS.
    Raises FlairSearchError when the system does not allow that many watched folders.
    """
    apart = os.path.realpath(apart)
    while True:
        seen = _identify_all(roots())
        fresh = True
        for changes in _changes([root for root, identity in seen.items() if identity], debounce_ms, poll_ms):
            gone = any(change == change.deleted and path in seen for change, path in changes)
            if gone or _identify_all(roots()) != seen:  # A new folder may get the inode of the old one.
                break
            yield fresh or any(_is_relevant(path, seen, apart) for _, path in changes)
            fresh = False


def _identify_all(roots: Sequence[str]) -> dict[str, _Identity]:
    return {root: _identify(root) for root in roots}


def _identify(folder: str) -> _Identity:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _changes(folders: Sequence[str], debounce_ms: int, poll_ms: int) -> Iterator[set[FileChange]]:
    """Yield the changes below folders, at least at every poll; end when the folders cannot be watched just now."""
    from watchfiles import watch as follow

    while not folders:
        time.sleep(poll_ms / 1000)
        yield set()
    try:
        yield from follow(
            *folders,
            watch_filter=None,
            debounce=MAX_WAIT_MS,
            step=debounce_ms,
            rust_timeout=poll_ms,
            yield_on_timeout=True,
            ignore_permission_denied=True,
        )
    except OSError as error:
        if "limit" in str(error):
            raise FlairSearchError(
                f"the folders below {', '.join(folders)} are too many to watch ({error}) - raise the limit "
                "(sysctl fs.inotify.max_user_watches), or run flairsearch index from cron"
            ) from None
        time.sleep(poll_ms / 1000)  # A folder was removed meanwhile.


def _is_relevant(path: str, roots: dict[str, _Identity], apart: str) -> bool:
    """Whether an indexing run could find something new: a photo, a folder, or a path that is gone.

    apart: a real path; the path of a change may contain links.
    """
    real = os.path.realpath(path)
    if real == apart or real.startswith((f"{apart}/", f"{apart}.")):
        return False
    inside = [os.path.relpath(path, root) for root in roots if path.startswith(root.rstrip("/") + "/")]
    if inside and all(any(part.startswith(".") for part in relative.split("/")) for relative in inside):
        return False
    photo = os.path.splitext(path)[1].lower() in IMAGE_EXTENSIONS
    return photo or os.path.isdir(path) or not os.path.lexists(path)
