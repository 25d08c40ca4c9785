"""SearchWorker: one thread that owns an Engine. Searches wait in a queue; those with equal options are run together.

The queue is that of an executor with one thread. The first of several searches with equal options runs all of them;
the others find their result ready when their turn comes.
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

MAX_WAITING = 64  # Further requests are refused while this many wait in the queue.
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
    has_more: bool  # Whether there are hits after this page.
    seconds: float = 0.0  # From the request to the answer.


@dataclass(frozen=True)
class _Opened:
    """The open index."""

    engine: Engine
    catalog: Catalog
    identity: tuple[int, ...] | None  # The result of `_identity` when the index was opened.


@dataclass(eq=False)
class _Waiting:
    """A call in the queue; its fields are emptied when it has been answered or cancelled."""

    call: Callable[[], object] | None = None


@dataclass(eq=False)
class _WaitingSearch(_Waiting):
    """A search in the queue."""

    request: SearchRequest | None = None
    page: Page | None = None  # The result, if an earlier search with equal options was run together with this one.
    was_grouped: bool = False  # A search that failed in a group is run alone when its turn comes.


class SearchWorker:
    """Runs searches in its own thread, the only one that uses the Engine. Threads may share the SearchWorker."""

    def __init__(self, open_engine: Callable[[], Engine], warmup_query: str = WARMUP_QUERY) -> None:
        """Open the index and run the warm-up query. Raises the errors of opening and searching.

        open_engine: opens the index; it is called again when the index was replaced.
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
        """The catalogue of the index; any thread may use it, without waiting in the queue."""
        return self._opened.catalog

    @property
    def folder(self) -> Path:
        """The folder of the index."""
        return self._opened.engine.folder

    def search(self, request: SearchRequest) -> Future[Page]:
        """Put a search into the queue; cancelling the returned future removes it. Raises Busy or Stopped."""
        search, start = _WaitingSearch(request=request), time.perf_counter()
        return self._put(search, lambda: replace(self._answer(search), seconds=time.perf_counter() - start))

    def call(self, function: Callable[[Engine], _T]) -> Future[_T]:
        """Put a call of a function with the Engine into the queue. Raises Busy or Stopped."""
        return self._put(_Waiting(), lambda: function(self._current_engine()))

    def close(self) -> None:
        """Stop: requests that still wait raise Stopped, and the current one is finished."""
        with self._lock:
            self._stopped = True
            self._worker.submit(self._close_index)
        self._worker.shutdown()

    def _put(self, waiting: _Waiting, call: Callable[[], _T]) -> Future[_T]:
        """Put a call into the queue. Raises Busy or Stopped."""
        waiting.call = call

        def take_turn() -> _T:
            """Run the call. Only `waiting` refers to it, since the executor keeps cancelled calls for a while."""
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
        """Remove a call that is answered or cancelled from the queue, and free its memory, such as an image."""
        with self._lock:
            self._waiting.pop(waiting, None)
            waiting.call = None
            if isinstance(waiting, _WaitingSearch):
                waiting.request = None

    # -- in the Engine's thread

    def _open_warm(self) -> _Opened:
        """Open the index and run the warm-up query."""
        keep_freed_memory()
        engine = self._open()
        # The identity is read before the warm-up, so that a replacement of the index during it is noticed.
        opened = _Opened(engine, Catalog(engine.folder), _identity(engine.folder))
        if engine.status().images:
            engine.search(self._warmup_query, 1)
        return opened

    def _current_engine(self) -> Engine:
        """Return the Engine; open the index again if it was replaced, as by `index --rebuild`."""
        old = self._opened
        identity = _identity(old.engine.folder)
        if identity is not None and identity != old.identity:
            # The old catalogue stays open, since another thread may be using it; it is freed with its last reference.
            engine = self._open()
            self._opened = _Opened(engine, Catalog(engine.folder), identity)
            old.engine.close()
        return self._opened.engine

    def _answer(self, search: _WaitingSearch) -> Page:
        """Return the page of a search. All waiting searches with equal options are run together.

        After an error each of them is run alone, so that no search fails because of another one.
        """
        if search.page is None:
            with self._lock:
                waiting = [search, *(other for other in self._waiting if isinstance(other, _WaitingSearch))]
                group = [
                    (member, member.request)
                    for member in waiting
                    if member.request is not None and _belongs_to_group(member, search)
                ]
            for member, _ in group:
                member.was_grouped = True
            try:
                self._search(group)
            except FlairSearchError:
                if len(group) == 1:
                    raise
                self._search(group[:1])
        assert search.page is not None
        return search.page

    def _search(self, group: Sequence[tuple[_WaitingSearch, SearchRequest]]) -> None:
        """Run searches together, and store their pages."""
        # One additional hit tells whether there is a next page.
        longer = [replace(request, k=request.k + 1) for _, request in group]
        results = self._current_engine().search_many(longer)
        for (search, request), result in zip(group, results, strict=True):
            search.page = Page(result.first(request.k), has_more=len(result) > request.k)
        self.batches[len(group)] += 1

    def _close_index(self) -> None:
        self._opened.catalog.close()
        self._opened.engine.close()


def _belongs_to_group(other: _WaitingSearch, search: _WaitingSearch) -> bool:
    """Return whether a waiting search is run together with `search`, whose turn it is."""
    if other is search:
        return True
    if other.request is None or search.request is None or other.was_grouped or search.was_grouped:
        return False
    return other.request.besides_query == search.request.besides_query


def _identity(folder: Path) -> tuple[int, ...] | None:
    """Return values that change when the index is replaced or its settings change; None during a replacement."""
    try:
        catalog, settings = (folder / CATALOG).stat(), (folder / "index.json").stat()
    except OSError:
        return None
    return catalog.st_dev, catalog.st_ino, settings.st_ino, settings.st_mtime_ns
