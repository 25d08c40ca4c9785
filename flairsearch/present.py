"""Hits -> table, JSON lines; reports as lines."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from flairsearch.records import Hit, Region, Report, Status

_HIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")  # no plain letters:
# ends of lines, orders to a terminal, turns of the writing, halves of what is no UTF-8
_PHRASE = 60  # columns of a phrase in the table


def to_json(hit: Hit) -> str:
    """One hit as one line of JSON; every field is always there.

    weakest: the text of the phrase that the photo answers least, null with one phrase. confidence: 0 to 1, or null.
    matches: false where the false alarm is above what was asked for, null where nothing was asked.
    """
    line = json.dumps(
        {
            "rank": hit.rank,
            "path": hit.path,
            "score": round(hit.score, 6),
            "score_global": round(hit.score_global, 6),
            "width_px": hit.width,
            "height_px": hit.height,
            "regions": _regions(hit.regions),
            "phrases": [
                {"text": phrase.text, "score": round(phrase.score, 6), "regions": _regions(phrase.regions)}
                for phrase in hit.phrases
            ],
            "weakest": hit.weakest.text if len(hit.phrases) > 1 else None,
            "confidence": None if hit.confidence is None else round(hit.confidence, 6),
            "matches": hit.matches,
        },
        ensure_ascii=False,
    )
    return _escape(line)  # json leaves some of them


def _regions(regions: Sequence[Region]) -> list[dict[str, object]]:
    return [{"box": list(region.box), "score": round(region.score, 6)} for region in regions]


def to_table(hits: Sequence[Hit], logits: bool = False) -> Table:
    """Rank, score, path (relative where that is shorter) and boxes; of several phrases each has a line of its own.

    Where anybody asked, how sure a hit is; one that does not match is dim, with a question mark.
    """
    table = Table(box=None, pad_edge=False, header_style="dim")
    sure = any(hit.confidence is not None or hit.matches is False for hit in hits)
    names = (
        "",
        "logit" if logits else "score",
        *(["sure"] if sure else []),
        "photo",
        "where (left, top, right, bottom)",
    )
    for name in names:
        right = name not in ("photo", names[-1])
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=right)
    several = any(len(hit.phrases) > 1 for hit in hits)
    if several:
        table.add_column("")
    for hit in hits:
        boxes = "" if several else "  ".join(_box(region) for region in hit.regions)
        cells = [str(hit.rank), f"{hit.logit if logits else hit.score:.3f}", *([_sure(hit)] if sure else [])]
        style = "dim" if hit.matches is False else None
        table.add_row(*cells, _as_it_is(short_path(hit.path)), boxes, style=style)
        for phrase in hit.phrases if several else ():
            text = _as_it_is(f"  {phrase.text}")
            text.truncate(_PHRASE, overflow="ellipsis")
            score = f"cos {phrase.score:.3f}" if logits else f"{phrase.score:.3f}"  # a phrase has no logit
            where = _box(phrase.regions[0]) if phrase.regions else "-"
            weakest = "weakest" if phrase is hit.weakest else ""
            table.add_row("", score, *([""] if sure else []), text, where, weakest, style=style)
    return table


def _box(region: Region) -> str:
    return ",".join(map(str, region.box))


def _sure(hit: Hit) -> str:
    """Rounded down: 100 % is said of certainty alone, and the level that was asked for of hits that reach it."""
    share = "-" if hit.confidence is None else f"{math.floor(round(100 * hit.confidence, 6))} %"
    return f"? {share}" if hit.matches is False else share


def _as_it_is(text: str) -> Text:
    """What a file or a phrase is called: [brackets] are no markup, and control characters do not reach the terminal."""
    return Text(_escape(text))


def _escape(text: str) -> str:
    """As JSON escapes them, in a string of JSON too."""
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def short_path(path: str) -> str:
    """Relative to the working folder where the file lies below it."""
    here = os.getcwd().rstrip("/") + "/"
    return path.removeprefix(here)


def to_text(report: Report) -> str:
    """One line about a run."""
    counts = [
        (report.added, "added"),
        (report.updated, "updated"),
        (report.moved, "moved"),
        (report.removed, "removed"),
        (report.unchanged, "unchanged"),
        (len(report.skipped), "skipped"),
    ]
    return ", ".join(f"{number:,} {name}" for number, name in counts if number) or "nothing to do"


def to_lines(status: Status) -> list[str]:
    """What an index holds, for a person."""
    per_photo = status.bytes / max(status.images, 1) / 1000
    lines = [
        f"index    {status.folder}",
        f"photos   {status.images:,} ({status.bytes / 1e6:,.1f} MB, {per_photo:,.0f} kB a photo)",
        f"model    {status.model} (weights {status.weights_hash[:12]}), views {status.views_policy}, {status.codec}",
        *(f"folder   {root}" for root in status.roots),
    ]
    if status.skipped:
        lines.append(f"skipped  {len(status.skipped):,} in the last run")
        lines += [f"         {skipped.path}: {skipped.reason}" for skipped in status.skipped]
    return lines
