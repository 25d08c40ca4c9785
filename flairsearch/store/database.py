"""Opens catalog.sqlite: commits are durable, SQLite's errors become one line, and a newer format is refused."""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from flairsearch.core.arrays import chunks
from flairsearch.core.errors import StoreError
from flairsearch.core.settings import FORMAT_VERSION
from flairsearch.store.migrations import migrate
from flairsearch.store.schema import TABLES

_MAX_VALUES = 500  # SQLite takes a bounded number of values in one statement.
LOCK_SECONDS = 30.0  # A transaction waits at most this time for another process's lock.


class Database:
    """Transactions on the catalogue of an index, from any thread; connections are kept and used again."""

    def __init__(self, folder: Path, create: bool = False) -> None:
        """In today's format.

        Raises StoreError when it is missing, is none, is of a newer flairsearch, or is of an older one and cannot be
        written.
        """
        self._path = path = folder / "catalog.sqlite"
        self._free: deque[sqlite3.Connection] = deque()
        self._closed = False
        if not create and not path.is_file():
            raise StoreError(f"{path} is missing - run flairsearch index --rebuild FOLDER")
        if not create:
            _refuse_newer(path, _format_in_file(path))
        self._writable = os.access(folder, os.W_OK) and (create or os.access(path, os.W_OK))
        # An index on read-only media has no room for SQLite's shared memory, and nobody can write there: it is read as
        # it is. Where the shared memory exists already, another user may be writing now.
        shared = path.with_name(f"{path.name}-shm").exists()
        mode = "rwc" if create else "rw" if self._writable else "ro" if shared else "ro&immutable=1"
        self._address = f"file:{_quote(path)}?mode={mode}"
        try:
            if create:
                self._create()
            self._bring_up_to_date()
        except StoreError:
            self.close()
            raise

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Everything read within comes from one state. Raises StoreError."""
        with self._transaction("BEGIN", "ROLLBACK") as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Everything written within is committed at the end, or nothing is. Raises StoreError."""
        with self._transaction("BEGIN IMMEDIATE", "COMMIT") as connection:
            yield connection

    def close(self) -> None:
        """Close the free connections; one in use is closed when it is given back."""
        self._closed = True
        with suppress(IndexError):
            while True:
                self._free.pop().close()

    @contextmanager
    def _transaction(self, begin: str, end: str) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._take()
            try:
                connection.execute(begin)
                yield connection
                connection.execute(end)
            finally:
                self._give_back(connection)
        except sqlite3.OperationalError as error:
            raise StoreError(f"{self._path} cannot be read or written ({error}) - check disk and permissions") from None
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # SQLite may quote bytes of a damaged file.
            raise StoreError(f"{self._path} is damaged ({error}) - run flairsearch index --rebuild FOLDER") from None

    def _take(self) -> sqlite3.Connection:
        with suppress(IndexError):
            return self._free.pop()
        # Every transaction is begun explicitly. The driver begins one at the first change only, so that several reads
        # could see several states.
        connection = sqlite3.connect(
            self._address, uri=True, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            if (
                self._writable
            ):  # WAL lets readers see whole states beside a writer; FULL lets a commit survive a power cut.
                _run(
                    connection,
                    *(f"PRAGMA {one}" for one in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")),
                )
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _give_back(self, connection: sqlite3.Connection) -> None:
        """Keep a connection for the next transaction, after a failed one is rolled back."""
        try:
            if connection.in_transaction:
                connection.rollback()
        except sqlite3.Error:
            connection.close()
            return
        self._free.append(connection)
        if self._closed:
            self.close()

    # -- formats

    def _create(self) -> None:
        """The tables, where there are none yet."""
        with self.write() as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'state'").fetchone():
                _run(connection, *TABLES, f"PRAGMA user_version = {FORMAT_VERSION}")

    def _bring_up_to_date(self) -> None:
        with self.read() as connection:
            found = _format(connection)
        _refuse_newer(self._path, found)
        if found < 1:
            raise StoreError(f"{self._path} is damaged (format {found}) - run flairsearch index --rebuild FOLDER")
        if found == FORMAT_VERSION:
            return
        if not self._writable:
            raise StoreError(
                f"{self._path} has format {found}, older than this flairsearch - open it once where it can be written"
            )
        with self.write() as connection:  # Another process may migrate at the same time.
            migrate(connection, _format(connection))


def _run(connection: sqlite3.Connection, *statements: str) -> None:
    for statement in statements:
        connection.execute(statement)


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


def _format(connection: sqlite3.Connection) -> int:
    """The catalogue's format; the first one did not number it."""
    connection.execute("SELECT count(*) FROM state")  # This fails where the file is no catalogue.
    return int(connection.execute("PRAGMA user_version").fetchone()[0]) or 1


def _quote(path: Path) -> str:
    """A path inside an SQLite URI."""
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def select_in(
    connection: sqlite3.Connection, query: str, wanted: Sequence[object], before: Sequence[object] = ()
) -> Iterator[Any]:
    """Rows of a query that ends with IN, for all that are wanted: SQLite takes a bounded number of values at once.

    before: values of the marks before IN.
    """
    for some in chunks(wanted, _MAX_VALUES):
        yield from connection.execute(f"{query} ({marks(len(some))})", (*before, *some))


def marks(count: int) -> str:
    """The marks of a statement that stand for values."""
    return ", ".join("?" * count)
