"""Opens catalog.sqlite: durable, one line for what SQLite complains of, and older formats brought up to date."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from flairsearch.errors import StoreError
from flairsearch.schema import meta
from flairsearch.settings import FORMAT_VERSION


def open_database(folder: Path, create: bool = False) -> sa.Engine:
    """The catalogue of an index, in today's format.

    Raises StoreError when it is missing, is none, is of a newer flairsearch, or is of an older one and cannot be
    written.
    """
    path = folder / "catalog.sqlite"
    if not create and not path.is_file():
        raise StoreError(f"{path} is missing - run flairsearch index --rebuild FOLDER")
    if not create:
        _refuse_newer(path, _format_in_file(path))
    writable = os.access(folder, os.W_OK) and (create or os.access(path, os.W_OK))
    # An index on read-only media has no room for SQLite's shared memory: nobody can write there, so read it as is;
    # where that memory is there already, somebody with other rights writes now.
    shared = path.with_name(f"{path.name}-shm").exists()
    mode = "rwc" if create else "rw" if writable else "ro" if shared else "ro&immutable=1"
    url = sa.URL.create("sqlite", database=f"file:{_quote(path)}?mode={mode}", query={"uri": "true"})
    engine = sa.create_engine(url, connect_args={"timeout": 30})
    sa.event.listen(engine, "connect", _configure if writable else _begin_ourselves)
    sa.event.listen(engine, "begin", _begin)
    sa.event.listen(engine, "handle_error", _one_line(path))
    if create:
        _create(engine)
    _bring_up_to_date(engine, path, writable)
    return engine


# What brings a catalogue of format N to N + 1, in one transaction. Each has a test on a catalogue of its time.
_STEPS: dict[int, Callable[[sa.Connection], None]] = {
    1: lambda connection: None,  # format 2 keeps its number in the catalogue too
    2: lambda connection: _run(connection, "ALTER TABLE contents ADD COLUMN taken INTEGER"),
}


def _run(connection: sa.Connection, *statements: str) -> None:
    for statement in statements:
        connection.exec_driver_sql(statement)


def _create(engine: sa.Engine) -> None:
    """The tables, where there are none yet."""
    with engine.begin() as connection:
        if not sa.inspect(connection).has_table("state"):
            meta.create_all(connection)
            connection.exec_driver_sql(f"PRAGMA user_version = {FORMAT_VERSION}")


def _bring_up_to_date(engine: sa.Engine, path: Path, writable: bool) -> None:
    with engine.connect() as connection:
        found = _format(connection)
    _refuse_newer(path, found)
    if found == FORMAT_VERSION:
        return
    if not writable:
        raise StoreError(
            f"{path} has format {found}, older than this flairsearch - open it once where it can be written"
        )
    with engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")  # the plain transaction that was begun; two may come here at once
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        for number in range(_format(connection), FORMAT_VERSION):
            _STEPS[number](connection)
        connection.exec_driver_sql(f"PRAGMA user_version = {FORMAT_VERSION}")
        connection.commit()


def _refuse_newer(path: Path, found: int) -> None:
    if found > FORMAT_VERSION:
        raise StoreError(f"{path} has format {found}, this flairsearch reads {FORMAT_VERSION} - update flairsearch")


def _format_in_file(path: Path) -> int:
    """The number in SQLite's header, as the file has it: a newer catalogue is not touched, not even what its log holds.

    SQLite itself has to read it: to close a file that was opened besides it takes this process's locks on the catalogue
    away (sqlite.org/howtocorrupt.html, section 2.2), and another process would then remove the log of one that writes.
    """
    try:
        with closing(sqlite3.connect(f"file:{_quote(path)}?mode=ro&immutable=1", uri=True)) as connection:
            return int(connection.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error:
        return 0


def _format(connection: sa.Connection) -> int:
    """The catalogue's format; the first one did not number it."""
    connection.exec_driver_sql("SELECT count(*) FROM state")  # is it a catalogue at all?
    return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one()) or 1


def _begin_ourselves(connection: Any, _record: object) -> None:
    """Python's driver would begin a transaction at the first change only: several reads would be several moments."""
    connection.isolation_level = None


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _one_line(path: Path) -> Callable[[sa.ExceptionContext], None]:
    """What SQLite complains of, anywhere, becomes one line."""

    def replace(context: sa.ExceptionContext) -> None:
        error = context.original_exception
        if isinstance(error, sqlite3.OperationalError):
            raise StoreError(f"{path} cannot be read or written ({error}) - check disk and permissions") from None
        if isinstance(error, sqlite3.DatabaseError):
            raise StoreError(f"{path} is damaged ({error}) - run flairsearch index --rebuild FOLDER") from None

    return replace


def _configure(connection: Any, record: object) -> None:
    """WAL: readers see whole states while one writes. FULL: a commit survives a power cut."""
    _begin_ourselves(connection, record)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _quote(path: Path) -> str:
    """A path inside an SQLite URI."""
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
