"""A real server on a small index of painted photos and the fake encoder, in this process, and raw requests to it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

from flairsearch.engine import Engine
from flairsearch.serve import app
from flairsearch.serve import server as server_module
from flairsearch.serve.thumbnails import Thumbnails
from flairsearch.serve.worker import SearchWorker
from tests.support.fake import COLOURS, FakeEncoder, exif_of, fake_engine, paint

TURNED, EVIL, BITMAP = "turned.jpg", '<img src=x onerror=alert(1)>" \u202e.png', "old.bmp"
GONE, PAGE, PIPE, LINK = "gone.png", "page.jpg", "pipe.png", "link.png"


@dataclass(frozen=True)
class Site:
    """Where it answers, and what is behind."""

    host: str
    port: int
    api: app.Api
    index: Path

    @property
    def photos(self) -> Path:
        """The folder of the photos that the index holds."""
        return self.index.parent / "photos"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def id_of(self, name: str) -> int:
        """The id of the photo of that name."""
        catalog = self.api.worker.catalog
        (found,) = [i for i in range(1, 100) if catalog.path_of(i) == str(self.photos / name)]
        return found


def paint_photos(folder: Path) -> Path:
    """Ten plain ones, and odd ones."""
    for place, (colour, other) in enumerate(zip(COLOURS, reversed(COLOURS), strict=True)):
        paint(folder / f"{colour}.png", [(other, (place * 4, 8, place * 4 + 24, 40))], colour, (96, 64))
    paint(folder / TURNED, [("red", (0, 0, 48, 64))], "blue", (96, 64), exif=exif_of(tag_0x0112=6), quality=95)
    for name in (EVIL, BITMAP, GONE, PAGE, PIPE, LINK):
        paint(folder / name, [("green", (10, 10, 10 + 4 * len(name), 50))], "white", (80, 60), **_as(name))
    return folder


def _as(name: str) -> dict[str, str]:
    return {"format": "PNG"} if name.endswith("png") else {}


def spoil(folder: Path) -> None:
    """What becomes of some of them after they were indexed."""
    (folder / GONE).unlink()
    (folder / PAGE).write_bytes(b"<!doctype html><script>alert(1)</script>")
    (folder / PIPE).unlink()
    os.mkfifo(folder / PIPE)
    (folder / LINK).unlink()
    (folder / LINK).symlink_to("/etc/passwd")


class Encoder(FakeEncoder):
    """Reads any text: by its first colour word (a cat is green), and where it has none as a colour of its own."""

    def encode_texts(self, texts):  # type: ignore[no-untyped-def]
        queries = super().encode_texts([_colour_of(text) for text in texts])
        return [replace(query, text=text) for query, text in zip(queries, texts, strict=True)]

    def unseen_words(self, text):  # type: ignore[no-untyped-def]
        return [word for word in text.split() if "zy" in word]


def _colour_of(text: str) -> str:
    words = [word for word in text.lower().replace("cat", "green").split() if word in COLOURS]
    return words[0] if words else list(COLOURS)[crc32(text.encode()) % len(COLOURS)]


def open_index(index: Path) -> Engine:
    """The engine that the server has, once more."""
    return fake_engine(index, encoder=Encoder())


def make_index(folder: Path) -> Path:
    """Photos below it, indexed; -> the index."""
    photos = paint_photos(folder / "photos")
    with open_index(folder / "index") as engine:
        engine.add(photos)
    return folder / "index"


@contextmanager
def serving_index(
    index: Path, token: str | None = None, open_engine: Callable[[Path], Engine] = open_index, **limits: Any
) -> Iterator[Site]:
    """A server on it, stopped at the end. limits: those of Server."""
    service = SearchWorker(lambda: open_engine(index))
    api = app.Api(service, Thumbnails(index.parent / "thumbnails"))
    listener = server_module.listen("127.0.0.1", 0)
    ready = threading.Event()
    server = server_module.Server(app.create_app(api, "127.0.0.1", token), ready.set, **limits)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert ready.wait(30)
        yield Site("127.0.0.1", listener.getsockname()[1], api, index)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
        api.close()
        service.close()


def raw(site: Site, data: bytes, half: bool = False, seconds: float = 20.0) -> bytes:
    """What comes back for these bytes, until the end of the connection; half: nothing more is to come after them."""
    with socket.create_connection((site.host, site.port), timeout=seconds) as connection:
        parts = []
        try:
            connection.sendall(data)
            if half:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # The server refused before everything was sent.
        try:
            while part := connection.recv(65536):
                parts.append(part)
        except OSError:
            pass
    return b"".join(parts)


def request(
    site: Site, line: str, *headers: str, body: bytes = b"", host: str | None = None, half: bool = False
) -> bytes:
    """`raw` of a first line without its version, headers and body."""
    head = [f"{line} HTTP/1.1", f"Host: {host or f'{site.host}:{site.port}'}", "Connection: close", *headers]
    return raw(site, "\r\n".join(head).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body, half)


def status_of(answer: bytes) -> int:
    """0 where the connection ended without any."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0
