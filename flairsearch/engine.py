"""Engine: one index and one model behind open / add / search / show / forget / status / close. No logic of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flairsearch import weights
from flairsearch.agreement import check_weights, create_index, new_settings, open_settings, undo_replacement
from flairsearch.cache import drop_damaged
from flairsearch.catalog import Catalog
from flairsearch.clock import Clock
from flairsearch.codec import check_codec, needs_basis
from flairsearch.errors import StoreError, UsageError
from flairsearch.limits import INGEST_LIMITS, STORE_LIMITS, IngestLimits, StoreLimits
from flairsearch.paths import index_folder
from flairsearch.reader import Reader
from flairsearch.records import Asked, Hit, Picture, Query
from flairsearch.reports import Progress, Report, Status
from flairsearch.scope import Scope, is_text
from flairsearch.settings import IndexSettings, check_device, check_views, may_have_gpu
from flairsearch.store import Writer
from flairsearch.verify import Damage, verify

if TYPE_CHECKING:
    import numpy as np

    from flairsearch.encode import Encoder
    from flairsearch.ingest import EncoderCalls
    from flairsearch.query import Searcher
    from flairsearch.rerank_many import ManyTexts
    from flairsearch.terms import Terms
    from flairsearch.text import TextEncoder


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
        store_limits: StoreLimits = STORE_LIMITS,
        ingest_limits: IngestLimits = INGEST_LIMITS,
    ) -> None:
        self.folder, self.settings = folder, settings
        self._store_limits, self._ingest_limits = store_limits, ingest_limits
        self._model, self._device = model, device
        self._catalog = Catalog(folder)
        self._opened: Searcher | None = None
        self.in_scope = 0  # views that the last search was about,
        self.reranked: list[int] = []  # and how many of them it ranked exactly, for each of its texts
        self.passed_over: list[int] = []  # photos that may fulfil its conditions, and were not looked at
        self.clock = Clock()  # of the parts of all its searches

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
        undo_replacement(folder)
        if create and not (folder / "index.json").exists():
            fresh = new_settings(weights.find(model or weights.default_name()), views, codec)
            try:
                create_index(folder, fresh)
            except OSError as error:
                raise StoreError(
                    f"{folder} cannot be made ({error.strerror or error}) - give another place: --index FOLDER"
                ) from None
        settings = open_settings(folder)
        if model is not None:
            file = weights.find(model)
            check_weights(folder, settings, file)
            model = file.path
        if views is not None and check_views(views) != settings.views:
            raise StoreError(
                f"{folder} was made with --views {settings.views}, asked for {views} - run flairsearch index --rebuild"
            )
        if codec is not None and check_codec(codec) != settings.codec:
            raise StoreError(
                f"{folder} was made with --codec {settings.codec}, asked for {codec} - "
                f"run flairsearch compact --codec {codec}"
            )
        return Engine(folder, settings, model or settings.model, device)

    # -- write

    def add(self, folders: str | Path | Sequence[str | Path] = (), exclude: Sequence[str] = ()) -> Report:
        """Index folders, or rescan all known ones; unchanged files are not read again."""
        report = Report()
        for step in self.adding(folders, exclude):
            if isinstance(step, Report):
                report = step
        return report

    def adding(
        self, folders: str | Path | Sequence[str | Path] = (), exclude: Sequence[str] = ()
    ) -> Iterator[Progress | Report]:
        """`add`, step by step: Progress after every file, the Report at the end."""
        from flairsearch.ingest import ingest

        several = [folders] if isinstance(folders, str | Path) else folders
        with self._writing() as writer:
            yield from ingest(
                writer, [os.fspath(folder) for folder in several], self._encoder_calls(), exclude, self._ingest_limits
            )

    def forget(self, path: str | Path) -> int:
        """Remove an image, or all images below a folder; the photos stay. Returns how many."""
        absolute = os.path.abspath(os.path.expanduser(path))
        with self._writing() as writer:
            images = writer.catalog.images_below(absolute)
            known = absolute in writer.catalog.roots()
            if not images and not known:
                raise UsageError(f"{absolute} is not in the index - see 'flairsearch status' for its folders")
            writer.remove_images(images)
            writer.commit()
            if known:
                writer.catalog.remove_root(absolute)
            return len(images)

    def compact(self, codec: str | None = None) -> Iterator[tuple[int, int]]:
        """Give back the room of photos that are gone and, with `codec`, write all views in it.

        Yields (views done, views in all). Raises StoreError when there is no such codec.
        """
        settings = replace(self.settings, codec=check_codec(codec or self.settings.codec))
        with self._writing(settings) as writer:
            asked = needs_basis(settings.codec) and codec is not None and not writer.has_basis
            metric = self.encoder.token_metric if writer.wants_basis or (asked and writer.catalog.counts()[1]) else None
            if codec is not None:
                settings.save(self.folder)
                self.settings = settings
            if metric is not None:
                writer.fit(metric)
            yield from writer.compact()

    def refit(self) -> Iterator[tuple[int, int]]:
        """Make the fitted vectors anew, from the stored tokens: (views done, views in all)."""
        from flairsearch.fitted import Fitted
        from flairsearch.fitting import fit_views

        with self._writing() as writer:
            Fitted(self.folder, self.settings.dim).remove()
            reader = writer.reader()
            for done in fit_views(reader, self._make_bank):
                yield done, len(reader)

    def verify(self) -> Iterator[tuple[int, int, list[Damage]]]:
        """Compare every stored byte with its checksum: (views done, views in all, damaged ones), piece by piece.

        Of the files that can be made again, damaged ones are removed.
        """
        drop_damaged(self.folder / "prefilter")
        yield from verify(Reader(self.folder, self.settings, self._catalog), self._catalog, self._store_limits)

    def repair(self, damage: Sequence[Damage]) -> list[Damage]:
        """Encode damaged views again from their photos. Returns those whose photo is gone or has changed."""
        from flairsearch.repair import repair

        with self._writing() as writer:
            return list(repair(writer, damage, self._encoder_calls().encode, self._ingest_limits))

    def move_root(self, old: str | Path, new: str | Path) -> None:
        """The same photos are in another folder now (a disk that moved); nothing is encoded again.

        Raises UsageError when there is no folder `new`, StoreError when `old` is not one of the index.
        """
        if not os.path.isdir(os.path.expanduser(new)):
            raise UsageError(f"{new} is not there - give the folder where the photos are now")
        if not (is_text(os.fspath(old)) and is_text(os.fspath(new))):
            raise UsageError(f"{os.fspath(new)!a} is no UTF-8 - rename the folder")
        with self._writing() as writer:
            writer.catalog.move_root(*(os.path.abspath(os.path.expanduser(path)) for path in (old, new)))

    @contextmanager
    def _writing(self, settings: IndexSettings | None = None) -> Iterator[Writer]:
        """The writer, and one line for a disk that is full or read-only."""
        writer = Writer(self.folder, settings or self.settings, self._store_limits)
        try:
            yield writer
        except OSError as error:
            raise StoreError(
                f"{self.folder} cannot be written ({error.strerror or error}) - free space or check permissions, "
                "then run it again: what was committed is kept"
            ) from error
        finally:
            writer.close()

    def _encoder_calls(self) -> EncoderCalls:
        """What indexing asks of the model, which is loaded when it is first asked."""
        from flairsearch.ingest import EncoderCalls

        return EncoderCalls(
            lambda pictures: self.encoder.encode_pictures(pictures), lambda: self.encoder.token_metric, self._make_bank
        )

    def _make_bank(self, vectors: np.ndarray | None) -> ManyTexts:
        from flairsearch.rerank_many import ManyTexts

        queries = self.encoder.bank() if vectors is None else self.encoder.fold(vectors)
        return ManyTexts(queries, self.encoder.pool_weights, self.encoder.device)

    # -- read

    def search(
        self,
        what: str | Terms,
        k: int = 10,
        shortlist: str | int = "auto",
        min_score: float | None = None,
        scope: Scope | None = None,
        offset: int = 0,
    ) -> list[Hit]:
        """The k photos that answer a text best, each with its regions.

        `what`: a text, or more: `Terms.of(["white puppy", "black ears"], without="leash", at="left")`.
        `shortlist`: how many views the prefilter hands to the exact ranking: "auto", "all" or a number.
        `scope`: which photos are looked at: `Scope.of(under="photos/2024", since="2024-05", ext="jpg")`.
        `offset`: how many of the best are left out: the next page of k hits; their ranks go on from there.
        Raises UsageError when the text is empty or the scope's folder holds no indexed photo, PictureError when a
        picture of the query cannot be read, StoreError when the index is damaged.
        """
        return self.search_many([what], k, shortlist, min_score, scope, offset)[0]

    def search_many(
        self,
        several: Sequence[str | Terms],
        k: int = 10,
        shortlist: str | int = "auto",
        min_score: float | None = None,
        scope: Scope | None = None,
        offset: int = 0,
    ) -> list[list[Hit]]:
        """`search` for each query, in less time than one by one: they are encoded, and tokens read, together."""
        asked = self._ask(several)
        return self._of_one_state(lambda searcher: searcher.search_many(asked, k, shortlist, min_score, scope, offset))

    def path_of(self, image: int) -> str | None:
        """Where an image is, absolute; None when the index has no such id."""
        return self._catalog.path_of(image)

    def show(self, image: str | Path | int, what: str | Terms) -> Hit:
        """Where one indexed photo, or the image of that id, shows what a query speaks of.

        Conditions of the query do not matter. Raises UsageError when the photo is not in the index.
        """
        path = self.path_of(image) if isinstance(image, int) else image
        if path is None:
            raise UsageError(f"no image {image} in the index")
        absolute = os.path.abspath(os.path.expanduser(path))
        (asked,) = self._ask([what])
        phrases = Asked(asked.phrases, asked.weights)
        hit = self._of_one_state(lambda searcher: searcher.show(absolute, phrases))
        if hit is None:
            raise UsageError(f"{absolute} is not in the index - run flairsearch index on its folder")
        return hit

    def damage(self) -> list[str]:
        """One line for each segment that cannot be searched because its file is missing or cut."""
        return self._searcher().reader.damage

    def warnings(self, query: int = 0) -> list[str]:
        """One line each: what of the index, or of the last search's n-th query, nobody looked at."""
        lines, over = [*self.damage()], self.passed_over[query]
        if over:
            lines.append(
                f"only the photos that answer best were judged by the conditions, {over:,} others were not looked at - "
                "a smaller scope reaches them"
            )
        return lines

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

    def _ask(self, several: Sequence[str | Terms]) -> list[Asked]:
        from flairsearch.asking import fold

        def look(pictures: list[Picture], names: list[str]) -> list[Query]:  # torch is imported when there are any
            return self.encoder.encode_examples(pictures, names)

        with self.clock.part("encode"):
            return fold(several, self.texts, look, self.settings.image_size)

    def status(self) -> Status:
        """What the index holds."""
        images, views = self._catalog.counts()
        s, census = self.settings, self._catalog.census
        photos, sizes = census.photos(), census.sizes()
        return Status(
            folder=str(self.folder),
            model=s.model,
            weights_hash=s.weights_hash,
            views_policy=s.views,
            codec=s.codec,
            roots=tuple(sorted(photos)),
            images=images,
            views=views,
            bytes=sum(sizes.values()),
            skipped=tuple(census.skipped()),
            photos=photos,
            sizes=sizes,
            last_run=census.last_run(),
        )

    @cached_property
    def encoder(self) -> Encoder:
        """Of pictures, and of thousands of texts; the model is loaded in torch."""
        from flairsearch.encode import Encoder

        return Encoder(str(self._weights_file), self._device)

    @cached_property
    def texts(self) -> TextEncoder:
        """Of a query's texts; torch is not imported."""
        from flairsearch.text import TextEncoder

        return TextEncoder(self._weights_file)

    @cached_property
    def _weights_file(self) -> Path:
        file = weights.find(self._model, download=False)
        check_weights(self.folder, self.settings, file)
        return file.path

    @cached_property
    def device(self) -> str:
        """Where queries are ranked. Without a GPU nobody asks torch."""
        if self._device == "cpu" or (self._device == "auto" and not may_have_gpu()):
            return "cpu"
        return self.encoder.device

    def _searcher(self) -> Searcher:
        """The searcher of the newest committed state; another process may have written since."""
        from flairsearch.query import Searcher

        if self._opened is None or self._opened.reader.generation != self._catalog.generation():
            reader = Reader(self.folder, self.settings, self._catalog)
            self._opened = Searcher(reader, self._catalog, self.texts.pool_weights, self.device)
        return self._opened

    def close(self) -> None:
        self._catalog.close()
        self._opened = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
