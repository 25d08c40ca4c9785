"""The files of the page: a fixed list, read once when a server starts; nothing else of the disk is served."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "static"
KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
_BARE = b"<!doctype html><title>flairsearch</title><p>flairsearch answers at /api/v1/search?q=...</p>"


@dataclass(frozen=True)
class Page:
    """One file."""

    data: bytes
    kind: str  # media type
    etag: str


def read_pages(folder: Path = FOLDER) -> dict[str, Page]:
    """Path below the folder -> what is there, of the kinds a page needs; index.html is always among them."""
    found = {"index.html": _page(_BARE, ".html")}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.suffix in KINDS and file.is_file() and not any(part.startswith(".") for part in name.split("/")):
            found[name] = _page(file.read_bytes(), file.suffix)
    return found


def _page(data: bytes, ending: str) -> Page:
    return Page(data, KINDS[ending], hashlib.blake2b(data, digest_size=16).hexdigest())
