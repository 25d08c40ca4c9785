"""Hits as a table or as lines of JSON, and names as a terminal may show them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flairsearch.core.hits import Hit, Region

if TYPE_CHECKING:  # JSON and paths need no rich.
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_HIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# These are ends of lines, control characters, marks that turn the direction of writing, and halves of invalid UTF-8.
_MAX_PHRASE_COLUMNS = 60  # A longer phrase is cut in the table.


def to_json(hit: Hit) -> str:
    """One hit as one line of JSON: `Hit.to_dict`."""
    return escape(json.dumps(hit.to_dict(), ensure_ascii=False))  # The JSON library leaves some control characters.


def to_table(hits: Sequence[Hit], logits: bool = False, pictures: Sequence[RenderableType] | None = None) -> Table:
    """Rank, score, path (relative where that is shorter) and boxes; each of several phrases has a line of its own.

    pictures: one for each hit, in the first column.
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
        table.add_row(*picture, *cells, plain_text(short_path(hit.path)), boxes)
        for phrase in hit.phrases if several else ():
            text = plain_text(f"  {phrase.text}")
            text.truncate(_MAX_PHRASE_COLUMNS, overflow="ellipsis")
            score = f"cos {phrase.score:.3f}" if logits else f"{phrase.score:.3f}"  # A phrase has no logit.
            where = _box(phrase.regions[0]) if phrase.regions else "-"
            weakest = "weakest" if phrase is hit.weakest else ""
            table.add_row(*empty, "", score, text, where, weakest)
    return table


def _box(region: Region) -> str:
    return ",".join(map(str, region.box))


def plain_text(text: str) -> Text:
    """A name as text for the table: [brackets] are no markup, and control characters are escaped."""
    from rich.text import Text

    return Text(escape(text))


def escape(text: str) -> str:
    """Control characters as JSON escapes them, in a string of JSON too."""
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def short_path(path: str) -> str:
    """Relative to the working folder where the file lies below it."""
    try:
        here = os.getcwd().rstrip("/") + "/"
    except OSError:  # The working folder is gone.
        return path
    return path.removeprefix(here)
