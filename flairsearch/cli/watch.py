"""`flairsearch index --watch`: index again whenever photos change. The writer's lock is held during a run only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from flairsearch.core.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from flairsearch.core.reports import IndexReport
    from flairsearch.engine import Engine

RETRY_SECONDS = 5.0  # A failed run is repeated after this time; another process may hold the lock.
ROOTS_CHECK_SECONDS = 60.0  # The index's folders are read again after this time; another process may add one.


@contextmanager
def ending_on_interrupt(watching: bool) -> Iterator[None]:
    """Treat Ctrl-C as the normal end of watching, not as an error."""
    try:
        yield
    except KeyboardInterrupt:
        if not watching:
            raise
        typer.echo("stopped watching; what was committed is kept", err=True)


def keep_watching(engine: Engine, first: IndexReport, run: Callable[[Engine], IndexReport], device: str) -> None:
    """Call `run` whenever something changes in the index's folders, until Ctrl-C. first: the first run's report."""
    from flairsearch.indexing.watch import watch
    from flairsearch.output.formatting import short_path

    watched = _WatchedIndex(engine, first, run, device)
    typer.echo(f"watching {', '.join(map(short_path, watched.roots()))}; Ctrl-C ends it", err=True)
    due, not_before = False, 0.0
    for changed in watch(watched.roots, str(engine.folder)):
        due = due or changed
        if due and time.monotonic() >= not_before:
            due = not watched.update()
            not_before = time.monotonic() + RETRY_SECONDS if due else 0.0


class _WatchedIndex:
    """An index, with the warnings and skipped files that were already printed."""

    def __init__(self, engine: Engine, first: IndexReport, run: Callable[[Engine], IndexReport], device: str) -> None:
        self._engine, self._run, self._device = engine, run, device
        self._settings = _settings_version(engine.folder)
        self._roots, self._roots_read = engine.status().roots, time.monotonic()
        self._warned, self._skipped = set(first.warnings), {skipped.path for skipped in first.skipped}
        self._error = ""

    def roots(self) -> tuple[str, ...]:
        """Return the folders of the index, read again at most every ROOTS_CHECK_SECONDS."""
        if time.monotonic() - self._roots_read > ROOTS_CHECK_SECONDS:
            self._read_roots()
        return self._roots

    def update(self) -> bool:
        """Run once and print the changes; False if the run failed and must be repeated. An error is printed once."""
        try:
            self._reopen()
            report = self._run(self._engine)
        except StoreError as error:
            if str(error) != self._error:
                typer.echo(f"waiting: {error}", err=True)
            self._error = str(error)
            return False
        self._error = ""
        self._read_roots()
        self._print_changes(report)
        return True

    def _read_roots(self) -> None:
        self._roots, self._roots_read = self._engine.status().roots, time.monotonic()

    def _reopen(self) -> None:
        """Open the index again if it was rebuilt or its settings changed."""
        from flairsearch.engine import Engine

        if _settings_version(self._engine.folder) != self._settings:
            folder = self._engine.folder
            engine = Engine.open(folder, device=self._device, create=False)
            self._engine.close()
            self._engine, self._settings = engine, _settings_version(folder)

    def _print_changes(self, report: IndexReport) -> None:
        """Print new warnings, newly skipped files and, if anything changed, one line about the run."""
        from flairsearch.output.formatting import short_path
        from flairsearch.output.status import to_text

        for warning in report.warnings:
            if warning not in self._warned:
                typer.echo(f"warning: {warning}", err=True)
        for skipped in report.skipped:
            # Only the path is compared, since the reason changes while a photo is copied.
            if skipped.path not in self._skipped:
                typer.echo(f"skipped: {short_path(skipped.path)}: {skipped.reason}", err=True)
        self._warned = set(report.warnings)
        self._skipped |= {skipped.path for skipped in report.skipped}
        if report.changed:
            typer.echo(f"{time.strftime('%H:%M:%S')}  {to_text(report)}", err=True)


def _settings_version(folder: Path) -> tuple[int, int] | None:
    """Return a value that changes with the settings of an index; None if they cannot be read."""
    try:
        status = (folder / "index.json").stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
