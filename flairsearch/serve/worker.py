"""The one thread that owns an Engine: searches wait in a queue, and those with equal options are answered together.

Every request is a call in the queue of an executor of one thread. The first of several searches with equal options
answers all of them; the others find their answer when their turn comes.
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
from flairsearch.core.memory import keep_freed_memory
from flairsearch.core.request import SearchRequest, SearchResult
from flairsearch.engine import Engine
from flairsearch.store.catalog import Catalog

MAX_WAITING = 64  # More requests in the queue are refused.
WARMUP_QUERY = "a photo"  # This search opens all files and compiles the kernels before the first client asks.
CATALOG = "catalog.sqlite"

_T = TypeVar("_T")


class Busy(FlairSearchError):
    """Too many requests wait already."""


class Stopped(FlairSearchError):
    """The server stops before the request is answered."""


@dataclass(frozen=True)
class Page:
    """One page of a search's hits."""

    result: SearchResult
    has_more: bool  # Whether there is a hit after these.
    seconds: float = 0.0  # From the request to the answer.


@dataclass(frozen=True)
class _Opened:
    """The index that is there now."""

    engine: Engine
    catalog: Catalog
    identity: tuple[int, ...] | None  # `_identity` of its files.


@dataclass(eq=False)
class _Waiting:
    """A call that waits for its turn; it is emptied when it has been answered or cancelled."""

    call: Callable[[], object] | None = None


@dataclass(eq=False)
class _WaitingSearch(_Waiting):
    request: SearchRequest | None = None
    page: Page | None = None  # An earlier search with equal options may have brought the answer along.
    was_grouped: bool = False  # A search that went wrong in a group is asked alone when its turn comes.


class SearchWorker:
    """Every method may be called from any thread; one thread of its own does all that concerns the Engine."""

    def __init__(self, open_engine: Callable[[], Engine], warmup_query: str = WARMUP_QUERY) -> None:
        """open_engine: opens the index; called again when the index was replaced by another one.

        The Engine is open afterwards and has answered the warm-up query. Raises what opening and searching raise.
        """
        self._open, self._warmup_query = open_engine, warmup_query
        self._lock = threading.RLock()  # The lock guards _waiting and _stopped.
        self._waiting: dict[_Waiting, None] = {}  # The calls whose turn has not come, in the order of their turns.
        self._stopped = False
        self.batches: Counter[int] = Counter()  # Number of searches answered at once -> how often that happened.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="engine")
        with ExitStack() as undo:
            undo.callback(self._worker.shutdown, wait=False, cancel_futures=True)
            self._opened = self._worker.submit(self._open_warm).result()
            undo.pop_all()

    @property
    def waiting(self) -> int:
        """The number of requests whose turn has not come."""
        return len(self._waiting)

    @property
    def catalog(self) -> Catalog:
        """What the index lists; it may be asked from any thread, past the queue."""
        return self._opened.catalog

    @property
    def folder(self) -> Path:
        """The folder of the index."""
        return self._opened.engine.folder

    def search(self, request: SearchRequest) -> Future[Page]:
        """Cancel the answer to leave the queue. Raises Busy or Stopped."""
        search, began = _WaitingSearch(request=request), time.perf_counter()
        return self._put(search, lambda: replace(self._answer(search), seconds=time.perf_counter() - began))

    def call(self, ask: Callable[[Engine], _T]) -> Future[_T]:
        """Something else to ask the Engine, in its thread. Raises Busy or Stopped."""
        return self._put(_Waiting(), lambda: ask(self._current()))

    def close(self) -> None:
        """Requests that still wait get Stopped; what the Engine does now is finished."""
        with self._lock:
            self._stopped = True
            self._worker.submit(self._shut)
        self._worker.shutdown()

    def _put(self, waiting: _Waiting, call: Callable[[], _T]) -> Future[_T]:
        waiting.call = call

        def take_turn() -> _T:
            """Holds nothing of the request but what `_leave` empties: the queue keeps cancelled calls for a while."""
            with self._lock:
                self._waiting.pop(waiting)
                if self._stopped:
                    raise Stopped("the server stops - ask again later")
            assert waiting.call is not None
            return cast("_T", waiting.call())

        with self._lock:
            if self._stopped:
                raise Stopped("the server stops - ask again later")
            if len(self._waiting) >= MAX_WAITING:
                raise Busy(f"{MAX_WAITING} requests wait already - ask again in a second")
            self._waiting[waiting] = None
            answer = self._worker.submit(take_turn)
            answer.add_done_callback(lambda _: self._leave(waiting))
            return answer

    def _leave(self, waiting: _Waiting) -> None:
        """A request that was cancelled waits no longer, and what it holds, an image perhaps, goes at once."""
        with self._lock:
            self._waiting.pop(waiting, None)
            waiting.call = None
            if isinstance(waiting, _WaitingSearch):
                waiting.request = None

    # -- in the Engine's thread

    def _open_warm(self) -> _Opened:
        keep_freed_memory()
        engine = self._open()
        # Index and identity are read at once: one that replaces this index during the warm-up must be noticed.
        opened = _Opened(engine, Catalog(engine.folder), _identity(engine.folder))
        if engine.status().images:
            engine.search(self._warmup_query, 1)
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

    def _answer(self, search: _WaitingSearch) -> Page:
        """Answer together with all searches that have equal options; where that goes wrong, each alone.

        One query's error is no other query's.
        """
        if search.page is None:
            with self._lock:
                waiting = [search, *(other for other in self._waiting if isinstance(other, _WaitingSearch))]
                group = [(one, one.request) for one in waiting if one.request is not None and _goes_with(one, search)]
            for one, _ in group:
                one.was_grouped = True
            try:
                self._search(group)
            except FlairSearchError:
                if len(group) == 1:
                    raise
                self._search(group[:1])
        assert search.page is not None
        return search.page

    def _search(self, group: Sequence[tuple[_WaitingSearch, SearchRequest]]) -> None:
        """One hit more than asked for says whether there is a next page."""
        longer = [replace(request, k=request.k + 1) for _, request in group]
        results = self._current().search_many(longer)
        for (search, request), result in zip(group, results, strict=True):
            search.page = Page(result.first(request.k), has_more=len(result) > request.k)
        self.batches[len(group)] += 1

    def _shut(self) -> None:
        self._opened.catalog.close()
        self._opened.engine.close()


def _goes_with(one: _WaitingSearch, search: _WaitingSearch) -> bool:
    """Whether a search is answered together with the one whose turn it is."""
    if one is search:
        return True
    if one.request is None or search.request is None or one.was_grouped or search.was_grouped:
        return False
    return one.request.besides_query == search.request.besides_query


def _identity(folder: Path) -> tuple[int, ...] | None:
    """Of the catalogue's file and the settings, which `compact --codec` changes; None while they are being replaced."""
    try:
        catalog, settings = (folder / CATALOG).stat(), (folder / "index.json").stat()
    except OSError:
        return None
    return catalog.st_dev, catalog.st_ino, settings.st_ino, settings.st_mtime_ns
