"""Hits and measurements -> table, JSON lines; hits -> overlay picture."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from rich.table import Table
from rich.text import Text

from flairsearch.errors import FlairSearchError
from flairsearch.records import CodecRow, Hit, Report, RetrievalRow, ShortlistRow, Status

_BOX = (255, 214, 10)
_EDGE = (0, 0, 0)


def to_json(hit: Hit) -> str:
    """One hit as one line of JSON."""
    return json.dumps(
        {
            "rank": hit.rank,
            "path": hit.path,
            "score": round(hit.score, 6),
            "score_global": round(hit.score_global, 6),
            "width_px": hit.width,
            "height_px": hit.height,
            "regions": [{"box": list(region.box), "score": round(region.score, 6)} for region in hit.regions],
        },
        ensure_ascii=False,
    )


def to_table(hits: Sequence[Hit], logits: bool = False) -> Table:
    """Rank, score, path (relative where that is shorter) and the best region's box."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", "logit" if logits else "score", "photo", "where (left, top, right, bottom)"):
        table.add_column(name, justify="right" if name in ("", "score", "logit") else "left", overflow="fold")
    for hit in hits:
        boxes = "  ".join(",".join(map(str, region.box)) for region in hit.regions)
        path = Text(short_path(hit.path))  # not a str: rich would read [brackets] in a file name as markup
        table.add_row(str(hit.rank), f"{hit.logit if logits else hit.score:.3f}", path, boxes)
    return table


def to_codec_table(rows: Iterable[CodecRow]) -> Table:
    """What each codec costs and loses."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    names = ("codec", "bytes a view", "R@1", "R@5", "R@10", "R@10 less fp16's, 95 %", "top 10", "box IoU", "views/s")
    for name in names:
        table.add_column(name, justify="right")
    for row in rows:
        recall = ["-"] * 3 if row.recall is None else [f"{value:.1%}" for value in row.recall.values()]
        interval = "-" if row.difference is None else "{:+.1%} to {:+.1%}".format(*row.difference)
        measured = (f"{row.overlap:.3f}", f"{row.box_iou:.3f}", f"{row.speed:,.0f}")
        table.add_row(row.codec, f"{row.bytes:,}", *recall, interval, *measured)
    return table


def to_retrieval_table(rows: Iterable[RetrievalRow]) -> Table:
    """Recall and ranks of each mode, both ways."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("mode", "", "R@1", "R@5", "R@10", "mean rank", "median rank"):
        table.add_column(name, justify="left" if name in ("mode", "") else "right")
    for row in rows:
        recall = [f"{value:.1%}" for value in row.recall.values()]
        table.add_row(row.mode, row.direction, *recall, f"{row.mean_rank:,.1f}", f"{row.median_rank:,}")
    return table


def to_shortlist_table(rows: Sequence[ShortlistRow]) -> Table:
    """What shortlists hold of the exhaustive best; shares of the collection with the views that they are."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("prefilter")
    table.add_column("of the", justify="right")
    for shortlist in rows[0].lists if rows else ():
        name = f"{shortlist.name} ({shortlist.views:,})" if "%" in shortlist.name else shortlist.name
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row.prefilter, f"top {row.top}", *(f"{value:.1%}" for value in row.recall))
    return table


def to_json_line(row: CodecRow | RetrievalRow | ShortlistRow) -> str:
    """One measured row as one line of JSON; recall as a share, 0 to 1."""
    if isinstance(row, ShortlistRow):
        recall = [
            {"shortlist": shortlist.name, "views": shortlist.views, "recall": round(value, 6)}
            for shortlist, value in zip(row.lists, row.recall, strict=True)
        ]
        return json.dumps({"prefilter": row.prefilter, "top": row.top, "shortlists": recall})
    return json.dumps({name: _rounded(value) for name, value in asdict(row).items()})


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return round(value, 6) if isinstance(value, float) else value


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


def overlay(hit: Hit, photo: Image.Image, label: str) -> Image.Image:
    """The photo in its own size with its regions drawn, the best one labelled."""
    picture = photo.convert("RGB")
    draw = ImageDraw.Draw(picture)
    line = max(2, round(min(picture.size) / 150))
    font = ImageFont.load_default(size=max(12, round(min(picture.size) / 24)))
    for region in reversed(hit.regions):
        left, top, right, bottom = region.box
        draw.rectangle((left, top, right - 1, bottom - 1), outline=_EDGE, width=line + 2)
        if min(right - left, bottom - top) > 2:
            draw.rectangle((left + 1, top + 1, right - 2, bottom - 2), outline=_BOX, width=line)
    left, top, _, _ = hit.regions[0].box
    text = f"{label}  {hit.score:.2f}"
    x0, y0, x1, y1 = draw.textbbox((0, 0), text, font=font)
    wide, high = x1 - x0 + 2 * line + 4, y1 - y0 + 2 * line + 4
    x = max(0, min(left, picture.width - wide))
    y = top - high if top >= high else max(0, min(top, picture.height - high))  # above the box where there is room
    draw.rectangle((x, y, x + wide, y + high), fill=_BOX)
    draw.text((x + line + 2 - x0, y + line + 2 - y0), text, fill=_EDGE, font=font)
    return picture


def save_overlay(hit: Hit, photo: Image.Image, label: str, path: Path) -> None:
    """Raises FlairSearchError when the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        overlay(hit, photo, label).save(path, quality=92)
    except (OSError, ValueError) as error:
        raise FlairSearchError(f"{path} cannot be written ({error}) - give another folder or file") from None
