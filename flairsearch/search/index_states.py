"""The states of an index as other processes commit them: the newest one is open for searches."""

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

MAX_ATTEMPTS = 20  # At an answer from one state of the index, while other processes write.


@dataclass(frozen=True)
class OpenedState:
    """One state of the index, ready for searches."""

    snapshot: Snapshot
    searcher: Searcher
    backend: Backend


class IndexStates:
    """Opens the newest state when there is a newer one than before; threads may share it."""

    def __init__(
        self,
        folder: Path,
        settings: IndexSettings,
        catalog: Catalog,
        encoder: Encoder,
        policy: SearchPolicy,
        expected_searches: int,
    ) -> None:
        """expected_searches: about how many searches the process will ask; the backend is chosen for as many."""
        self._folder, self._settings, self._catalog, self._encoder = folder, settings, catalog, encoder
        self._policy, self._expected_searches = policy, expected_searches
        self._opened: OpenedState | None = None
        self._opening = Lock()  # Two threads must not open the same state.

    def newest(self, request: SearchRequest, phrases: int, timer: StageTimer) -> Iterator[OpenedState]:
        """The newest state; then a newer one if another process committed meanwhile, as paths are looked up last.

        An answer from the last state counts. request, phrases: the first search of a state chooses its backend.
        """
        for _ in range(MAX_ATTEMPTS):
            with timer.stage("open"), self._opening:
                opened = self._open(request, phrases)
            yield opened
            if self._catalog.generation() == opened.snapshot.generation:
                return

    def _open(self, request: SearchRequest, phrases: int) -> OpenedState:
        if self._opened is None or self._opened.snapshot.generation != self._catalog.generation():
            snapshot = open_snapshot(self._folder, self._settings, self._catalog, self._policy)
            expected = self._policy.expected_views(request.shortlist, len(snapshot)) * phrases * self._expected_searches
            backend = choose_backend(self._encoder.device, expected)
            place = LocalPlace(snapshot, self._catalog, self._encoder.pool_weights, backend, self._policy)
            self._opened = OpenedState(snapshot, Searcher(place, self._policy), backend)
        return self._opened


def open_snapshot(folder: Path, settings: IndexSettings, catalog: Catalog, policy: SearchPolicy) -> Snapshot:
    """The newest state. The files that make opening it quick are written here, and nowhere else."""
    snapshot = Snapshot(folder, settings, catalog)
    make_derived_files(snapshot, policy.exhaustive_views)
    return snapshot
