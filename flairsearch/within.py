"""A scope as SQL: conditions on the images table."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa

from flairsearch.schema import contents, images
from flairsearch.scope import Scope, clock_seconds, from_clock

_FURTHEST = 2**63 - 1  # the largest number SQLite knows

Condition = sa.ColumnElement[bool]


def image_conditions(scope: Scope, roots: Mapping[str, int]) -> list[Condition]:
    """What the files of a scope have in common; roots: absolute path -> id.

    Not the sides of the picture: those are of its views.
    """
    found: list[Condition] = []
    if scope.under is not None:
        found.append(_under(scope.under, roots))
    if scope.since is not None or scope.before is not None:
        found.append(_dated(scope.since, scope.before))
    if scope.larger_than is not None:
        found.append(images.c.size > min(scope.larger_than, _FURTHEST))
    if scope.extensions:  # LIKE minds no case; an ending has no sign that means something to it
        found.append(sa.or_(*(images.c.path.like(f"%.{ending}") for ending in scope.extensions)))
    return found


def _under(folder: str, roots: Mapping[str, int]) -> Condition:
    """Whole roots inside the folder, and the part of those it is in: a range of the index on (root, path)."""
    here, parts = folder.rstrip("/") + "/", []
    for root, number in roots.items():
        base = root.rstrip("/") + "/"
        if base.startswith(here):
            parts.append(images.c.root == number)
        elif here.startswith(base):
            below = here.removeprefix(base)
            after = below[:-1] + chr(ord("/") + 1)
            parts.append(sa.and_(images.c.root == number, images.c.path >= below, images.c.path < after))
    return sa.or_(sa.false(), *parts)


def _dated(since: datetime | None, before: datetime | None) -> Condition:
    """By what the camera wrote; where it wrote nothing, by the file's time.

    One look at each image's content, by its key. An index of dates would be slower for all but the shortest times:
    "since 2016" is most of the photos, and each of them a jump.
    """
    taken: list[Condition] = [contents.c.taken.is_not(None)]
    saved: list[Condition] = [contents.c.taken.is_(None)]
    if since is not None:
        taken.append(contents.c.taken >= clock_seconds(since))
        saved.append(images.c.mtime_ns >= _nanoseconds(since))
    if before is not None:
        taken.append(contents.c.taken < clock_seconds(before))
        saved.append(images.c.mtime_ns < _nanoseconds(before))
    return sa.exists().where(contents.c.id == images.c.content, sa.or_(sa.and_(*taken), sa.and_(*saved)))


def date_of(taken: int | None, mtime_ns: int) -> datetime | None:
    """What `_dated` goes by, as local time; None for one that no calendar has."""
    try:
        return datetime.fromtimestamp(mtime_ns // 10**9) if taken is None else from_clock(taken)
    except (ValueError, OverflowError, OSError):
        return None


def _nanoseconds(moment: datetime) -> int:
    """Local time -> a file's time, as far as SQLite can count."""
    try:
        seconds = int(moment.timestamp())
    except (ValueError, OverflowError, OSError):  # so far away that the zone does not matter
        seconds = clock_seconds(moment)
    return max(-_FURTHEST, min(seconds * 10**9, _FURTHEST))
