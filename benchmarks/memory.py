"""Measure the peak memory of `flairsearch index` by the number of photos.

    python -m benchmarks.memory PHOTOS [--counts 1000 7000] [--codec NAME]

PHOTOS is a folder with enough photos. Each count runs as its own command, on its own index and on hard links to the
first photos (copies where links are not possible). The memory of the command is sampled every 10 ms.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flairsearch.core.settings import DEFAULT_CODEC
from flairsearch.core.types import ImageFile
from flairsearch.images.discovery import walk


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of indexing.")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 7000])
    parser.add_argument("--codec", default=DEFAULT_CODEC)
    args = parser.parse_args()
    print("| photos | anonymous memory, peak, MiB | all of it, peak, MiB | s |\n|---|---|---|---|", flush=True)
    for count in args.counts:
        with tempfile.TemporaryDirectory(dir=args.photos.resolve().parent) as work:
            found = _link(args.photos, Path(work) / "photos", count)
            began = time.perf_counter()
            anonymous, resident = _index(Path(work), args.codec)
            seconds = time.perf_counter() - began
        print(f"| {found:,} | {anonymous:.0f} | {resident:.0f} | {seconds:.0f} |", flush=True)


def _link(photos: Path, folder: Path, count: int) -> int:
    """Link the first photos into a folder and return their number."""
    folder.mkdir()
    files = (seen for seen in walk(str(photos.resolve())) if isinstance(seen, ImageFile))
    done = 0
    for done, file in enumerate(files, 1):
        target = folder / f"{done:06d}{Path(file.path).suffix}"
        try:
            os.link(file.absolute, target)
        except OSError:
            shutil.copyfile(file.absolute, target)
        if done == count:
            break
    return done


def _index(work: Path, codec: str) -> tuple[float, float]:
    """Run `flairsearch index` and return its largest RssAnon and VmRSS in MiB."""
    command = [sys.executable, "-m", "flairsearch", "index", str(work / "photos")]
    options = ["--index", str(work / "index"), "--model", "flair-small", "--codec", codec]
    with (work / "log").open("w") as log:
        process = subprocess.Popen([*command, *options], stdout=log, stderr=log)
        peak = {"RssAnon": 0, "VmRSS": 0}
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
            except OSError:
                break
            for line in status.splitlines():
                name = line.split(":")[0]
                if name in peak:
                    peak[name] = max(peak[name], int(line.split()[1]))
            time.sleep(0.01)
    if process.wait():
        raise SystemExit((work / "log").read_text(encoding="utf-8"))
    return peak["RssAnon"] / 1024, peak["VmRSS"] / 1024


if __name__ == "__main__":
    main()
