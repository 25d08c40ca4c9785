"""What an index holds and what a run did, as lines for a person and as JSON."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

from flairsearch.core.reports import IndexReport, IndexRun, Skipped, Status
from flairsearch.output.formatting import escape, short_path

_SOME = 3  # paths shown of those skipped for one reason


def to_text(report: IndexReport | IndexRun) -> str:
    """One line about a run."""
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
    """One line about videos, which are no photos."""
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
