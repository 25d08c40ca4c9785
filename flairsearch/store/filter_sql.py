"""Translate a filter into SQL: a condition on the images table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from flairsearch.core.dates import clock_seconds, from_clock_seconds
from flairsearch.core.filters import Filter
from flairsearch.core.limits import MAX_INTEGER


@dataclass(frozen=True)
class Condition:
    """An SQL expression, and the values of its question marks."""

    sql: str
    values: tuple[int | str, ...] = ()


def image_condition(query_filter: Filter, roots: Mapping[str, int]) -> Condition:
    """Return the condition that images within a filter meet. roots: the ids of the roots by absolute path.

    The smallest sides are not part of it, since the sides of a photo are stored with its views.
    """
    conditions: list[Condition] = []
    if query_filter.path is not None:
        conditions.append(_in_folder(query_filter.path, roots))
    if query_filter.taken_since is not None or query_filter.taken_before is not None:
        conditions.append(_dated(query_filter.taken_since, query_filter.taken_before))
    if query_filter.larger_than_bytes is not None:
        conditions.append(Condition("images.size > ?", (min(query_filter.larger_than_bytes, MAX_INTEGER),)))
    if query_filter.extensions:  # LIKE ignores case, and extensions contain none of its wildcards.
        conditions.append(
            _any(Condition("images.path LIKE ?", (f"%.{extension}",)) for extension in query_filter.extensions)
        )
    return _all(conditions)


def _all(conditions: Iterable[Condition]) -> Condition:
    return _joined(conditions, " AND ", "1")


def _any(conditions: Iterable[Condition]) -> Condition:
    return _joined(conditions, " OR ", "0")


def _joined(conditions: Iterable[Condition], operator: str, default: str) -> Condition:
    """Join conditions with an operator. default: the SQL if there are no conditions."""
    parts = list(conditions)
    sql = operator.join(f"({part.sql})" for part in parts)
    return Condition(sql or default, tuple(chain.from_iterable(part.values for part in parts)))


def _in_folder(folder: str, roots: Mapping[str, int]) -> Condition:
    """Return the condition that an image lies below a folder, which may contain roots or lie inside one."""
    prefix, parts = folder.rstrip("/") + "/", []
    inside = [number for root, number in roots.items() if f"{root.rstrip('/')}/".startswith(prefix)]
    if inside:  # The ids are safe to write into SQL, and may be too many for one OR each.
        parts.append(Condition(f"images.root IN ({', '.join(map(str, inside))})"))
    for root, number in roots.items():
        base = root.rstrip("/") + "/"
        if prefix.startswith(base) and prefix != base:
            # Paths that begin with a folder are a range of the index on (root, path).
            below = prefix.removeprefix(base)
            after = below[:-1] + chr(ord("/") + 1)
            parts.append(Condition("images.root = ? AND images.path >= ? AND images.path < ?", (number, below, after)))
    return _any(parts)


def _dated(since: datetime | None, before: datetime | None) -> Condition:
    """Return the condition that the date from the camera or, without one, the file's time lies in a period.

    SQLite looks up the content of each image by its key. An index of dates would be slower except for short periods:
    "since 2016" matches most photos, and each match would be one random access.
    """
    taken, saved = [Condition("taken IS NOT NULL")], [Condition("taken IS NULL")]
    if since is not None:
        taken.append(Condition("taken >= ?", (clock_seconds(since),)))
        saved.append(Condition("images.mtime_ns >= ?", (_nanoseconds(since),)))
    if before is not None:
        taken.append(Condition("taken < ?", (clock_seconds(before),)))
        saved.append(Condition("images.mtime_ns < ?", (_nanoseconds(before),)))
    either = _any((_all(taken), _all(saved)))
    sql = f"EXISTS (SELECT 1 FROM contents WHERE contents.id = images.content AND ({either.sql}))"
    return Condition(sql, either.values)


def date_of(taken: int | None, mtime_ns: int) -> datetime | None:
    """Return the date that `_dated` compares, in local time; None if a calendar cannot express it."""
    try:
        return datetime.fromtimestamp(mtime_ns // 10**9) if taken is None else from_clock_seconds(taken)
    except (ValueError, OverflowError, OSError):
        return None


def _nanoseconds(moment: datetime) -> int:
    """Return a local time in nanoseconds since 1970, UTC, limited to the integers of SQLite."""
    try:
        seconds = int(moment.timestamp())
    except (ValueError, OverflowError, OSError):  # The date is so far away that the time zone does not matter.
        seconds = clock_seconds(moment)
    return max(-MAX_INTEGER, min(seconds * 10**9, MAX_INTEGER))
