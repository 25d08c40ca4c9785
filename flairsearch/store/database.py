"""Database: transactions on catalog.sqlite. Commits are durable, and SQLite's errors become StoreError."""

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

_MAX_VALUES = 500  # One statement has at most this many values in its IN; SQLite limits them.
LOCK_SECONDS = 30.0  # A transaction waits at most this time for another process's lock.


class Database:
    """Transactions on the catalogue of an index; threads may share it. Connections are kept and reused."""

    def __init__(self, folder: Path, create: bool = False) -> None:
        """Open the catalogue, and update it to the current format; with `create`, make it if there is none.

        Raises StoreError when it is missing, damaged or of a newer format, or of an older format and read-only.
        """
        self._path = path = folder / "catalog.sqlite"
        self._free: deque[sqlite3.Connection] = deque()
        self._closed = False
        if not create and not path.is_file():
            raise StoreError(f"{path} is missing - run flairsearch index --rebuild FOLDER")
        if not create:
            _refuse_newer(path, _format_in_file(path))
        self._writable = os.access(folder, os.W_OK) and (create or os.access(path, os.W_OK))
        # On read-only media SQLite cannot make its -shm file. As no process can write there, the catalogue is opened as
        # immutable. If the -shm file exists, another user may be writing now, and SQLite must use it.
        has_shm = path.with_name(f"{path.name}-shm").exists()
        mode = "rwc" if create else "rw" if self._writable else "ro" if has_shm else "ro&immutable=1"
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
        """Yield a connection for one transaction, in which all reads see the same state. Raises StoreError."""
        with self._transaction("BEGIN", "ROLLBACK") as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection for one transaction, which is committed at the end or, after an error, undone.

        Raises StoreError.
        """
        with self._transaction("BEGIN IMMEDIATE", "COMMIT") as connection:
            yield connection

    def close(self) -> None:
        """Close the unused connections; one in use is closed after its transaction."""
        self._closed = True
        with suppress(IndexError):
            while True:
                self._free.pop().close()

    @contextmanager
    def _transaction(self, begin: str, end: str) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._take_connection()
            try:
                connection.execute(begin)
                yield connection
                connection.execute(end)
            finally:
                self._return_connection(connection)
        except sqlite3.OperationalError as error:
            raise StoreError(f"{self._path} cannot be read or written ({error}) - check disk and permissions") from None
        except (
            sqlite3.DatabaseError,
            UnicodeDecodeError,
        ) as error:  # An error may quote bytes of a damaged file that are not UTF-8.
            raise StoreError(f"{self._path} is damaged ({error}) - run flairsearch index --rebuild FOLDER") from None

    def _take_connection(self) -> sqlite3.Connection:
        with suppress(IndexError):
            return self._free.pop()
        # Every transaction is begun explicitly. The driver would begin one only at the first change, so that two reads
        # could see different states.
        connection = sqlite3.connect(
            self._address, uri=True, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            if self._writable:
                # WAL lets readers see complete states beside a writer; FULL lets a commit survive a power cut.
                settings = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
                _run(connection, *(f"PRAGMA {setting}" for setting in settings))
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _return_connection(self, connection: sqlite3.Connection) -> None:
        """Keep a connection for the next transaction; roll back the last one if it failed."""
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
        """Create the tables if there are none yet."""
        with self.write() as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'state'").fetchone():
                _run(connection, *TABLES, f"PRAGMA user_version = {FORMAT_VERSION}")

    def _bring_up_to_date(self) -> None:
        """Migrate the catalogue to the current format. Raises StoreError when that is impossible."""
        with self.read() as connection:
            version = _format(connection)
        _refuse_newer(self._path, version)
        if version < 1:
            raise StoreError(f"{self._path} is damaged (format {version}) - run flairsearch index --rebuild FOLDER")
        if version == FORMAT_VERSION:
            return
        if not self._writable:
            raise StoreError(
                f"{self._path} has format {version}, older than this flairsearch - open it once where it can be written"
            )
        with self.write() as connection:  # Another process may migrate at the same time.
            migrate(connection, _format(connection))


def _run(connection: sqlite3.Connection, *statements: str) -> None:
    for statement in statements:
        connection.execute(statement)


def _refuse_newer(path: Path, version: int) -> None:
    if version > FORMAT_VERSION:
        raise StoreError(f"{path} has format {version}, this flairsearch reads {FORMAT_VERSION} - update flairsearch")


def _format_in_file(path: Path) -> int:
    """Return the format number in the header of the file, without applying its log; 0 if it cannot be read.

    This way a catalogue of a newer format is not changed at all. SQLite itself must read the file: if this process
    opened and closed it in another way, that would drop the process's locks on it
    (sqlite.org/howtocorrupt.html, section 2.2), and another process could remove the log of an active writer.
    """
    try:
        with closing(sqlite3.connect(f"file:{_quote(path)}?mode=ro&immutable=1", uri=True)) as connection:
            return int(connection.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error:
        return 0


def _format(connection: sqlite3.Connection) -> int:
    """Return the format of the catalogue; catalogues of format 1 contain no number."""
    connection.execute("SELECT count(*) FROM state")  # This fails where the file is no catalogue.
    return int(connection.execute("PRAGMA user_version").fetchone()[0]) or 1


def _quote(path: Path) -> str:
    """Return a path as SQLite expects it in a URI."""
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def select_in(
    connection: sqlite3.Connection, query: str, keys: Sequence[object], parameters: Sequence[object] = ()
) -> Iterator[Any]:
    """Yield the rows of a query that ends with IN, for all keys; the query is run for _MAX_VALUES keys at a time.

    parameters: the values of the ? before IN.
    """
    for part in chunks(keys, _MAX_VALUES):
        yield from connection.execute(f"{query} ({marks(len(part))})", (*parameters, *part))


def marks(count: int) -> str:
    """Return `count` question marks, which stand for values in a statement."""
    return ", ".join("?" * count)
