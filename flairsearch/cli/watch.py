"""`flairsearch index --watch`: a run whenever photos change. The writer's lock is held during a run only."""

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

RETRY = 5.0  # seconds after a run that could not be made: another process writes, the disk is full
ROOTS = 60.0  # seconds after which the index is asked for its folders again


@contextmanager
def on_stop(watching: bool) -> Iterator[None]:
    """Ctrl-C is how watching ends: no error."""
    try:
        yield
    except KeyboardInterrupt:
        if not watching:
            raise
        typer.echo("stopped watching; what was committed is kept", err=True)


def keep_watching(engine: Engine, first: IndexReport, run: Callable[[Engine], IndexReport], device: str) -> None:
    """For ever: `run` whenever something changed below the index's folders. first: the report of the run before."""
    from flairsearch.indexing.watch import watch
    from flairsearch.output.formatting import short_path

    watched = _Watched(engine, first, run, device)
    typer.echo(f"watching {', '.join(map(short_path, watched.roots()))}; Ctrl-C ends it", err=True)
    due, not_before = False, 0.0
    for changed in watch(watched.roots, str(engine.folder)):
        due = due or changed
        if due and time.monotonic() >= not_before:
            due = not watched.update()
            not_before = time.monotonic() + RETRY if due else 0.0


class _Watched:
    """An index and what was said of it."""

    def __init__(self, engine: Engine, first: IndexReport, run: Callable[[Engine], IndexReport], device: str) -> None:
        self._engine, self._run, self._device = engine, run, device
        self._mark = _mark(engine.folder)
        self._roots, self._asked = engine.status().roots, time.monotonic()
        self._warned, self._skipped = set(first.warnings), {one.path for one in first.skipped}
        self._error = ""

    def roots(self) -> tuple[str, ...]:
        """The folders of the index; another process may have added one, a while ago."""
        if time.monotonic() - self._asked > ROOTS:
            self._ask_roots()
        return self._roots

    def update(self) -> bool:
        """One run, and what it changed; False when it has to be tried again, which is said once."""
        try:
            self._reopen()
            report = self._run(self._engine)
        except StoreError as error:
            if str(error) != self._error:
                typer.echo(f"waiting: {error}", err=True)
            self._error = str(error)
            return False
        self._error = ""
        self._ask_roots()
        self._tell(report)
        return True

    def _ask_roots(self) -> None:
        self._roots, self._asked = self._engine.status().roots, time.monotonic()

    def _reopen(self) -> None:
        """Where the index is another one now, rebuilt or in another codec: what is known of it does not hold."""
        from flairsearch.engine import Engine

        if _mark(self._engine.folder) != self._mark:
            folder = self._engine.folder
            fresh = Engine.open(folder, device=self._device, create=False)
            self._engine.close()
            self._engine, self._mark = fresh, _mark(folder)

    def _tell(self, report: IndexReport) -> None:
        """One line, if anything changed; and of what is wrong, what was not wrong before."""
        from flairsearch.output.formatting import short_path
        from flairsearch.output.status import to_text

        for warning in report.warnings:
            if warning not in self._warned:
                typer.echo(f"warning: {warning}", err=True)
        for skipped in report.skipped:
            if skipped.path not in self._skipped:  # what is wrong with a half-copied photo changes from run to run
                typer.echo(f"skipped: {short_path(skipped.path)}: {skipped.reason}", err=True)
        self._warned = set(report.warnings)
        self._skipped |= {one.path for one in report.skipped}
        if report.changed:
            typer.echo(f"{time.strftime('%H:%M:%S')}  {to_text(report)}", err=True)


def _mark(folder: Path) -> tuple[int, int] | None:
    """What changes with the settings of an index."""
    try:
        found = (folder / "index.json").stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
