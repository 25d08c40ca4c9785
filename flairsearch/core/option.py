"""How the options of a search are written down, once: each beside the field that holds it.

The fields of core/query.Query, core/filters.Filter and core/request.SearchRequest carry an `Option`. From these the
command line derives its options, HTTP its parameters and their schema, and a query sent to a server its URL.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from flairsearch.core.errors import UsageError

_KEY = "option"  # The key of an Option in the metadata of a dataclass field.


@dataclass(frozen=True)
class Option:
    """One option of a search: what it means, and which values it takes."""

    help: str
    kind: type = str
    """The type of one value: str, int or float."""
    many: bool = False
    """Whether the option may be given several times."""
    metavar: str | None = None
    """What stands for the value in --help."""
    choices: Sequence[str] = ()
    least: float | None = None
    most: float | None = None
    """The bounds of a number that comes over HTTP."""
    max_length: int = 100
    """The longest text that comes over HTTP, in letters."""
    max_count: int = 8
    """The largest number of values that come over HTTP."""
    name: str | None = None
    """The option's name, where it is not the field's."""
    http_name: str | None = None
    """The name over HTTP, where it is not the option's."""


def option(default: Any, description: str, **more: Any) -> Any:
    """A dataclass field that is an option of a search. more: the other fields of Option."""
    return field(default=default, metadata={_KEY: Option(description, **more)})


def options_of(*records: type) -> dict[str, tuple[Option, Any]]:
    """The options that dataclasses have, by name, each with its default."""
    found: dict[str, tuple[Option, Any]] = {}
    for record in records:
        for one in fields(record):
            if chosen := one.metadata.get(_KEY):
                found[chosen.name or one.name] = (chosen, one.default)
    return found


def as_tuple(given: str | Sequence[str]) -> tuple[str, ...]:
    """One text, or several, as a tuple."""
    return (given,) if isinstance(given, str) else tuple(given)


def short_repr(given: object) -> str:
    """A value as an error names it: on one line, and not all of a long one."""
    text = " ".join(repr(given).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def check_text(given: object, parameter: str, advice: str) -> str:
    """A plain text. Raises UsageError on a value of another type."""
    if not isinstance(given, str):
        raise UsageError(f"{short_repr(given)} is no text - {advice}", parameter)
    return str(given)


def check_texts(given: object, parameter: str) -> tuple[str, ...]:
    """One text, or several, as a tuple of plain texts. Raises UsageError on a value of another type."""
    try:
        texts: tuple[object, ...] = (given,) if isinstance(given, str) else tuple(given)  # type: ignore[arg-type]
    except TypeError:
        texts = (given,)
    if not all(isinstance(text, str) for text in texts):
        raise UsageError(f"{short_repr(given)} is no text - give one, or a list of texts", parameter)
    return tuple(map(str, texts))


def check_count(given: object, parameter: str) -> int:
    """A whole number, of numpy's types too. Raises UsageError on a value of another type."""
    try:
        if isinstance(given, bool):
            raise TypeError
        return operator.index(given)  # type: ignore[arg-type]
    except TypeError:
        raise UsageError(f"{short_repr(given)} is no whole number - give one like 10", parameter) from None


def as_number(given: object) -> float:
    """A number, of numpy's types too; NaN for anything else."""
    try:
        return math.nan if isinstance(given, bool | str | bytes) else float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan
