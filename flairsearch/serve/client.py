"""Send a query to a running `flairsearch serve`; only the standard library is used, since it loads quickly."""

from __future__ import annotations

import http.client
import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from threading import Thread
from typing import Any
from urllib.parse import urlencode, urlsplit

from flairsearch.core.errors import FlairSearchError, PictureError, UsageError
from flairsearch.core.filters import is_text
from flairsearch.core.hits import Hit
from flairsearch.core.query import ImageExample
from flairsearch.core.request import MAX_BODY_BYTES, MAX_HITS, OPTIONS, SearchRequest, SearchResult, SearchStats
from flairsearch.core.settings import check_token
from flairsearch.output.formatting import escape

REQUEST_SECONDS = 300.0  # The server has this time for all pages of an answer.
_MAX_PAGE_BYTES = 64 << 20  # A larger page of an answer is refused.
# Reading an answer of another kind of server raises one of these.
_FORMAT_ERRORS = (ValueError, KeyError, TypeError, OverflowError, RecursionError)


class ServerError(FlairSearchError):
    """The server does not answer, refuses the query, or is no flairsearch server."""


@dataclass(frozen=True)
class ServerClient:
    """A server: its address and its token."""

    url: str  # The address as the user wrote it, for errors.
    host: str
    port: int | None  # None means the default port.
    secure: bool  # Whether to use HTTPS.
    token: str | None

    @staticmethod
    def at(url: str, token: str | None) -> ServerClient:
        """Return the server at a URL.

        Raises UsageError when the URL is not http(s)://HOST[:PORT], or an HTTP header cannot carry the token.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = None
        if not host or not url.isprintable() or " " in url or parts.scheme not in ("http", "https"):
            raise UsageError(f"{url!a} is no address of a server - give one like http://127.0.0.1:8421", "server")
        if parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise UsageError(
                f"{parts.scheme}://{host} with more than host and port - "
                "leave the rest out, and set FLAIRSEARCH_TOKEN to the token",
                "server",
            )
        return ServerClient(url, host, port, parts.scheme == "https", None if token is None else check_token(token))

    def search(self, request: SearchRequest, page: int = MAX_HITS, seconds: float = REQUEST_SECONDS) -> SearchResult:
        """Return the result of a search.

        page: the largest number of hits in one request. seconds: the time limit for all pages together.
        Raises ServerError when there is no answer, PictureError when the example image cannot be read or is too large
        to send, and UsageError when a URL cannot carry a value.
        """
        _check(request)
        image = _read(request.query.images)
        outcome: list[SearchResult | ServerError] = []

        def ask() -> None:
            try:
                outcome.append(self._search(request, page, image))
            except ServerError as error:
                outcome.append(error)

        # A socket's timeout does not stop a server that sends byte after byte, so the request runs in a thread.
        thread = Thread(target=ask, daemon=True)
        thread.start()
        thread.join(seconds)
        answer = outcome[0] if outcome else self._no_answer(f"not within {seconds:.0f} s")
        if isinstance(answer, ServerError):
            raise answer
        return answer

    def _search(self, request: SearchRequest, page: int, image: bytes | None) -> SearchResult:
        """Request page after page, and join them. Raises ServerError."""
        result, names = SearchResult(), _phrase_names(request)
        while True:
            count = min(page, request.k - len(result))
            options = {**request.to_options(), "k": count, "offset": request.offset + len(result)}
            answer = self._request(f"/api/v1/search?{urlencode(_parameters(options))}", image)
            try:
                hits = tuple(_checked(Hit.from_dict(hit, names)) for hit in answer["hits"])
                stats = SearchStats(
                    views_in_filter=int(answer["in_scope"]),
                    views_ranked=int(answer["ranked"]),
                    unseen_words=tuple(map(str, answer["unseen"])),
                    seconds={"server": result.stats.seconds.get("server", 0.0) + float(answer["seconds"])},
                )
                warnings = tuple(escape(str(warning)) for warning in answer["warnings"])
                result = SearchResult((*result.hits, *hits), stats, warnings, complete=answer["complete"] is True)
                has_ended = answer["next"] is None
            except _FORMAT_ERRORS:
                raise self._not_ours("its answer holds no hits") from None
            if len(hits) > count or (not has_ended and len(hits) < count):
                raise self._not_ours(f"it sent {len(hits)} hits where {count} were asked for")
            if has_ended or len(result) == request.k:
                return result

    def _request(self, target: str, picture: bytes | None) -> dict[str, Any]:
        """Send one request, as POST if there is a picture; return the JSON of the answer.

        Raises ServerError when there is no answer, an error, or something else than JSON.
        """
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        if picture is not None:
            headers["Content-Type"] = "application/octet-stream"
        kind = http.client.HTTPSConnection if self.secure else http.client.HTTPConnection
        try:
            with closing(kind(self.host, self.port, timeout=REQUEST_SECONDS)) as connection:
                connection.request("GET" if picture is None else "POST", target, picture, headers)
                response = connection.getresponse()
                body = response.read(_MAX_PAGE_BYTES + 1)
        except http.client.HTTPException as error:
            raise self._not_ours(type(error).__name__) from None
        except (OSError, ValueError) as error:  # A host name that cannot be looked up raises ValueError.
            raise self._no_answer(getattr(error, "strerror", None) or str(error) or type(error).__name__) from None
        if len(body) > _MAX_PAGE_BYTES:
            raise self._not_ours(f"it sent more than {_MAX_PAGE_BYTES >> 20} MiB")
        try:
            answer = json.loads(body, parse_float=_finite, parse_constant=_finite)
            refusal = None if response.status == 200 else " ".join(str(answer["error"]).split())[:500]
        except _FORMAT_ERRORS:
            raise self._not_ours(f"it answered {response.status} without JSON of ours") from None
        if response.status == 401:
            raise ServerError(f"{self.url} wants its token, or another one - set FLAIRSEARCH_TOKEN to it")
        if refusal is not None:
            raise ServerError(f"{self.url} refuses the query: {refusal}")
        if not isinstance(answer, dict):
            raise self._not_ours("its answer is no object")
        return answer

    def _no_answer(self, reason: str) -> ServerError:
        return ServerError(f"{self.url} does not answer ({reason}) - start flairsearch serve there, or omit --server")

    def _not_ours(self, reason: str) -> ServerError:
        return ServerError(f"{self.url} is no flairsearch server ({reason}) - check the address given as --server")


def _check(request: SearchRequest) -> None:
    """Raise UsageError when a URL cannot carry a value."""
    for name, value in request.to_options().items():
        for text in value if isinstance(value, tuple) else (str(value),):
            if not is_text(text):
                raise UsageError(f"{text!a} is no UTF-8 - a server cannot be asked for it", name)


def _parameters(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return options as the parameters of a URL."""
    return [
        (OPTIONS[name][0].http_name or name, str(part))
        for name, value in options.items()
        for part in (value if isinstance(value, tuple) else (value,))
    ]


def _phrase_names(request: SearchRequest) -> list[str]:
    """Return the names of the phrases; the server does not know the name of the example image."""
    return [*request.query.texts, *(image.name for image in request.query.images)]


def _checked(hit: Hit) -> Hit:
    """Return a hit of a server unchanged. Raises ValueError when its values are impossible."""
    if "\0" in hit.path or not is_text(hit.path):
        raise ValueError("no file has that name")
    regions = [*hit.regions, *(region for phrase in hit.phrases for region in phrase.regions)]
    scores = [hit.score, hit.score_global, hit.logit, *(phrase.score for phrase in hit.phrases)]
    scores += [region.score for region in regions]
    if not (hit.width > 0 and hit.height > 0 and all(map(math.isfinite, scores))):
        raise ValueError("no photo has that size, or no hit that score")
    return hit


def _read(images: Sequence[ImageExample]) -> bytes | None:
    """Return the bytes of the example image; None if there is none.

    Raises PictureError when it cannot be read or is too large to send.
    """
    for image in images:
        from flairsearch.images.decoding import read_bytes

        try:
            data = image.source if isinstance(image.source, bytes) else read_bytes(os.path.expanduser(image.source))
        except PictureError as error:
            raise PictureError(f"{image.path or image.name}: {error} - give an image to look for", "image") from None
        if len(data) > MAX_BODY_BYTES:
            limit = f"{MAX_BODY_BYTES / 1e6:.0f} MB"
            raise PictureError(
                f"{image.path or image.name}: more than the {limit} a server takes - give a smaller one", "image"
            )
        return data
    return None


def _finite(text: str) -> float:
    """Return a number in JSON. Raises ValueError when it is NaN or infinite."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("no finite number")
    return number
