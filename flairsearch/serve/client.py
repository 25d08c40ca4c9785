"""A query sent to a running `flairsearch serve` over HTTP, with the standard library alone, which loads quickly."""

from __future__ import annotations

import http.client
import json
import math
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from threading import Thread
from typing import Any
from urllib.parse import urlencode, urlsplit

from flairsearch.core.errors import FlairSearchError, PictureError, UsageError
from flairsearch.core.filters import is_text
from flairsearch.core.query import ImageExample, Query
from flairsearch.core.settings import check_token
from flairsearch.core.types import Answer, Hit
from flairsearch.output.formatting import escape, from_dict
from flairsearch.search.policy import DEFAULT_POLICY
from flairsearch.search.request import MOST_BODY, MOST_HITS, Question

PATIENCE = 300.0  # A server has this many seconds for all pages of an answer.
_LARGEST = 64 << 20  # A page of an answer has at most this many bytes.
_WRONG = (ValueError, KeyError, TypeError, OverflowError, RecursionError)  # Reading nonsense raises one of these.


class ServerError(FlairSearchError):
    """The server gives no answer to the query."""


@dataclass(frozen=True)
class ServerClient:
    """Where a server listens, and the token it wants."""

    url: str  # Errors name the server as the user wrote it.
    host: str
    port: int | None
    secure: bool
    token: str | None

    @staticmethod
    def at(url: str, token: str | None) -> ServerClient:
        """Raises UsageError when the URL is not http(s)://HOST[:PORT], or no header can carry the token."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = None
        if not host or not url.isprintable() or " " in url or parts.scheme not in ("http", "https"):
            raise UsageError(f"--server {url!a} is no address of a server - give one like http://127.0.0.1:8421")
        if parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise UsageError(
                f"--server {parts.scheme}://{host} with more than host and port - "
                "leave the rest out, and set FLAIRSEARCH_TOKEN to the token"
            )
        return ServerClient(url, host, port, parts.scheme == "https", None if token is None else check_token(token))

    def search(self, question: Question, page: int = MOST_HITS, patience: float = PATIENCE) -> Answer:
        """The answer, asked for in pages of at most `page` hits; patience: seconds for all of them.

        Raises ServerError when there is none, PictureError when the query's picture cannot be read or is too large to
        send, and UsageError on what no server is asked.
        """
        _check(question)
        picture = _read(question.terms.pictures)
        found: list[Answer | ServerError] = []

        def ask() -> None:
            try:
                found.append(self._search(question, page, picture))
            except ServerError as error:
                found.append(error)

        asking = Thread(target=ask, daemon=True)  # A socket's timeout does not end a server that sends byte after byte.
        asking.start()
        asking.join(patience)
        answer = found[0] if found else self._no_answer(f"not within {patience:.0f} s")
        if isinstance(answer, ServerError):
            raise answer
        return answer

    def _search(self, question: Question, page: int, picture: bytes | None) -> Answer:
        answer = Answer()
        while True:
            count = min(page, question.k - len(answer.hits))
            parameters = [*question.parameters(), ("k", str(count)), ("offset", str(len(answer.hits)))]
            found = self._request(f"/api/v1/search?{urlencode(parameters)}", picture)
            try:
                hits = [_named(from_dict(one), question.terms) for one in found["hits"]]
                answer = Answer(
                    (*answer.hits, *hits),
                    int(found["in_scope"]),
                    int(found["ranked"]),
                    tuple(map(str, found["unseen"])),
                    tuple(escape(str(warning)) for warning in found["warnings"]),
                    {"server": answer.seconds.get("server", 0.0) + float(found["seconds"])},
                )
                ended = found["next"] is None
            except _WRONG:
                raise self._stranger("its answer holds no hits") from None
            if len(hits) > count or (not ended and len(hits) < count):
                raise self._stranger(f"it sent {len(hits)} hits where {count} were asked for")
            if ended or len(answer.hits) == question.k:
                return answer

    def _request(self, target: str, picture: bytes | None) -> dict[str, Any]:
        """Raises ServerError unless JSON of an answer comes back."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        if picture is not None:
            headers["Content-Type"] = "application/octet-stream"
        kind = http.client.HTTPSConnection if self.secure else http.client.HTTPConnection
        try:
            with closing(kind(self.host, self.port, timeout=PATIENCE)) as connection:
                connection.request("GET" if picture is None else "POST", target, picture, headers)
                response = connection.getresponse()
                body = response.read(_LARGEST + 1)
        except http.client.HTTPException as error:
            raise self._stranger(type(error).__name__) from None
        except (OSError, ValueError) as error:  # ValueError: a host's name that cannot be looked up.
            raise self._no_answer(getattr(error, "strerror", None) or str(error) or type(error).__name__) from None
        if len(body) > _LARGEST:
            raise self._stranger(f"it sent more than {_LARGEST >> 20} MiB")
        try:
            found = json.loads(body, parse_float=_finite, parse_constant=_finite)
            refusal = None if response.status == 200 else " ".join(str(found["error"]).split())[:500]
        except _WRONG:
            raise self._stranger(f"it answered {response.status} without JSON of ours") from None
        if response.status == 401:
            raise ServerError(f"{self.url} wants its token, or another one - set FLAIRSEARCH_TOKEN to it")
        if refusal is not None:
            raise ServerError(f"{self.url} refuses the query: {refusal}")
        if not isinstance(found, dict):
            raise self._stranger("its answer is no object")
        return found

    def _no_answer(self, reason: str) -> ServerError:
        return ServerError(f"{self.url} does not answer ({reason}) - start flairsearch serve there, or omit --server")

    def _stranger(self, reason: str) -> ServerError:
        return ServerError(f"{self.url} is no flairsearch server ({reason}) - check the address given as --server")


def _check(question: Question) -> None:
    """Raises UsageError on what an index here would refuse, in the same words, and on what no URL can carry."""
    if question.k < 1:
        raise UsageError(f"k is {question.k} - ask for at least one hit")
    for name, value in question.parameters():
        if not is_text(value):
            raise UsageError(f"{name}={value!a} is no UTF-8 - a server cannot be asked for it")
    DEFAULT_POLICY.shortlist_size(question.shortlist, 1)


def _named(hit: Hit, terms: Query) -> Hit:
    """With the name of the query's picture, which the server has not been told. Raises ValueError on what is no hit."""
    if "\0" in hit.path or not is_text(hit.path):
        raise ValueError("no file has that name")
    regions = [*hit.regions, *(region for phrase in hit.phrases for region in phrase.regions)]
    scores = [hit.score, hit.score_global, hit.logit, *(phrase.score for phrase in hit.phrases)]
    scores += [region.score for region in regions]
    if not (hit.width > 0 and hit.height > 0 and all(map(math.isfinite, scores))):
        raise ValueError("no photo has that size, or no hit that score")
    names = [*terms.texts, *(os.path.basename(picture.path) for picture in terms.pictures)]
    phrases = tuple(replace(phrase, text=name) for phrase, name in zip(hit.phrases, names, strict=True))
    return replace(hit, phrases=phrases)


def _read(pictures: Sequence[ImageExample]) -> bytes | None:
    """The file of the picture that is looked for."""
    for picture in pictures:
        from flairsearch.images.decoding import read_bytes

        try:
            data = picture.data or read_bytes(os.path.expanduser(picture.path))
        except PictureError as error:
            raise PictureError(f"{picture.path}: {error} - give a picture to look for: --image FILE") from None
        if len(data) > MOST_BODY:
            most = f"{MOST_BODY / 1e6:.0f} MB"
            raise PictureError(
                f"{picture.path}: more than the {most} a server takes - give a smaller one: --image FILE"
            )
        return data
    return None


def _finite(text: str) -> float:
    """A number of JSON; raises ValueError on NaN and on what is too large."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("no finite number")
    return number
