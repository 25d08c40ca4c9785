"""Keep the newest state of an index open for searches, while other processes may commit newer ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from flairsearch.core.protocols import Encoder
from flairsearch.core.request import SearchRequest
from flairsearch.core.settings import IndexSettings
from flairsearch.core.timing import StageTimer
from flairsearch.rerank.backend import Backend, choose_backend
from flairsearch.search.local_place import LocalPlace
from flairsearch.search.policy import SearchPolicy
from flairsearch.search.searcher import Searcher
from flairsearch.shortlist.shortlist import make_derived_files
from flairsearch.store.catalog import Catalog
from flairsearch.store.snapshot import Snapshot

MAX_ATTEMPTS = 20  # A search is repeated at most this many times because another process has committed.


@dataclass(frozen=True)
class OpenedState:
    """One state of the index, ready for searches."""

    snapshot: Snapshot
    searcher: Searcher
    backend: Backend


class IndexStates:
    """Opens the newest state of an index and keeps it until there is a newer one; threads may share it."""

    def __init__(
        self,
        folder: Path,
        settings: IndexSettings,
        catalog: Catalog,
        encoder: Encoder,
        policy: SearchPolicy,
        expected_searches: int,
    ) -> None:
        """expected_searches: about how many searches will follow; the backend is chosen for this number."""
        self._folder, self._settings, self._catalog, self._encoder = folder, settings, catalog, encoder
        self._policy, self._expected_searches = policy, expected_searches
        self._opened: OpenedState | None = None
        self._opening = Lock()  # Two threads must not open the same state.

    def newest(self, request: SearchRequest, phrases: int, timer: StageTimer) -> Iterator[OpenedState]:
        """Yield the newest state and, as long as another process has committed meanwhile, a newer one.

        The caller searches every yielded state and keeps the last result: paths come from the catalogue, which may be
        newer than the state. request, phrases: the request, and its number of phrases, for which a backend is chosen.
        """
        for _ in range(MAX_ATTEMPTS):
            with timer.stage("open"), self._opening:
                opened = self._open(request, phrases)
            yield opened
            if self._catalog.generation() == opened.snapshot.generation:
                return

    def _open(self, request: SearchRequest, phrases: int) -> OpenedState:
        if self._opened is None or self._opened.snapshot.generation != self._catalog.generation():
            snapshot = Snapshot(self._folder, self._settings, self._catalog)
            expected = self._policy.expected_views(request.shortlist, len(snapshot)) * phrases * self._expected_searches
            backend = choose_backend(self._encoder.device, expected)
            place = LocalPlace(snapshot, self._catalog, self._encoder.pool_weights, backend, self._policy)
            place.save_derived_files()
            self._opened = OpenedState(snapshot, Searcher(place, self._policy), backend)
        return self._opened


def open_snapshot(folder: Path, settings: IndexSettings, catalog: Catalog, policy: SearchPolicy) -> Snapshot:
    """Open the newest state, and write the derived files that make opening it fast, if they are missing."""
    snapshot = Snapshot(folder, settings, catalog)
    make_derived_files(snapshot, policy.exhaustive_views)
    return snapshot
