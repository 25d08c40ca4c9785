"""What brings a catalogue of an older format up to date; each step has a test on a catalogue of its time."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from flairsearch.core.settings import FORMAT_VERSION


def migrate(connection: sqlite3.Connection, found: int) -> None:
    """From the format that was found to today's; within one transaction."""
    for number in range(found, FORMAT_VERSION):
        _STEPS[number](connection)
    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")


def _number_the_format(_: sqlite3.Connection) -> None:
    """Format 2 keeps its number in the catalogue too, which `migrate` writes."""


def _add_dates(connection: sqlite3.Connection) -> None:
    """Format 3 has the dates of photos."""
    connection.execute("ALTER TABLE contents ADD COLUMN taken INTEGER")


# Each step leads from a format to the next one.
_STEPS: dict[int, Callable[[sqlite3.Connection], None]] = {
    1: _number_the_format,
    2: _add_dates,
}
