"""Hits -> table, JSON lines; names as they may be shown."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flairsearch.core.types import Frame, Hit, Phrase, Region

if TYPE_CHECKING:  # JSON and paths need no rich
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from flairsearch.serve.answer_schemas import HitJson, RegionJson

_HIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")  # no plain letters:
# ends of lines, orders to a terminal, turns of the writing, halves of what is no UTF-8
_PHRASE = 60  # columns of a phrase in the table


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
