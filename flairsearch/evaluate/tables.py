"""Format measurements as tables and as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from rich.console import Group
from rich.table import Table
from rich.text import Text

from flairsearch.evaluate.region_metrics import PRECISION_IOU, PRECISION_K
from flairsearch.evaluate.results import CodecRow, RegionRow, RetrievalRow, SegmentationRow, ShortlistRow

ResultRow = CodecRow | RegionRow | RetrievalRow | SegmentationRow | ShortlistRow


def to_codec_table(rows: Iterable[CodecRow]) -> Table:
    """Return a table of what each codec costs and loses."""
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
    """Return a table of recall and ranks, one row per mode and direction."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("mode", "", "R@1", "R@5", "R@10", "mean rank", "median rank"):
        table.add_column(name, justify="left" if name in ("mode", "") else "right")
    for row in rows:
        recall = [f"{value:.1%}" for value in row.recall.values()]
        table.add_row(row.mode, row.direction, *recall, f"{row.mean_rank:,.1f}", f"{row.median_rank:,}")
    return table


def to_shortlist_table(rows: Sequence[ShortlistRow]) -> Table:
    """Return a table of shortlist recall, one column per length. A length given as a share also shows its views."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("prefilter")
    table.add_column("of the", justify="right")
    for size in rows[0].sizes if rows else ():
        name = f"{size.name} ({size.views:,})" if "%" in size.name else size.name
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row.prefilter, f"top {row.top}", *(f"{value:.1%}" for value in row.recall))
    return table


def to_region_tables(rows: Sequence[RegionRow]) -> Group:
    """Return three tables: BoxRecall below plain recall, measures given the relevant view, and the first page."""
    recall, given, page = (Table(box=None, pad_edge=False, header_style="dim") for _ in range(3))
    recall.add_column("right view and box, IoU")
    given.add_column("given the right view")
    page.add_column(f"right views among the first {PRECISION_K}")
    for name in ("precision", f"IoU {PRECISION_IOU}", "centre inside"):
        page.add_column(name, justify="right")
    levels = [level for level in rows[0].recall if level] if rows else []
    for level in levels:
        for k in rows[0].recall[level]:
            recall.add_column(f"{level} R@{k}" if k == min(rows[0].recall[level]) else f"R@{k}", justify="right")
    for name in ("pointing", "energy", "mean IoU", *(f"IoU {level}" for level in levels)):
        given.add_column(name, justify="right")
    if rows:
        recall.add_row("any box", *(f"{value:.1%}" for _ in levels for value in rows[0].recall[0].values()))
    for row in rows:
        recall.add_row(row.source, *(f"{value:.1%}" for level in levels for value in row.recall[level].values()))
        shares = ["-" if value is None else f"{value:.1%}" for value in (row.pointing, row.energy)]
        given.add_row(row.source, *shares, f"{row.iou:.3f}", *(f"{value:.1%}" for value in row.reached.values()))
        first_page = (row.precision, row.hits_reached, row.hits_centred)
        page.add_row(row.source, *(f"{share:.1%}" for share in first_page))
    return Group(recall, "", given, "", page)


def to_segmentation_table(rows: Iterable[SegmentationRow]) -> Table:
    """Return a table of the IoU of each class and their mean."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("class")
    table.add_column("IoU", justify="right")
    for row in rows:
        for name, value in row.iou.items():
            table.add_row(Text(name), "-" if value is None else f"{value:.1%}")
        table.add_row("mean", f"{row.mean_iou:.1%}")
        table.add_row("pixels", f"{row.accuracy:.1%}")
    return table


def to_json_line(row: ResultRow) -> str:
    """Return a row as one line of JSON. Recalls are shares, 0 to 1."""
    if isinstance(row, ShortlistRow):
        recall = [
            {"shortlist": size.name, "views": size.views, "recall": round(value, 6)}
            for size, value in zip(row.sizes, row.recall, strict=True)
        ]
        return json.dumps({"prefilter": row.prefilter, "top": row.top, "shortlists": recall})
    return json.dumps({name: _round_floats(value) for name, value in asdict(row).items()})


def _round_floats(value: object) -> object:
    if isinstance(value, dict):
        return {key: _round_floats(item) for key, item in value.items()}
    return round(value, 6) if isinstance(value, float) else value
