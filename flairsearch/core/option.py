"""Option: the one description of an option of a search, kept with the dataclass field that holds its value.

Fields of Query and ImageExample (core/query.py), Filter and SearchRequest have an `Option` in their metadata. From
these the command line derives its options, HTTP its parameters, and a query to a server its URL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

_KEY = "option"  # The key of an Option in the metadata of a dataclass field.


@dataclass(frozen=True)
class Option:
    """One option of a search: its meaning and its values."""

    help: str
    """What the option does, for --help and the HTTP schema."""
    kind: type = str
    """The type of one value: str, int or float."""
    many: bool = False
    """Whether the option may be given several times."""
    metavar: str | None = None
    """The name of the value in --help."""
    choices: Sequence[str] = ()
    """The only possible values, if there are any."""
    least: float | None = None
    """The smallest number that HTTP accepts."""
    most: float | None = None
    """The largest number that HTTP accepts."""
    max_length: int = 100
    """The largest number of characters in a text that HTTP accepts."""
    max_count: int = 8
    """The largest number of values that HTTP accepts."""
    name: str | None = None
    """The option's name, if it is not the field's name."""
    http_name: str | None = None
    """The name over HTTP, if it is not the option's name."""


def option(default: Any, description: str, **more: Any) -> Any:
    """Return a dataclass field that is an option of a search. more: the other fields of Option."""
    return field(default=default, metadata={_KEY: Option(description, **more)})


def options_of(*records: type) -> dict[str, tuple[Option, Any]]:
    """Return the options in the fields of dataclasses, by name, each with its default."""
    options: dict[str, tuple[Option, Any]] = {}
    for record in records:
        for record_field in fields(record):
            if found := record_field.metadata.get(_KEY):
                options[found.name or record_field.name] = (found, record_field.default)
    return options


def as_tuple(texts: str | Sequence[str]) -> tuple[str, ...]:
    """Return one text or several texts as a tuple."""
    return (texts,) if isinstance(texts, str) else tuple(texts)
