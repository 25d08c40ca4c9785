"""Watch folders: report when photos below them, or the folders themselves, are added, changed or removed."""

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

DEBOUNCE_MS = 500  # Changes are reported after this time without a new one, since copying a photo makes many.
MAX_WAIT_MS = 5000  # Continuous changes are reported after this time.
POLL_MS = 1000  # The folders themselves are checked at this interval.

_Identity = tuple[int, int] | None  # Device and inode of a folder; None if there is no folder.


def check_installed() -> None:
    """Raise FlairSearchError when the package for watching is not installed."""
    if find_spec("watchfiles") is None:
        raise FlairSearchError('watching folders is not installed - pip install "flairsearch[watch]"')


def watch(
    roots: Callable[[], Sequence[str]], ignored: str, *, debounce_ms: int = DEBOUNCE_MS, poll_ms: int = POLL_MS
) -> Iterator[bool]:
    """Endlessly yield True when something may have changed below a root, and False after each poll without changes.

    The first value is True and comes when the roots are watched, so that no earlier change is missed; likewise after a
    root was added, removed or replaced. Changes that happen while the caller is busy are reported with the next value.
    roots: returns the folders to watch. ignored: changes below this folder, which the caller writes to, do not count.
    debounce_ms, poll_ms: see DEBOUNCE_MS and POLL_MS.
    Raises FlairSearchError when the system does not allow that many watched folders.
    """
    ignored = os.path.realpath(ignored)
    while True:
        identities = _identify_all(roots())
        is_first = True
        for changes in _changes([root for root, identity in identities.items() if identity], debounce_ms, poll_ms):
            root_deleted = any(change == change.deleted and path in identities for change, path in changes)
            # A new folder may get the inode of a deleted one, so deletions are checked, too.
            if root_deleted or _identify_all(roots()) != identities:
                break
            yield is_first or any(_is_relevant(path, identities, ignored) for _, path in changes)
            is_first = False


def _identify_all(roots: Sequence[str]) -> dict[str, _Identity]:
    return {root: _identify(root) for root in roots}


def _identify(folder: str) -> _Identity:
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _changes(folders: Sequence[str], debounce_ms: int, poll_ms: int) -> Iterator[set[FileChange]]:
    """Yield the changes below folders, at least at every poll; end when a folder can no longer be watched."""
    from watchfiles import watch as watch_files

    while not folders:
        time.sleep(poll_ms / 1000)
        yield set()
    try:
        yield from watch_files(
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
        time.sleep(poll_ms / 1000)  # A folder was removed meanwhile; the caller starts again.


def _is_relevant(path: str, roots: dict[str, _Identity], ignored: str) -> bool:
    """Return whether a changed path matters to an indexing run: a photo, a folder, or a path that is gone.

    ignored: a path without symbolic links; `path` may contain some.
    """
    real = os.path.realpath(path)
    if real == ignored or real.startswith((f"{ignored}/", f"{ignored}.")):
        return False
    relative_paths = [os.path.relpath(path, root) for root in roots if path.startswith(root.rstrip("/") + "/")]
    if relative_paths and all(any(part.startswith(".") for part in relative.split("/")) for relative in relative_paths):
        return False  # Hidden files and folders are not indexed.
    is_photo = os.path.splitext(path)[1].lower() in IMAGE_EXTENSIONS
    return is_photo or os.path.isdir(path) or not os.path.lexists(path)
