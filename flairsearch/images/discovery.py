"""Walk folders, and tell which files are new, changed, unchanged and gone."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from flairsearch.core.reports import Skipped
from flairsearch.core.types import ImageFile, IndexedFile

RAW_NAMES = frozenset((".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw"))  # of cameras
EXTENSIONS = RAW_NAMES.union(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"),
    (".heic", ".heif", ".avif"),
)
VIDEOS = frozenset((".mp4", ".mov", ".avi", ".mkv", ".m4v", ".webm", ".3gp", ".mts"))
_SKIPPED_FOLDERS = frozenset({"@eadir", "thumbnails", "thumbs", "#recycle", "$recycle.bin", "__macosx"})


@dataclass(frozen=True)
class UnreadableFolder:
    """A folder whose content could not be seen; what the index knows below it stays."""

    folder: str  # relative to the root, "" for the root itself
    reason: str


@dataclass(frozen=True)
class Video:
    """A file that is passed over, and counted."""

    path: str  # relative to the root


def walk(
    root: str, exclude: Sequence[str] = (), apart: Collection[str] = ()
) -> Iterator[ImageFile | Skipped | UnreadableFolder | Video]:
    """Every image file below a folder, depth first in name order; and what is left out there.

    Hidden and thumbnail folders and hidden files are passed over, links to folders followed once. `exclude` holds
    glob patterns, matched against the name and the path relative to the root; `apart` holds relative paths as they are.
    """
    seen: set[tuple[int, int]] = set()
    stack: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while stack:
        folder, ancestors = stack.pop()
        here = os.path.join(root, folder) if folder else root
        try:
            status = os.stat(here)
            with os.scandir(here) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            yield UnreadableFolder(folder, _reason(error))
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in seen:
            if identity in ancestors:
                yield Skipped(printable(here), "symbolic link to a folder above it")
            continue
        seen.add(identity)
        if not entries:
            yield UnreadableFolder(folder, "empty")
        below: list[str] = []
        for entry in entries:
            relative = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith(".") or relative in apart or _excluded(relative, exclude):
                continue
            try:
                if entry.is_dir():
                    if entry.name.lower() not in _SKIPPED_FOLDERS:
                        below.append(relative)
                    continue
                ending = os.path.splitext(entry.name)[1].lower()
                if ending in EXTENSIONS:
                    yield _look(root, relative, entry)
                elif ending in VIDEOS:
                    yield Video(relative)
            except OSError as error:
                yield Skipped(printable(entry.path), _reason(error))
        stack.extend((relative, ancestors | {identity}) for relative in reversed(below))


def _look(root: str, relative: str, entry: os.DirEntry[str]) -> ImageFile | Skipped:
    try:
        relative.encode()
    except UnicodeEncodeError:
        return Skipped(printable(entry.path), "the name is not UTF-8 - rename the file")
    if not entry.is_file():
        broken = entry.is_symlink() and not os.path.exists(entry.path)
        return Skipped(entry.path, "broken symbolic link" if broken else "not a regular file")
    status = entry.stat()
    return ImageFile(root, relative, status.st_size, status.st_mtime_ns)


def _excluded(relative: str, patterns: Sequence[str]) -> bool:
    name = relative.rsplit("/", 1)[-1]
    return any(fnmatch.fnmatch(name, p) or fnmatch.fnmatch(relative, p.rstrip("/")) for p in patterns)


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def printable(path: str) -> str:
    """A path whose bytes may not be UTF-8, as text that can be printed and stored."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Changes:
    """The difference between the disk and the index, for one root."""

    fresh: list[ImageFile]  # no image at this path yet
    changed: list[tuple[ImageFile, int]]  # size or time differ; image id
    unchanged: int
    gone: list[int]  # image ids whose file is not there any more
    skipped: list[Skipped]
    warnings: list[str]
    videos: int  # files passed over


def compare(
    root: str, known: dict[str, IndexedFile], exclude: Sequence[str] = (), nested: Sequence[str] = ()
) -> Changes:
    """Walk one root and compare it with what the index knows (path relative to the root -> Known).

    `nested` are other roots inside this one; they are walked on their own, so no file is indexed twice.
    A folder that cannot be seen, or is suddenly empty, makes nothing gone: one warning instead.
    `known` is used up: it may hold a million files.
    """
    fresh: list[ImageFile] = []
    changed: list[tuple[ImageFile, int]] = []
    skipped: list[Skipped] = []
    blind: list[UnreadableFolder] = []
    missing, any_known = known, bool(known)
    unchanged = found = videos = 0
    for seen in walk(root, exclude, {os.path.relpath(other, root) for other in nested}):
        if isinstance(seen, Skipped):
            skipped.append(seen)
            missing.pop(os.path.relpath(seen.path, root), None)  # there, but not readable now: keep it
        elif isinstance(seen, UnreadableFolder):
            blind.append(seen)
        elif isinstance(seen, Video):
            videos += 1
        else:
            found += 1
            before = missing.pop(seen.path, None)
            if before is None:
                fresh.append(seen)
            elif (before.size, before.mtime_ns) == (seen.size, seen.mtime_ns):
                unchanged += 1
            else:
                changed.append((seen, before.image))
    if any_known and not found and not any(b.folder == "" for b in blind):
        blind.insert(0, UnreadableFolder("", "no image left in it"))
    warnings = []
    for b in blind:
        prefix = f"{b.folder}/" if b.folder else ""
        kept = [path for path in missing if path.startswith(prefix)]
        for path in kept:
            del missing[path]
        where = os.path.join(root, b.folder) if b.folder else root
        if kept:
            warnings.append(
                f"{printable(where)}: {b.reason} - its {len(kept)} photos stay in the index; "
                f"to remove them: flairsearch forget {printable(where)}"
            )
        elif b.reason != "empty":
            skipped.append(Skipped(printable(where), b.reason))
    return Changes(fresh, changed, unchanged, [entry.image for entry in missing.values()], skipped, warnings, videos)
