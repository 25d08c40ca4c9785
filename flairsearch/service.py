"""The one thread that owns an Engine: searches wait in a queue, and those that ask alike are answered at once."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from flairsearch.catalog import Catalog
from flairsearch.engine import Engine
from flairsearch.errors import FlairSearchError
from flairsearch.records import Hit
from flairsearch.scope import Scope
from flairsearch.terms import Terms

MOST_WAITING = 64  # requests; more are refused
WARM = "a photo"  # what is asked before anybody else asks: files are read, kernels compiled
CATALOG = "catalog.sqlite"

_T = TypeVar("_T")


class Busy(FlairSearchError):
    """Too many requests wait already."""


class Stopped(FlairSearchError):
    """The service ends; nobody will answer."""


@dataclass(frozen=True)
class How:
    """What searches must have in common to be answered together."""

    k: int = 10
    offset: int = 0
    shortlist: str = "auto"
    min_score: float | None = None
    scope: Scope | None = None


@dataclass(frozen=True)
class Found:
    """What one search found."""

    hits: list[Hit]  # `How.k` at most
    more: bool  # whether there is a hit after these
    in_scope: int  # views
    ranked: int  # of them, exactly
    unseen: tuple[str, ...]  # words of the query that the model does not know
    warnings: tuple[str, ...]
    seconds: float  # from the request to the answer


@dataclass(frozen=True)
class _Search:
    terms: Terms
    how: How
    answer: Future[Found]
    began: float


@dataclass(frozen=True)
class _Call:
    """Anything else that only the owner of the Engine may do."""

    run: Callable[[], None]
    how: None = None


class Service:
    """Starts with `Service.start`; every method may be called from any thread."""

    def __init__(self, open_engine: Callable[[], Engine]) -> None:
        """open_engine: opens the index; called again when the index was replaced by another one."""
        self._open = open_engine
        self._bell = threading.Condition()
        self._queue: deque[_Search | _Call] = deque()
        self._stopped = False
        self._owner = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._dispatcher = threading.Thread(target=self._dispatch, name="dispatcher", daemon=True)
        self.batches: Counter[int] = Counter()  # searches answered at once -> how often

    @staticmethod
    def start(open_engine: Callable[[], Engine]) -> Service:
        """A service whose Engine is open and has answered a query. Raises what opening and searching raise."""
        service = Service(open_engine)
        try:
            service._owner.submit(service._warm).result()
            service._dispatcher.start()
        finally:
            if not service._dispatcher.is_alive():
                service._owner.shutdown(wait=False, cancel_futures=True)
        return service

    @property
    def waiting(self) -> int:
        """Requests that nobody works on yet."""
        return len(self._queue)

    @property
    def catalog(self) -> Catalog:
        """What the index lists; it may be asked from any thread, past the queue."""
        return self._catalog

    @property
    def folder(self) -> Path:
        return self._engine.folder

    def search(self, terms: Terms, how: How) -> Future[Found]:
        """Cancel the answer to leave the queue. Raises Busy or Stopped."""
        answer: Future[Found] = Future()
        self._put(_Search(terms, how, answer, time.perf_counter()))
        return answer

    def call(self, ask: Callable[[Engine], _T]) -> Future[_T]:
        """Something else to ask the Engine, in its thread. Raises Busy or Stopped."""
        answer: Future[_T] = Future()

        def run() -> None:
            if answer.set_running_or_notify_cancel():
                done = self._owner.submit(lambda: ask(self._current()))
                error = done.exception()
                if error is None:
                    answer.set_result(done.result())
                else:
                    answer.set_exception(error)

        self._put(_Call(run))
        return answer

    def close(self) -> None:
        """Who still waits gets Stopped; what the Engine does now is finished."""
        with self._bell:
            self._stopped = True
            left, self._queue = self._queue, deque()
            self._bell.notify()
        for one in left:
            if isinstance(one, _Search) and one.answer.set_running_or_notify_cancel():
                one.answer.set_exception(Stopped("the server stops - ask again later"))
        if self._dispatcher.is_alive():
            self._dispatcher.join()
        self._owner.submit(self._shut)
        self._owner.shutdown()

    # -- the queue

    def _put(self, one: _Search | _Call) -> None:
        with self._bell:
            if self._stopped:
                raise Stopped("the server stops - ask again later")
            if len(self._queue) >= MOST_WAITING:
                self._queue = deque(other for other in self._queue if not _is_gone(other))
            if len(self._queue) >= MOST_WAITING:
                raise Busy(f"{MOST_WAITING} requests wait already - ask again in a second")
            self._queue.append(one)
            self._bell.notify()

    def _dispatch(self) -> None:
        """All that wait, group by group, until the end."""
        while True:
            with self._bell:
                while not self._queue and not self._stopped:
                    self._bell.wait()
                if self._stopped:
                    return
                taken, self._queue = self._queue, deque()
            groups: dict[How, list[_Search]] = {}
            for one in taken:
                if isinstance(one, _Call):
                    one.run()
                elif one.answer.set_running_or_notify_cancel():
                    groups.setdefault(one.how, []).append(one)
            for how, group in groups.items():
                self._answer(group, how)

    def _answer(self, group: Sequence[_Search], how: How) -> None:
        """Together; where that goes wrong, one by one: one query's error is no other's."""
        done = self._owner.submit(self._search, [one.terms for one in group], how)
        error = done.exception()
        if error is None:
            self.batches[len(group)] += 1
            now = time.perf_counter()
            for one, (hits, more, in_scope, ranked, unseen, warnings) in zip(group, done.result(), strict=True):
                answer = Found(hits, more, in_scope, ranked, unseen, warnings, now - one.began)
                one.answer.set_result(answer)
        elif len(group) > 1 and isinstance(error, FlairSearchError):
            for one in group:
                self._answer([one], how)
        else:
            for one in group:
                one.answer.set_exception(error)

    # -- in the Engine's thread

    def _warm(self) -> None:
        self._engine = self._open()
        self._catalog, self._identity = Catalog(self._engine.folder), _identity(self._engine.folder)
        from flairsearch import rerank_cpu, scan_loops  # noqa: F401 - numba: one query alone would do without

        if self._engine.status().images:
            self._engine.search(WARM, 1)

    def _current(self) -> Engine:
        """The Engine of the index that is there now: `index --rebuild` puts another one in its place."""
        identity = _identity(self._engine.folder)
        if identity is not None and identity != self._identity:
            engine, old = self._open(), self._engine
            # The old catalogue stays open: another thread may be asking it just now; it goes with its last user.
            self._engine, self._catalog, self._identity = engine, Catalog(engine.folder), identity
            old.close()
        return self._engine

    def _search(
        self, several: Sequence[Terms], how: How
    ) -> list[tuple[list[Hit], bool, int, int, tuple[str, ...], tuple[str, ...]]]:
        """One hit more than asked for says whether there is a next page."""
        engine = self._current()
        found = engine.search_many(several, how.k + 1, how.shortlist, how.min_score, how.scope, how.offset)
        ranked, in_scope = engine.reranked, engine.in_scope
        warnings = [tuple(engine.warnings(query)) for query in range(len(several))]
        unseen = [tuple(engine.unseen_words(*terms.texts, *terms.without)) for terms in several]
        return [
            (hits[: how.k], len(hits) > how.k, in_scope, count, words, lines)
            for hits, count, words, lines in zip(found, ranked, unseen, warnings, strict=True)
        ]

    def _shut(self) -> None:
        self._catalog.close()
        self._engine.close()


def _identity(folder: Path) -> tuple[int, ...] | None:
    """Of the catalogue's file and the settings, which `compact --codec` changes; None while they are being replaced."""
    try:
        catalog, settings = (folder / CATALOG).stat(), (folder / "index.json").stat()
    except OSError:
        return None
    return catalog.st_dev, catalog.st_ino, settings.st_ino, settings.st_mtime_ns


def _is_gone(one: _Search | _Call) -> bool:
    return isinstance(one, _Search) and one.answer.cancelled()
