"""A server that runs for an index (`flairsearch serve`): found by the record beside the index, asked over HTTP.

It has the model and the index open, so that an answer takes no start. Only standard libraries: this is the short way.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlencode

from flairsearch.errors import PictureError
from flairsearch.present import from_dict
from flairsearch.question import Question
from flairsearch.records import Answer, Hit
from flairsearch.settings import SERVER_RECORD
from flairsearch.terms import Example, Terms

MOST_HITS = 200  # hits that one request gives
_PATIENCE = 300.0  # A server has so many seconds for an answer.
_KNOCK = 1.0  # A server has so many seconds to say that it is there.
_LARGEST_RECORD = 10_000  # bytes
_LARGEST = 64 << 20  # bytes of an answer
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # where who listens everywhere is met


class _Unanswered(Exception):
    """Nobody there, or nobody who can answer this."""


@dataclass(frozen=True)
class Server:
    """Where one listens."""

    host: str
    port: int
    token: str | None

    @staticmethod
    def find(folder: Path) -> Server | None:
        """The one that runs for the index in this folder; None when none does, or it does not say so at once."""
        found: list[Server | None] = []
        knock = Thread(target=lambda: found.append(_find(folder)), daemon=True)  # who drips bytes is never late
        knock.start()
        knock.join(_KNOCK)
        return found[0] if found else None

    def search(self, question: Question) -> Answer | None:
        """The answer; None when there is none after all: what a server refuses is asked, and explained, here.

        Raises PictureError when the query's picture cannot be read.
        """
        if question.k < 1:
            return None
        picture = _read(question.terms.pictures)
        answer = Answer()
        while len(answer.hits) < question.k:
            page = [("k", str(min(MOST_HITS, question.k - len(answer.hits)))), ("offset", str(len(answer.hits)))]
            target = f"/api/v1/search?{urlencode([*question.parameters(), *page])}"
            try:
                found = self._request("GET" if picture is None else "POST", target, picture)
                hits = [_named(from_dict(one), question.terms) for one in found["hits"]]
                answer = Answer(
                    (*answer.hits, *hits),
                    int(found["in_scope"]),
                    int(found["ranked"]),
                    tuple(map(str, found["unseen"])),
                    tuple(map(str, found["warnings"])),
                    {"server": answer.seconds.get("server", 0.0) + float(found["seconds"])},
                )
            except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, _Unanswered):
                return None
            if found.get("next") is None or not hits:
                break
        return answer

    def _request(
        self, method: str, target: str, body: bytes | None = None, patience: float = _PATIENCE
    ) -> dict[str, Any]:
        """Raises _Unanswered, OSError, ValueError or RecursionError when there is no answer that can be read."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        if body is not None:
            headers["Content-Type"] = "application/octet-stream"
        try:
            with closing(http.client.HTTPConnection(self.host, self.port, timeout=patience)) as connection:
                connection.request(method, target, body, headers)
                response = connection.getresponse()
                found = json.loads(response.read(_LARGEST))
        except http.client.HTTPException as error:
            raise _Unanswered from error
        if response.status != 200 or not isinstance(found, dict):
            raise _Unanswered
        return found


def _named(hit: Hit, terms: Terms) -> Hit:
    """With the name of the query's picture, which the server has not been told."""
    names = [*terms.texts, *(os.path.basename(picture.path) for picture in terms.pictures)]
    phrases = tuple(replace(phrase, text=name) for phrase, name in zip(hit.phrases, names, strict=True))
    return replace(hit, phrases=phrases)


def _read(pictures: Sequence[Example]) -> bytes | None:
    """The file of the picture that is looked for."""
    for picture in pictures:
        if picture.data is not None:
            return picture.data
        from flairsearch.decode import read_bytes

        try:
            return read_bytes(os.path.expanduser(picture.path))
        except PictureError as error:
            raise PictureError(f"{picture.path}: {error} - give a picture to look for: --image FILE") from None
    return None


def _find(folder: Path) -> Server | None:
    try:
        with (folder / SERVER_RECORD).open("rb") as stream:
            record = json.loads(stream.read(_LARGEST_RECORD))
        host, port, name, token = (record.get(key) for key in ("host", "port", "server", "token"))
        if not (isinstance(host, str) and type(port) is int and 0 < port < 65536 and isinstance(name, str)):
            return None
        if record.get("index") != os.path.realpath(folder):  # a copy of an index that is served
            return None
        found = Server(_ANY.get(host, host), port, token if isinstance(token, str) else None)
        # Without the token: after a server was killed, somebody else may have its port.
        health = replace(found, token=None)._request("GET", "/api/v1/health", patience=_KNOCK)
    except (OSError, ValueError, AttributeError, RecursionError, _Unanswered):
        return None
    return found if health.get("server") == name else None  # or the port is another's by now
