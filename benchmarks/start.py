"""What one query costs as a whole command, from the shell and back: cold, and through a server of the index.

    python -m benchmarks.start INDEX [--rounds 9]

In turns, so that all see the same machine: `python -c pass`, `flairsearch --help`, the query without a server, the
query with one, and `python -c "import torch, open_clip"`, which is what a query would wait for with the model in torch.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

QUERY = "a white puppy with black ears"


def main() -> None:
    parser = argparse.ArgumentParser(description="Whole commands, timed.")
    parser.add_argument("index", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        served = Path(folder) / "served"
        shutil.copytree(args.index, served)  # an index of its own: the server is found beside it
        server = subprocess.Popen(
            [*_flairsearch("serve"), "--index", str(served), "--port", "0"], stderr=subprocess.PIPE, text=True
        )
        try:
            assert server.stderr and server.stderr.readline().startswith("http"), "the server did not start"
            _compare(args.index, served, args.rounds)
        finally:
            server.terminate()
            server.wait()


def _compare(index: Path, served: Path, rounds: int) -> None:
    commands = {
        "python": [sys.executable, "-c", "pass"],
        "flairsearch --help": _flairsearch("--help"),
        "query, cold": [*_flairsearch("query"), QUERY, "--index", str(index)],
        "query, through a server": [*_flairsearch("query"), QUERY, "--index", str(served)],
        "import torch, open_clip": [sys.executable, "-c", "import torch, open_clip"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds + 1):  # the first fills caches
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - began)
    print("| command | s, median | least | most |\n|---|---|---|---|")
    for name, taken in seconds.items():
        some = taken[1:]
        print(f"| {name} | {statistics.median(some):.2f} | {min(some):.2f} | {max(some):.2f} |")


def _flairsearch(verb: str) -> list[str]:
    return [str(Path(sys.executable).with_name("flairsearch")), verb]


if __name__ == "__main__":
    main()
