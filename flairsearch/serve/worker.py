"""The one thread that owns an Engine: searches wait in a queue, and those that ask alike are answered at once.

Every request is a call in the queue of an executor of one thread. The first search of several that ask alike answers
all of them; the others find their answer when their turn comes.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, cast

from flairsearch.core.errors import FlairSearchError
from flairsearch.core.filters import Filter
from flairsearch.core.memory import keep_freed_memory
from flairsearch.core.query import Query
from flairsearch.core.types import Hit
from flairsearch.engine import Engine
from flairsearch.store.catalog import Catalog

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
    scope: Filter | None = None


@dataclass(frozen=True)
class Found:
    """What one search found."""

    hits: list[Hit]  # `How.k` at most
    more: bool  # whether there is a hit after these
    in_scope: int  # views
    ranked: int  # of them, exactly
    unseen: tuple[str, ...]  # words of the query that the model does not know
    warnings: tuple[str, ...]
    seconds: float = 0.0  # from the request to the answer


@dataclass(frozen=True)
class _Opened:
    """The index that is there now."""

    engine: Engine
    catalog: Catalog
    identity: tuple[int, ...] | None  # `_identity` of its files


@dataclass(eq=False)
class _Request:
    """A call that waits for its turn; it is empty when it has been answered or cancelled."""

    do: Callable[[], object] | None = None


@dataclass(eq=False)
class _Search(_Request):
    terms: Query | None = None
    how: How = How()
    found: Found | None = None  # An earlier search that asked alike may have brought the answer along.
    grouped: bool = False  # A search that went wrong in a group is asked alone when its turn comes.


class SearchWorker:
    """Every method may be called from any thread; one thread of its own does all that concerns the Engine."""

    def __init__(self, open_engine: Callable[[], Engine], warm: str = WARM) -> None:
        """open_engine: opens the index; called again when the index was replaced by another one. warm: asked first.

        The Engine is open afterwards and has answered a query. Raises what opening and searching raise.
        """
        self._open, self._first_text = open_engine, warm
        self._lock = threading.RLock()  # The lock guards _waiting and _stopped.
        self._waiting: dict[_Request, None] = {}  # The requests whose turn has not come, in the order of their turns.
        self._stopped = False
        self.batches: Counter[int] = Counter()  # searches answered at once -> how often
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="engine")
        with ExitStack() as undo:
            undo.callback(self._worker.shutdown, wait=False, cancel_futures=True)
            self._opened = self._worker.submit(self._warm).result()
            undo.pop_all()

    @property
    def waiting(self) -> int:
        """Requests that nobody works on yet."""
        return len(self._waiting)

    @property
    def catalog(self) -> Catalog:
        """What the index lists; it may be asked from any thread, past the queue."""
        return self._opened.catalog

    @property
    def folder(self) -> Path:
        """Where the index lies."""
        return self._opened.engine.folder

    def search(self, terms: Query, how: How) -> Future[Found]:
        """Cancel the answer to leave the queue. Raises Busy or Stopped."""
        search, began = _Search(terms=terms, how=how), time.perf_counter()
        return self._put(search, lambda: replace(self._answer(search), seconds=time.perf_counter() - began))

    def call(self, ask: Callable[[Engine], _T]) -> Future[_T]:
        """Something else to ask the Engine, in its thread. Raises Busy or Stopped."""
        return self._put(_Request(), lambda: ask(self._current()))

    def close(self) -> None:
        """Requests that still wait get Stopped; what the Engine does now is finished."""
        with self._lock:
            self._stopped = True
            self._worker.submit(self._shut)
        self._worker.shutdown()

    def _put(self, request: _Request, do: Callable[[], _T]) -> Future[_T]:
        request.do = do

        def take_turn() -> _T:
            """Holds nothing of the request but what `_leave` empties: the queue keeps cancelled calls for a while."""
            with self._lock:
                self._waiting.pop(request)
                if self._stopped:
                    raise Stopped("the server stops - ask again later")
            assert request.do is not None
            return cast("_T", request.do())

        with self._lock:
            if self._stopped:
                raise Stopped("the server stops - ask again later")
            if len(self._waiting) >= MOST_WAITING:
                raise Busy(f"{MOST_WAITING} requests wait already - ask again in a second")
            self._waiting[request] = None
            answer = self._worker.submit(take_turn)
            answer.add_done_callback(lambda _: self._leave(request))
            return answer

    def _leave(self, request: _Request) -> None:
        """A request that was cancelled waits no longer, and what it holds, a picture perhaps, goes at once."""
        with self._lock:
            self._waiting.pop(request, None)
            request.do = None
            if isinstance(request, _Search):
                request.terms = None

    # -- in the Engine's thread

    def _warm(self) -> _Opened:
        keep_freed_memory()
        engine = self._open()
        # Index and identity are read at once: one that replaces this index during the warm-up must be noticed.
        opened = _Opened(engine, Catalog(engine.folder), _identity(engine.folder))
        from flairsearch.rerank import numba_backend  # noqa: F401 - One query alone would do without numba.
        from flairsearch.shortlist import code_scan_numba  # noqa: F401 - likewise

        if engine.status().images:
            engine.search(self._first_text, 1)
        return opened

    def _current(self) -> Engine:
        """The Engine of the index that is there now: `index --rebuild` puts another one in its place."""
        old = self._opened
        identity = _identity(old.engine.folder)
        if identity is not None and identity != old.identity:
            # The old catalogue stays open: another thread may be asking it just now; it goes with its last user.
            engine = self._open()
            self._opened = _Opened(engine, Catalog(engine.folder), identity)
            old.engine.close()
        return self._opened.engine

    def _answer(self, search: _Search) -> Found:
        """Together with all that ask alike; where that goes wrong, each alone: one query's error is no other's."""
        if search.found is None:
            with self._lock:
                waiting = [search, *(other for other in self._waiting if isinstance(other, _Search))]
                alike = [
                    other for other in waiting if other.how == search.how and not (other.grouped or search.grouped)
                ]
                group = [(one, one.terms) for one in alike or [search] if one.terms is not None]
            for one, _ in group:
                one.grouped = True
            try:
                self._search(group, search.how)
            except FlairSearchError:
                if len(group) == 1:
                    raise
                self._search(group[:1], search.how)
        assert search.found is not None
        return search.found

    def _search(self, group: Sequence[tuple[_Search, Query]], how: How) -> None:
        """One hit more than asked for says whether there is a next page."""
        engine = self._current()
        several = [terms for _, terms in group]
        found = engine.search_many(several, how.k + 1, how.shortlist, how.min_score, how.scope, how.offset)
        ranked, in_scope = engine.reranked, engine.in_scope
        for query, ((search, terms), hits) in enumerate(zip(group, found, strict=True)):
            unseen = engine.unseen_words(*terms.texts, *terms.without)
            warnings = tuple(engine.warnings(query))
            more = len(hits) > how.k
            search.found = Found(hits[: how.k], more, in_scope, ranked[query], tuple(unseen), warnings)
        self.batches[len(group)] += 1

    def _shut(self) -> None:
        self._opened.catalog.close()
        self._opened.engine.close()


def _identity(folder: Path) -> tuple[int, ...] | None:
    """Of the catalogue's file and the settings, which `compact --codec` changes; None while they are being replaced."""
    try:
        catalog, settings = (folder / CATALOG).stat(), (folder / "index.json").stat()
    except OSError:
        return None
    return catalog.st_dev, catalog.st_ino, settings.st_ino, settings.st_mtime_ns
