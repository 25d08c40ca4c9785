"""Migrate a catalogue of an older format; each step is tested on a catalogue of that format."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from flairsearch.core.settings import FORMAT_VERSION


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Migrate from format `version` to the current one; call it within one transaction."""
    for number in range(version, FORMAT_VERSION):
        _STEPS[number](connection)
    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")


def _number_the_format(_: sqlite3.Connection) -> None:
    """Do nothing: format 2 only adds its number to the catalogue, which `migrate` writes."""


def _add_dates(connection: sqlite3.Connection) -> None:
    """Add the dates of photos, which format 3 has."""
    connection.execute("ALTER TABLE contents ADD COLUMN taken INTEGER")


# Each step migrates from the format of its key to the next format.
_STEPS: dict[int, Callable[[sqlite3.Connection], None]] = {
    1: _number_the_format,
    2: _add_dates,
}
