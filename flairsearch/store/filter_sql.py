"""A filter as SQL: a condition on the images table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from flairsearch.core.dates import clock_seconds, from_clock_seconds
from flairsearch.core.filters import Filter

_MAX_INTEGER = 2**63 - 1  # The largest integer of SQLite.


@dataclass(frozen=True)
class Condition:
    """A piece of SQL, and a value for each ? in it."""

    sql: str
    values: tuple[int | str, ...] = ()


def image_condition(query_filter: Filter, roots: Mapping[str, int]) -> Condition:
    """What the files within a filter have in common; roots: absolute path -> id.

    The smallest sides are no condition on images: the sides of the upright photo are those of its views.
    """
    found: list[Condition] = []
    if query_filter.path is not None:
        found.append(_in_folder(query_filter.path, roots))
    if query_filter.taken_since is not None or query_filter.taken_before is not None:
        found.append(_dated(query_filter.taken_since, query_filter.taken_before))
    if query_filter.larger_than_bytes is not None:
        found.append(Condition("images.size > ?", (min(query_filter.larger_than_bytes, _MAX_INTEGER),)))
    if query_filter.extensions:  # LIKE ignores case, and an ending has no character that means something to it.
        found.append(_any(Condition("images.path LIKE ?", (f"%.{ending}",)) for ending in query_filter.extensions))
    return _all(found)


def _all(conditions: Iterable[Condition]) -> Condition:
    return _joined(conditions, " AND ", "1")


def _any(conditions: Iterable[Condition]) -> Condition:
    return _joined(conditions, " OR ", "0")


def _joined(conditions: Iterable[Condition], word: str, none: str) -> Condition:
    several = list(conditions)
    sql = word.join(f"({one.sql})" for one in several)
    return Condition(sql or none, tuple(chain.from_iterable(one.values for one in several)))


def _in_folder(folder: str, roots: Mapping[str, int]) -> Condition:
    """Whole roots inside the folder, and the part of those it is in: a range of the index on (root, path)."""
    here, parts = folder.rstrip("/") + "/", []
    inside = [number for root, number in roots.items() if f"{root.rstrip('/')}/".startswith(here)]
    if inside:  # These are our own numbers, and may be too many for an OR each.
        parts.append(Condition(f"images.root IN ({', '.join(map(str, inside))})"))
    for root, number in roots.items():
        base = root.rstrip("/") + "/"
        if here.startswith(base) and here != base:
            below = here.removeprefix(base)
            after = below[:-1] + chr(ord("/") + 1)
            parts.append(Condition("images.root = ? AND images.path >= ? AND images.path < ?", (number, below, after)))
    return _any(parts)


def _dated(since: datetime | None, before: datetime | None) -> Condition:
    """By what the camera wrote; where it wrote nothing, by the file's time.

    One look at each image's content, by its key. An index of dates would be slower for all but the shortest times:
    "since 2016" is most of the photos, and each of them a jump.
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
    """What `_dated` goes by, as local time; None for one that no calendar has."""
    try:
        return datetime.fromtimestamp(mtime_ns // 10**9) if taken is None else from_clock_seconds(taken)
    except (ValueError, OverflowError, OSError):
        return None


def _nanoseconds(moment: datetime) -> int:
    """Local time -> a file's time, as far as SQLite can count."""
    try:
        seconds = int(moment.timestamp())
    except (ValueError, OverflowError, OSError):  # The date is so far away that the time zone does not matter.
        seconds = clock_seconds(moment)
    return max(-_MAX_INTEGER, min(seconds * 10**9, _MAX_INTEGER))
