"""Walk folders and find which image files are new, changed, unchanged or removed."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from flairsearch.core.reports import Skipped
from flairsearch.core.types import ImageFile, IndexedFile

RAW_EXTENSIONS = frozenset((".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw"))
IMAGE_EXTENSIONS = RAW_EXTENSIONS.union(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"),
    (".heic", ".heif", ".avif"),
)
VIDEO_EXTENSIONS = frozenset((".mp4", ".mov", ".avi", ".mkv", ".m4v", ".webm", ".3gp", ".mts"))
_SKIPPED_FOLDERS = frozenset({"@eadir", "thumbnails", "thumbs", "#recycle", "$recycle.bin", "__macosx"})


@dataclass(frozen=True)
class UnreadableFolder:
    """A folder that could not be listed; indexed images below it stay in the index."""

    folder: str  # Path relative to the root; "" for the root itself.
    reason: str


@dataclass(frozen=True)
class Video:
    """A video file; it is counted but not indexed."""

    path: str  # Path relative to the root.


def walk(
    root: str, ignore: Sequence[str] = (), skipped_folders: Collection[str] = ()
) -> Iterator[ImageFile | Skipped | UnreadableFolder | Video]:
    """Yield every image file below a folder, depth first in name order, and every file or folder that is left out.

    Hidden files, hidden folders and thumbnail folders are passed over silently. Links to folders are followed once.
    ignore: glob patterns, matched against the name and against the path relative to the root.
    skipped_folders: paths relative to the root, compared literally.
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
            if entry.name.startswith(".") or relative in skipped_folders or _is_ignored(relative, ignore):
                continue
            try:
                if entry.is_dir():
                    if entry.name.lower() not in _SKIPPED_FOLDERS:
                        below.append(relative)
                    continue
                extension = os.path.splitext(entry.name)[1].lower()
                if extension in IMAGE_EXTENSIONS:
                    yield _stat_entry(root, relative, entry)
                elif extension in VIDEO_EXTENSIONS:
                    yield Video(relative)
            except OSError as error:
                yield Skipped(printable(entry.path), _reason(error))
        stack.extend((relative, ancestors | {identity}) for relative in reversed(below))


def _stat_entry(root: str, relative: str, entry: os.DirEntry[str]) -> ImageFile | Skipped:
    """Return the file with its size and time, or why it is skipped."""
    try:
        relative.encode()
    except UnicodeEncodeError:
        return Skipped(printable(entry.path), "the name is not UTF-8 - rename the file")
    if not entry.is_file():
        broken = entry.is_symlink() and not os.path.exists(entry.path)
        return Skipped(entry.path, "broken symbolic link" if broken else "not a regular file")
    status = entry.stat()
    return ImageFile(root, relative, status.st_size, status.st_mtime_ns)


def _is_ignored(relative: str, patterns: Sequence[str]) -> bool:
    name = relative.rsplit("/", 1)[-1]
    return any(fnmatch.fnmatch(name, p) or fnmatch.fnmatch(relative, p.rstrip("/")) for p in patterns)


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def printable(path: str) -> str:
    """Return a path as text that can be printed and stored, even if its bytes are not UTF-8."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Changes:
    """The difference between the disk and the index, for one root."""

    added: list[ImageFile]  # Files whose path is not in the index.
    updated: list[tuple[ImageFile, int]]  # Files whose size or time differs, each with its image id.
    unchanged: int  # Number of files that are as indexed.
    removed: list[int]  # Ids of images whose file no longer exists.
    skipped: list[Skipped]
    warnings: list[str]
    videos: int  # Number of video files passed over.


def compare(
    root: str, indexed: dict[str, IndexedFile], ignore: Sequence[str] = (), nested: Sequence[str] = ()
) -> Changes:
    """Walk one root and compare it with the index.

    indexed: the indexed files by path relative to the root. Entries are removed from it as they are found, since it
    may hold a million files and a copy would take too much memory.
    nested: other roots inside this one; they are walked on their own, so that no file is indexed twice.
    An unreadable or suddenly empty folder removes nothing; it adds one warning.
    """
    added: list[ImageFile] = []
    updated: list[tuple[ImageFile, int]] = []
    skipped: list[Skipped] = []
    unreadable: list[UnreadableFolder] = []
    missing, was_indexed = indexed, bool(indexed)
    unchanged = found = videos = 0
    for entry in walk(root, ignore, {os.path.relpath(other, root) for other in nested}):
        if isinstance(entry, Skipped):
            skipped.append(entry)
            missing.pop(os.path.relpath(entry.path, root), None)  # The file exists but is unreadable now: keep it.
        elif isinstance(entry, UnreadableFolder):
            unreadable.append(entry)
        elif isinstance(entry, Video):
            videos += 1
        else:
            found += 1
            before = missing.pop(entry.path, None)
            if before is None:
                added.append(entry)
            elif (before.size, before.mtime_ns) == (entry.size, entry.mtime_ns):
                unchanged += 1
            else:
                updated.append((entry, before.image))
    if was_indexed and not found and not any(entry.folder == "" for entry in unreadable):
        unreadable.insert(0, UnreadableFolder("", "no image left in it"))
    warnings = _keep_unreadable(root, missing, unreadable, skipped)
    removed = [file.image for file in missing.values()]
    return Changes(added, updated, unchanged, removed, skipped, warnings, videos)


def _keep_unreadable(
    root: str, missing: dict[str, IndexedFile], unreadable: list[UnreadableFolder], skipped: list[Skipped]
) -> list[str]:
    """Drop the images of unreadable folders from `missing` and return a warning for each such folder.

    An unreadable folder without indexed images is added to `skipped`.
    """
    warnings = []
    for lost in unreadable:
        prefix = f"{lost.folder}/" if lost.folder else ""
        kept = [path for path in missing if path.startswith(prefix)]
        for path in kept:
            del missing[path]
        where = os.path.join(root, lost.folder) if lost.folder else root
        if kept:
            warnings.append(
                f"{printable(where)}: {lost.reason} - its {len(kept)} photos stay in the index; "
                f"to remove them: flairsearch forget {printable(where)}"
            )
        elif lost.reason != "empty":
            skipped.append(Skipped(printable(where), lost.reason))
    return warnings
