"""Engine: the methods of one index and its model. Each only calls the packages that do the work."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flairsearch.codecs.codec import check_codec
from flairsearch.core.errors import UsageError
from flairsearch.core.limits import MAX_INTEGER, WRITE_LIMITS, WriteLimits
from flairsearch.core.option import check_count
from flairsearch.core.paths import index_folder
from flairsearch.core.query import Query
from flairsearch.core.reports import IndexReport, Progress, Status
from flairsearch.core.request import SearchRequest, SearchResult
from flairsearch.core.settings import IndexSettings, check_device
from flairsearch.core.timing import StageTimer
from flairsearch.core.types import EncodedQuery
from flairsearch.indexing.lifecycle import check_move, forget, open_index, prepare_codec, writing
from flairsearch.model.lazy_encoder import LazyEncoder
from flairsearch.search.policy import DEFAULT_POLICY, SearchPolicy
from flairsearch.store.catalog import Catalog
from flairsearch.store.derived_files import drop_damaged
from flairsearch.store.snapshot import Snapshot
from flairsearch.store.status import status_of
from flairsearch.store.verify import Damage, verify
from flairsearch.store.writer import Writer

if TYPE_CHECKING:
    from flairsearch.core.hits import Hit
    from flairsearch.core.protocols import Encoder
    from flairsearch.search.index_states import IndexStates, OpenedState

MANY_SEARCHES = 1000  # A long-lived engine is expected to run so many searches that the fastest backend pays off.


class Engine:
    """One index and one model. Make an Engine with `Engine.open`; threads may share it.

    Heavy libraries are imported when they are first needed.
    """

    def __init__(
        self,
        folder: Path,
        settings: IndexSettings,
        encoder: Encoder,
        *,
        limits: WriteLimits = WRITE_LIMITS,
        policy: SearchPolicy = DEFAULT_POLICY,
        expected_searches: int = MANY_SEARCHES,
    ) -> None:
        """Use `Engine.open` instead.

        limits, policy: the thresholds of writing and of searches, which tests make small.
        expected_searches: about how many searches will follow; the backend is chosen for this number.
        """
        self.folder, self.settings, self.encoder = folder, settings, encoder
        self._limits, self._policy, self._expected_searches = limits, policy, expected_searches
        self._catalog = Catalog(folder)

    @staticmethod
    def open(
        index: str | Path | None = None,
        model: str | Path | None = None,
        *,
        device: str = "auto",
        views: str | None = None,
        codec: str | None = None,
        create: bool = True,
    ) -> Engine:
        """Open an index by name or folder; with `create`, make an empty one if there is none.

        Raises StoreError when there is no such index, or it was made with other weights or another view policy;
        WeightsError when the model cannot be loaded (without `model`, this happens only when the model is needed).
        """
        folder = index_folder(index)
        check_device(device)
        settings, model = open_index(folder, model, views, codec, create)
        return Engine(folder, settings, LazyEncoder(folder, settings, model, device))

    @staticmethod
    def open_for_one_search(
        index: str | Path | None = None, model: str | Path | None = None, device: str = "auto"
    ) -> Engine:
        """Open an existing index for a single search: nothing is loaded that takes longer to load than it saves.

        device: `auto` means the CPU, since starting a GPU takes longer than it saves in one search.
        Raises the errors of `open`.
        """
        folder = index_folder(index)
        check_device(device)
        settings, model = open_index(folder, model, None, None, create=False)
        encoder = LazyEncoder(folder, settings, model, "cpu" if device == "auto" else device)
        return Engine(folder, settings, encoder, expected_searches=1)

    # -- write

    def add(self, folders: str | Path | Sequence[str | Path] = (), ignore: Sequence[str] = ()) -> IndexReport:
        """Index folders and return the report; unchanged files are not read again.

        folders: one or several folders; without any, all folders of the index are scanned again.
        ignore: globs of names or paths to leave out.
        """
        report = IndexReport()
        for step in self.adding(folders, ignore):
            if isinstance(step, IndexReport):
                report = step
        return report

    def adding(
        self, folders: str | Path | Sequence[str | Path] = (), ignore: Sequence[str] = ()
    ) -> Iterator[Progress | IndexReport]:
        """Do what `add` does, step by step: yield Progress after every file and the report at the end."""
        from flairsearch.indexing.pipeline import ingest
        from flairsearch.search.index_states import open_snapshot
        from flairsearch.shortlist.build import PredictorPolicy

        folders = [folders] if isinstance(folders, str | Path) else folders
        paths = [os.fspath(folder) for folder in folders]
        predictor_policy = PredictorPolicy(exhaustive_views=self._policy.exhaustive_views)
        with self._writing() as writer:
            for step in ingest(writer, paths, self.encoder, ignore, self._limits.ingest, predictor_policy):
                if isinstance(step, IndexReport):
                    # Opening a snapshot writes the derived files now, so that the first search need not.
                    open_snapshot(self.folder, self.settings, self._catalog, self._policy)
                yield step

    def forget(self, path: str | Path) -> int:
        """Remove an image, or all images below a folder, from the index; return their number. The photos stay.

        Raises UsageError when the index does not contain the path.
        """
        absolute = os.path.abspath(os.path.expanduser(path))
        with self._writing() as writer:
            return forget(writer, absolute)

    def compact(self, codec: str | None = None) -> Iterator[tuple[int, int]]:
        """Free the disk space of removed photos and, with `codec`, convert all views to that codec.

        Yields (views done, views in all). Raises UsageError when there is no such codec, StoreError when segments are
        damaged; damaged segments stay as they are.
        """
        settings = replace(self.settings, codec=check_codec(codec or self.settings.codec))
        with self._writing(settings) as writer:
            prepare_codec(writer, codec is not None, self.encoder)
            self.settings = settings
            yield from writer.compactor.compact(writer.target, dead_too=True)

    def refit(self) -> Iterator[tuple[int, int]]:
        """Fit a new score predictor of the shortlist to the stored tokens; yield (views done, views in all)."""
        from flairsearch.shortlist.build import PredictorPolicy, refit_views

        with self._writing() as writer:
            policy = PredictorPolicy(exhaustive_views=self._policy.exhaustive_views)
            yield from refit_views(writer.snapshot(), self.encoder, policy)

    def verify(self) -> Iterator[tuple[int, int, list[Damage]]]:
        """Compare every stored byte with its checksum; yield (views done, views in all, newly found damage).

        Damaged derived files are removed, since the next search makes them again.
        """
        drop_damaged(self.folder / "prefilter")
        yield from verify(Snapshot(self.folder, self.settings, self._catalog), self._catalog, self._limits.store)

    def repair(self, damage: Sequence[Damage]) -> list[Damage]:
        """Encode damaged views again from their photos; return the damage whose photo is gone or has changed."""
        from flairsearch.indexing.repair import repair

        with self._writing() as writer:
            return list(repair(writer, damage, self.encoder, self._limits.ingest))

    def move_root(self, old: str | Path, new: str | Path) -> None:
        """Record that the photos of one folder are in another folder now; nothing is encoded again.

        Raises UsageError when there is no folder `new`, StoreError when `old` is not a folder of the index.
        """
        check_move(old, new)
        with self._writing() as writer:
            writer.catalog.move_root(*(os.path.abspath(os.path.expanduser(path)) for path in (old, new)))

    def _writing(self, settings: IndexSettings | None = None) -> AbstractContextManager[Writer]:
        return writing(self.folder, settings or self.settings, self._limits.store)

    # -- read

    def search(self, query: str | Query | SearchRequest, k: int = 10, **options: Any) -> SearchResult:
        """Return the k photos that answer a query best, each with its regions.

        query: a text or a Query: `Query(["white puppy", "black ears"], exclude="leash", position="left")`.
        options: the other fields of SearchRequest. `filter`: which photos are searched, `Filter(since="2024-05")`;
        `offset`: how many of the best photos to skip; `shortlist`: how many views to rank exactly, "auto", "all" or a
        number; `min_score`: the lowest score of a hit. If `query` is a SearchRequest, k and options are ignored.
        Raises UsageError when a value makes no sense or the filter's folder holds no indexed photo, PictureError when
        an image of the query cannot be read, StoreError when the index is damaged.
        """
        return self.search_many([query], k, **options)[0]

    def search_many(
        self, queries: Sequence[str | Query | SearchRequest], k: int = 10, **options: Any
    ) -> list[SearchResult]:
        """Search for each query; faster than one by one, since texts are encoded and tokens read for all together."""
        if isinstance(queries, str):  # A text would be taken as a list of letters.
            raise UsageError("a text is no list of queries - give a list, or use search", "queries")
        timer, requests = StageTimer(), [SearchRequest.of(query, k, **options) for query in queries]
        if not requests:
            return []
        encoded = self._encode([request.query for request in requests], timer)
        for opened in self._states.newest(requests[0], len(encoded[0].phrases), timer):
            results: dict[int, SearchResult] = {}
            for group in _group_by_options(requests):
                group_results = opened.searcher.search_many([encoded[i] for i in group], requests[group[0]], timer)
                results |= zip(group, group_results, strict=True)
        return [self._add_engine_stats(results[i], request, opened, timer) for i, request in enumerate(requests)]

    def show(self, image: str | Path | int, query: str | Query) -> Hit:
        """Return the hit of one indexed photo: where it shows what a query describes.

        image: the path of a photo, or the id of an indexed image. Conditions of the query are ignored.
        Raises UsageError when the photo is not in the index.
        """
        path = image if isinstance(image, str | os.PathLike) else self.path_of(image)
        if path is None:
            raise UsageError(f"no image {image} in the index")
        absolute, timer, request = os.path.abspath(os.path.expanduser(path)), StageTimer(), SearchRequest.of(query)
        (encoded,) = self._encode([request.query], timer)
        for opened in self._states.newest(request, len(encoded.phrases), timer):
            hit = opened.searcher.show(absolute, EncodedQuery(encoded.phrases, encoded.weights))
        if hit is None:
            raise UsageError(f"{absolute} is not in the index - run flairsearch index on its folder")
        return hit

    def path_of(self, image: int) -> str | None:
        """Return the absolute path of an image; None when the index has no such id."""
        number = check_count(image, "image")
        return self._catalog.path_of(number) if 0 < number <= MAX_INTEGER else None

    def status(self) -> Status:
        """Return what the index holds."""
        return status_of(self.folder, self.settings, self._catalog)

    def unseen_words(self, *texts: str) -> tuple[str, ...]:
        """Return the words, each once, that are in no training text of the model: it can only guess their meaning."""
        return tuple(dict.fromkeys(word for text in texts for word in self.encoder.unseen_words(text)))

    def _encode(self, queries: Sequence[Query], timer: StageTimer) -> list[EncodedQuery]:
        from flairsearch.search.query_encoder import encode_queries

        with timer.stage("encode"):
            return encode_queries(queries, self.encoder, self.settings.image_size)

    @cached_property
    def _states(self) -> IndexStates:
        from flairsearch.search.index_states import IndexStates

        return IndexStates(
            self.folder, self.settings, self._catalog, self.encoder, self._policy, self._expected_searches
        )

    def _add_engine_stats(
        self, result: SearchResult, request: SearchRequest, opened: OpenedState, timer: StageTimer
    ) -> SearchResult:
        """Return the result with unseen words, times, backend and damage, which only the engine knows."""
        query, damage = request.query, opened.snapshot.damage
        stats = replace(
            result.stats,
            unseen_words=self.unseen_words(*query.texts, *query.excluded),
            seconds=timer.seconds,
            backend=str(opened.backend),
        )
        complete = result.complete and not damage
        return replace(result, stats=stats, warnings=(*damage, *result.warnings), complete=complete)

    def close(self) -> None:
        """Close the catalogue; the engine is not used afterwards."""
        self._catalog.close()
        vars(self).pop("_states", None)  # This releases the open segments.

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _group_by_options(requests: Sequence[SearchRequest]) -> list[list[int]]:
    """Return groups of positions; requests of one group differ only in their queries and are answered together."""
    groups: dict[object, list[int]] = {}
    for position, request in enumerate(requests):
        groups.setdefault(request.besides_query, []).append(position)
    return list(groups.values())
