"""Hits -> table, JSON lines; reports as lines."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flairsearch.records import Frame, Hit, Phrase, Region
from flairsearch.reports import Report, Run, Skipped, Status

if TYPE_CHECKING:  # JSON and paths need no rich
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from flairsearch.wire_answers import HitJson, RegionJson

_HIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")  # no plain letters:
# ends of lines, orders to a terminal, turns of the writing, halves of what is no UTF-8
_PHRASE = 60  # columns of a phrase in the table
_SOME = 3  # paths shown of those skipped for one reason


def to_json(hit: Hit) -> str:
    """One hit as one line of JSON: `to_dict`."""
    return escape(json.dumps(to_dict(hit), ensure_ascii=False))  # json leaves some of them


def to_dict(hit: Hit) -> HitJson:
    """One hit as JSON has it; every field is always there."""
    return {
        "rank": hit.rank,
        "id": hit.image,
        "path": hit.path,
        "score": round(hit.score, 6),
        "score_global": round(hit.score_global, 6),
        "logit": round(hit.logit, 6),
        "width_px": hit.width,
        "height_px": hit.height,
        "date": None if hit.date is None else hit.date.isoformat(timespec="seconds"),
        "regions": _regions(hit.regions),
        "phrases": [
            {"text": phrase.text, "score": round(phrase.score, 6), "regions": _regions(phrase.regions)}
            for phrase in hit.phrases
        ],
        "weakest": hit.weakest.text if len(hit.phrases) > 1 else None,
    }


def from_dict(found: Mapping[str, Any]) -> Hit:
    """The hit that `to_dict` gave, but for heat, and to as many digits.

    Raises KeyError, TypeError, ValueError or OverflowError when it is none.
    """
    width, height = int(found["width_px"]), int(found["height_px"])
    whole = Frame(width, height, 0, 0, width, height)
    return Hit(
        rank=int(found["rank"]),
        path=str(found["path"]),
        score=float(found["score"]),
        score_global=float(found["score_global"]),
        width=width,
        height=height,
        regions=_read_regions(found["regions"]),
        phrases=tuple(
            Phrase(str(one["text"]), float(one["score"]), _read_regions(one["regions"]), None, whole)
            for one in found["phrases"]
        ),
        logit=float(found["logit"]),
        image=int(found["id"]),
        date=None if found["date"] is None else datetime.fromisoformat(found["date"]),
    )


def _read_regions(found: Sequence[Mapping[str, Any]]) -> tuple[Region, ...]:
    regions = []
    for one in found:
        left, top, right, bottom = map(int, one["box"])
        regions.append(Region((left, top, right, bottom), float(one["score"])))
    return tuple(regions)


def _regions(regions: Sequence[Region]) -> list[RegionJson]:
    return [{"box": list(region.box), "score": round(region.score, 6)} for region in regions]


def to_table(hits: Sequence[Hit], logits: bool = False, pictures: Sequence[RenderableType] | None = None) -> Table:
    """Rank, score, path (relative where that is shorter) and boxes; of several phrases each has a line of its own.

    `pictures`: one of each hit, in a column of their own.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    names = (
        *([""] if pictures else []),
        "",
        "logit" if logits else "score",
        "photo",
        "where (left, top, right, bottom)",
    )
    for name in names:
        right = name not in ("photo", names[-1])
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=right)
    several = any(len(hit.phrases) > 1 for hit in hits)
    if several:
        table.add_column("")
    empty = [""] if pictures else []
    for number, hit in enumerate(hits):
        picture = [pictures[number]] if pictures else []
        boxes = "" if several else "  ".join(_box(region) for region in hit.regions)
        cells = [str(hit.rank), f"{hit.logit if logits else hit.score:.3f}"]
        table.add_row(*picture, *cells, _as_it_is(short_path(hit.path)), boxes)
        for phrase in hit.phrases if several else ():
            text = _as_it_is(f"  {phrase.text}")
            text.truncate(_PHRASE, overflow="ellipsis")
            score = f"cos {phrase.score:.3f}" if logits else f"{phrase.score:.3f}"  # a phrase has no logit
            where = _box(phrase.regions[0]) if phrase.regions else "-"
            weakest = "weakest" if phrase is hit.weakest else ""
            table.add_row(*empty, "", score, text, where, weakest)
    return table


def _box(region: Region) -> str:
    return ",".join(map(str, region.box))


def _as_it_is(text: str) -> Text:
    """What a file or a phrase is called: [brackets] are no markup, and control characters do not reach the terminal."""
    from rich.text import Text

    return Text(escape(text))


def escape(text: str) -> str:
    """Control characters as JSON escapes them, in a string of JSON too."""
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def short_path(path: str) -> str:
    """Relative to the working folder where the file lies below it."""
    try:
        here = os.getcwd().rstrip("/") + "/"
    except OSError:  # it is gone
        return path
    return path.removeprefix(here)


def to_text(report: Report | Run) -> str:
    """One line about a run."""
    counts = [
        (report.added, "added"),
        (report.updated, "updated"),
        (report.moved, "moved"),
        (report.removed, "removed"),
        (report.unchanged, "unchanged"),
        (report.skipped if isinstance(report, Run) else len(report.skipped), "skipped"),
    ]
    return ", ".join(f"{number:,} {name}" for number, name in counts if number) or "nothing to do"


def to_lines(status: Status, all_skipped: bool = False) -> list[str]:
    """What an index holds, for a person. all_skipped: each file that was left out, not some of each reason."""
    views = "" if status.views == status.images else f", {status.views:,} views"
    per_photo = status.bytes / max(status.images, 1)
    parts = [f"{name.replace('_', ' ')} {_size(size)}" for name, size in status.sizes.items() if size]
    lines = [
        f"index     {status.folder}",
        f"photos    {status.images:,}{views}",
        *(f"          {status.photos.get(root, 0):,} in {escape(root)}" for root in status.roots),
        f"size      {_size(status.bytes)}, {_size(per_photo)} a photo",
        *([f"          {', '.join(parts)}"] if parts else []),
        f"model     {status.model} (weights {status.weights_hash[:12]})",
        f"views     {status.views_policy}, kept as {status.codec}",
    ]
    if run := status.last_run:
        lines.append(f"last run  {_ago(time.time() - run.finished)}, in {run.seconds:,.1f} s: {to_text(run)}")
    lines += _skipped_lines(status, all_skipped)
    if run and run.videos:
        lines.append(f"videos    {run.videos:,} left out: flairsearch indexes photos")
    return lines


def _skipped_lines(status: Status, all_of_them: bool) -> list[str]:
    """By reason, the commonest first; what Pillow says of a damaged file is no reason of its own."""
    if not status.skipped:
        return []
    groups: dict[str, list[Skipped]] = {}
    for skipped in status.skipped:
        groups.setdefault(skipped.reason.partition(" (")[0], []).append(skipped)
    lines = [f"skipped   {len(status.skipped):,} in the last run"]
    for reason, several in sorted(groups.items(), key=lambda group: -len(group[1])):
        alike = len({skipped.reason for skipped in several}) == 1
        lines.append(f"          {len(several):,}: {escape(several[0].reason if alike else reason)}")
        shown = several if all_of_them else several[:_SOME]
        for skipped in shown:
            more = "" if alike else skipped.reason[len(reason) :]
            lines.append(f"             {escape(short_path(skipped.path) + more)}")
        if len(several) > len(shown):
            lines.append(f"             and {len(several) - len(shown):,} more: flairsearch status --skipped")
    return lines


def to_video_line(count: int) -> str:
    return f"{count:,} {'video' if count == 1 else 'videos'} left out: flairsearch indexes photos"


def status_to_json(status: Status) -> str:
    """One line: the fields of reports.Status, paths as they are."""
    return escape(json.dumps(asdict(status), ensure_ascii=False))


def _size(count: float) -> str:
    if count < 1e5:
        return f"{count / 1e3:,.1f} kB"
    return f"{count / 1e6:,.1f} MB" if count < 1e10 else f"{count / 1e9:,.1f} GB"


def _ago(seconds: float) -> str:
    """As coarse as a person would say it; clocks are set back at times."""
    for size, name in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count:,} {name}{'' if count == 1 else 's'} ago"
    return "just now"
