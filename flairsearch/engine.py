"""Engine: one index and one model behind open / add / search / show / forget / status / close. No logic of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flairsearch.codecs.codec import check_codec
from flairsearch.core.errors import UsageError
from flairsearch.core.filters import Filter
from flairsearch.core.limits import WRITE_LIMITS, WriteLimits
from flairsearch.core.paths import index_folder
from flairsearch.core.reports import IndexReport, Progress, Status
from flairsearch.core.settings import IndexSettings, check_device
from flairsearch.core.timing import StageTimer
from flairsearch.core.types import EncodedQuery, Hit
from flairsearch.indexing.lifecycle import check_move, forget, open_index, prepare_codec, writing
from flairsearch.model.model_source import ModelSource
from flairsearch.search.policy import DEFAULT_POLICY, SearchPolicy
from flairsearch.store.catalog import Catalog
from flairsearch.store.derived_files import drop_damaged
from flairsearch.store.snapshot import Snapshot
from flairsearch.store.statistics import status_of
from flairsearch.store.verify import Damage, verify
from flairsearch.store.writer import Writer

if TYPE_CHECKING:
    from flairsearch.core.query import Query
    from flairsearch.indexing.pipeline import EncoderCalls
    from flairsearch.model.encoder import Encoder
    from flairsearch.model.text_encoder import TextEncoder
    from flairsearch.search.searcher import Searcher
    from flairsearch.shortlist.prompt_banks import PromptBanks


_T = TypeVar("_T")
ATTEMPTS = 20  # at an answer from one state, while others write


class Engine:
    """Make one with `Engine.open`. Heavy libraries are imported when the first photo or query needs them."""

    def __init__(
        self,
        folder: Path,
        settings: IndexSettings,
        model: str | Path,
        device: str,
        *,
        limits: WriteLimits = WRITE_LIMITS,
        policy: SearchPolicy = DEFAULT_POLICY,
    ) -> None:
        """limits, policy: thresholds of writing and of searches, which tests make small."""
        self.folder, self.settings, self._limits, self._policy = folder, settings, limits, policy
        self._model = ModelSource(folder, settings, model, device)
        self._catalog = Catalog(folder)
        self._opened: Searcher | None = None
        self.in_scope = 0  # The number of views that the last search was about.
        self.reranked: list[int] = []  # How many of them each text of the last search ranked exactly.
        self.passed_over: list[int] = []  # Photos that may meet its conditions, and were not looked at.
        self.clock = StageTimer()  # The times of the parts of all searches.

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
        """Open an index by name or folder; make an empty one when there is none and `create`.

        Raises StoreError when there is no such index, or it was made with other weights or another view policy;
        WeightsError when the model cannot be had (without `model`, not before it is needed).
        """
        folder = index_folder(index)
        check_device(device)
        settings, known = open_index(folder, model, views, codec, create)
        return Engine(folder, settings, known, device)

    # -- write

    def add(self, folders: str | Path | Sequence[str | Path] = (), exclude: Sequence[str] = ()) -> IndexReport:
        """Index folders, or rescan all known ones; unchanged files are not read again."""
        report = IndexReport()
        for step in self.adding(folders, exclude):
            if isinstance(step, IndexReport):
                report = step
        return report

    def adding(
        self, folders: str | Path | Sequence[str | Path] = (), exclude: Sequence[str] = ()
    ) -> Iterator[Progress | IndexReport]:
        """`add`, step by step: Progress after every file, the Report at the end."""
        from flairsearch.indexing.pipeline import ingest

        several = [folders] if isinstance(folders, str | Path) else folders
        with self._writing() as writer:
            yield from ingest(
                writer, [os.fspath(folder) for folder in several], self._encoder_calls(), exclude, self._limits.ingest
            )

    def forget(self, path: str | Path) -> int:
        """Remove an image, or all images below a folder; the photos stay. Returns how many."""
        absolute = os.path.abspath(os.path.expanduser(path))
        with self._writing() as writer:
            return forget(writer, absolute)

    def compact(self, codec: str | None = None) -> Iterator[tuple[int, int]]:
        """Give back the room of photos that are gone and, with `codec`, write all views in it.

        Yields (views done, views in all). Raises StoreError when there is no such codec.
        """
        settings = replace(self.settings, codec=check_codec(codec or self.settings.codec))
        with self._writing(settings) as writer:
            prepare_codec(writer, codec is not None, lambda: self.encoder.token_metric)
            self.settings = settings
            yield from writer.compact()

    def refit(self) -> Iterator[tuple[int, int]]:
        """Make the fitted vectors anew, from the stored tokens: (views done, views in all)."""
        from flairsearch.shortlist.build import refit_views

        with self._writing() as writer:
            yield from refit_views(writer.reader(), self._make_bank)

    def verify(self) -> Iterator[tuple[int, int, list[Damage]]]:
        """Compare every stored byte with its checksum: (views done, views in all, damaged ones), piece by piece.

        Of the files that can be made again, damaged ones are removed.
        """
        drop_damaged(self.folder / "prefilter")
        yield from verify(Snapshot(self.folder, self.settings, self._catalog), self._catalog, self._limits.store)

    def repair(self, damage: Sequence[Damage]) -> list[Damage]:
        """Encode damaged views again from their photos. Returns those whose photo is gone or has changed."""
        from flairsearch.indexing.repair import repair

        with self._writing() as writer:
            return list(repair(writer, damage, self._encoder_calls().encode, self._limits.ingest))

    def move_root(self, old: str | Path, new: str | Path) -> None:
        """The same photos are in another folder now (a disk that moved); nothing is encoded again.

        Raises UsageError when there is no folder `new`, StoreError when `old` is not one of the index.
        """
        check_move(old, new)
        with self._writing() as writer:
            writer.catalog.move_root(*(os.path.abspath(os.path.expanduser(path)) for path in (old, new)))

    def _writing(self, settings: IndexSettings | None = None) -> AbstractContextManager[Writer]:
        return writing(self.folder, settings or self.settings, self._limits.store)

    def _encoder_calls(self) -> EncoderCalls:
        """What indexing asks of the model, which is loaded when it is first asked."""
        from flairsearch.indexing.pipeline import EncoderCalls

        return EncoderCalls.of(self, self._make_bank)

    @property
    def _make_bank(self) -> PromptBanks:
        from flairsearch.shortlist.prompt_banks import PromptBanks

        return PromptBanks(self, self._policy.exhaustive_views)

    # -- read

    def search(
        self,
        what: str | Query,
        k: int = 10,
        shortlist: str | int = "auto",
        min_score: float | None = None,
        scope: Filter | None = None,
        offset: int = 0,
    ) -> list[Hit]:
        """The k photos that answer a text best, each with its regions.

        `what`: a text, or more: `EncodedText.of(["white puppy", "black ears"], without="leash", at="left")`.
        `shortlist`: how many views the prefilter hands to the exact ranking: "auto", "all" or a number.
        `scope`: which photos are looked at: `Filter.of(under="photos/2024", since="2024-05", ext="jpg")`.
        `offset`: how many of the best are left out: the next page of k hits; their ranks go on from there.
        Raises UsageError when the text is empty or the scope's folder holds no indexed photo, PictureError when a
        picture of the query cannot be read, StoreError when the index is damaged.
        """
        return self.search_many([what], k, shortlist, min_score, scope, offset)[0]

    def search_many(
        self,
        several: Sequence[str | Query],
        k: int = 10,
        shortlist: str | int = "auto",
        min_score: float | None = None,
        scope: Filter | None = None,
        offset: int = 0,
    ) -> list[list[Hit]]:
        """`search` for each query, in less time than one by one: they are encoded, and tokens read, together."""
        asked = self._ask(several)
        return self._of_one_state(lambda searcher: searcher.search_many(asked, k, shortlist, min_score, scope, offset))

    def path_of(self, image: int) -> str | None:
        """Where an image is, absolute; None when the index has no such id."""
        return self._catalog.path_of(image)

    def show(self, image: str | Path | int, what: str | Query) -> Hit:
        """Where one indexed photo, or the image of that id, shows what a query speaks of.

        Conditions of the query do not matter. Raises UsageError when the photo is not in the index.
        """
        path = self.path_of(image) if isinstance(image, int) else image
        if path is None:
            raise UsageError(f"no image {image} in the index")
        absolute = os.path.abspath(os.path.expanduser(path))
        (asked,) = self._ask([what])
        phrases = EncodedQuery(asked.phrases, asked.weights)
        hit = self._of_one_state(lambda searcher: searcher.show(absolute, phrases))
        if hit is None:
            raise UsageError(f"{absolute} is not in the index - run flairsearch index on its folder")
        return hit

    def damage(self) -> list[str]:
        """One line for each segment that cannot be searched because its file is missing or cut."""
        return self._searcher().reader.damage

    def warnings(self, query: int = 0) -> list[str]:
        """One line each: what of the index, or of the last search's n-th query, nobody looked at."""
        from flairsearch.search.hits import passed_over

        return [*self.damage(), *passed_over(self.passed_over[query])]

    def unseen_words(self, *texts: str) -> list[str]:
        """The words of texts, each once, that the model was never trained on: what it makes of them is a guess."""
        return list(dict.fromkeys(word for text in texts for word in self.texts.unseen_words(text)))

    def _of_one_state(self, ask: Callable[[Searcher], _T]) -> _T:
        """Ask the newest state; ask again when another process committed meanwhile, as paths are looked up last."""
        for _ in range(ATTEMPTS):
            with self.clock.part("open"):
                searcher = self._searcher()
            searcher.clock = self.clock
            answer = ask(searcher)
            self.in_scope, self.reranked = searcher.in_scope, searcher.reranked
            self.passed_over = searcher.passed_over
            if self._catalog.generation() == searcher.reader.generation:
                return answer
        return answer

    def _ask(self, several: Sequence[str | Query]) -> list[EncodedQuery]:
        from flairsearch.search.query_encoder import fold

        with self.clock.part("encode"):
            size = self.settings.image_size
            # The encoder, and torch with it, is loaded when a query has pictures.
            return fold(several, self.texts, lambda *some: self.encoder.encode_examples(*some), size)

    def status(self) -> Status:
        """What the index holds."""
        return status_of(self.folder, self.settings, self._catalog)

    @cached_property
    def encoder(self) -> Encoder:
        """Of pictures, and of thousands of texts; the model is loaded in torch."""
        return self._model.encoder()

    @cached_property
    def texts(self) -> TextEncoder:
        """Of a query's texts; torch is not imported."""
        return self._model.texts()

    @cached_property
    def device(self) -> str:
        """Where queries are ranked. Without a GPU nobody asks torch."""
        return self._model.device_without_torch() or self.encoder.device

    def _searcher(self) -> Searcher:
        """The searcher of the newest committed state; another process may have written since."""
        from flairsearch.search.searcher import Searcher

        if self._opened is None or self._opened.reader.generation != self._catalog.generation():
            reader = Snapshot(self.folder, self.settings, self._catalog)
            self._opened = Searcher(reader, self._catalog, self.texts.pool_weights, self.device, self._policy)
        return self._opened

    def close(self) -> None:
        """Close the catalogue; the engine is not used afterwards."""
        self._catalog.close()
        self._opened = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
