"""The status of an index and the report of a run, as text and as JSON."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

from flairsearch.core.reports import IndexReport, IndexRun, Skipped, Status
from flairsearch.output.formatting import escape, short_path

_MAX_SHOWN_PATHS = 3  # At most this number of paths is shown for each reason to skip files.


def to_text(report: IndexReport | IndexRun) -> str:
    """Return one line about a run."""
    counts = [
        (report.added, "added"),
        (report.updated, "updated"),
        (report.moved, "moved"),
        (report.removed, "removed"),
        (report.unchanged, "unchanged"),
        (report.skipped if isinstance(report, IndexRun) else len(report.skipped), "skipped"),
    ]
    return ", ".join(f"{number:,} {name}" for number, name in counts if number) or "nothing to do"


def to_lines(status: Status, all_skipped: bool = False) -> list[str]:
    """Return the status of an index as lines of text. all_skipped: list every skipped file, not a few per reason."""
    views = "" if status.views == status.images else f", {status.views:,} views"
    per_photo = status.bytes / max(status.images, 1)
    parts = [f"{name.replace('_', ' ')} {_format_size(size)}" for name, size in status.sizes.items() if size]
    lines = [
        f"index     {status.folder}",
        f"photos    {status.images:,}{views}",
        *(f"          {status.photos.get(root, 0):,} in {escape(root)}" for root in status.roots),
        f"size      {_format_size(status.bytes)}, {_format_size(per_photo)} a photo",
        *([f"          {', '.join(parts)}"] if parts else []),
        f"model     {status.model} (weights {status.weights_hash[:12]})",
        f"views     {status.views_policy}, kept as {status.codec}",
    ]
    if run := status.last_run:
        lines.append(f"last run  {_format_age(time.time() - run.finished)}, in {run.seconds:,.1f} s: {to_text(run)}")
    lines += _skipped_lines(status, all_skipped)
    if run and run.videos:
        lines.append(f"videos    {run.videos:,} left out: flairsearch indexes photos")
    return lines


def _skipped_lines(status: Status, show_all: bool) -> list[str]:
    """Return lines about skipped files by reason, the most common first; details in parentheses are ignored."""
    if not status.skipped:
        return []
    groups: dict[str, list[Skipped]] = {}
    for skipped in status.skipped:
        groups.setdefault(skipped.reason.partition(" (")[0], []).append(skipped)
    lines = [f"skipped   {len(status.skipped):,} in the last run"]
    for reason, group in sorted(groups.items(), key=lambda item: -len(item[1])):
        has_one_reason = len({skipped.reason for skipped in group}) == 1
        lines.append(f"          {len(group):,}: {escape(group[0].reason if has_one_reason else reason)}")
        shown = group if show_all else group[:_MAX_SHOWN_PATHS]
        for skipped in shown:
            more = "" if has_one_reason else skipped.reason[len(reason) :]
            lines.append(f"             {escape(short_path(skipped.path) + more)}")
        if len(group) > len(shown):
            lines.append(f"             and {len(group) - len(shown):,} more: flairsearch status --skipped")
    return lines


def to_video_line(count: int) -> str:
    """Return one line about skipped videos."""
    return f"{count:,} {'video' if count == 1 else 'videos'} left out: flairsearch indexes photos"


def status_to_json(status: Status) -> str:
    """Return the fields of reports.Status as one line of JSON."""
    return escape(json.dumps(asdict(status), ensure_ascii=False))


def _format_size(count: float) -> str:
    """Return a number of bytes in kB, MB or GB."""
    if count < 1e5:
        return f"{count / 1e3:,.1f} kB"
    return f"{count / 1e6:,.1f} MB" if count < 1e10 else f"{count / 1e9:,.1f} GB"


def _format_age(seconds: float) -> str:
    """Return an age in its largest unit; it may be negative, because clocks are set back at times."""
    for size, name in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count:,} {name}{'' if count == 1 else 's'} ago"
    return "just now"
