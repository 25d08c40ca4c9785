"""Two states of the code, timed in turns: is a cold query, a warm request or indexing slower than before?

    python -m benchmarks.paired BEFORE AFTER INDEX PHOTOS [--rounds 30] [--only cold http indexing]

BEFORE and AFTER are checkouts; both run with this Python and its packages. Each round times every kind once in both,
in turns that alternate, so that both see the same machine. Printed are the medians, the median of the rounds' ratios
(after : before), and its 95 % interval by bootstrap.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

QUERY = "a white puppy with black ears"
REQUESTS = 20  # A round's time of one kind is the median of this many requests.
PHOTOS = 64  # This many photos are indexed in a round.
RESAMPLES = 10_000  # The bootstrap draws the rounds this many times.
COMMAND = """
import sys
from flairsearch import cli
if not hasattr(cli, "main"):
    from flairsearch.cli import main
main = cli.main
(main if callable(main) else main.main)()
"""
INDEXING = """
import sys, time
from flairsearch import Engine
from flairsearch import encode
for line in sys.stdin:
    began = time.perf_counter()
    with Engine.open(line.strip(), device="cpu") as engine:
        engine.add(sys.argv[1])
    print(time.perf_counter() - began, flush=True)
"""
Timer = Callable[[], float]  # A timer does its work once and returns the seconds.


def environment(checkout: Path) -> dict[str, str]:
    """Environment variables with which Python takes modules from the checkout and keeps compiled ones."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPATH": str(checkout.resolve())}


@contextmanager
def cold(checkout: Path, index: Path) -> Iterator[Timer]:
    """A timer of `flairsearch query` as a whole command."""
    command = [sys.executable, "-c", COMMAND, "query", QUERY, "--index", str(index), "--json"]

    def run() -> float:
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=environment(checkout), cwd=tempfile.gettempdir())
        return time.perf_counter() - began

    yield run


@contextmanager
def served(checkout: Path, index: Path) -> Iterator[Timer]:
    """A timer of requests with different texts to a server that the checkout runs."""
    command = [sys.executable, "-c", COMMAND, "serve", "--index", str(index), "--port", "0"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment(checkout), cwd=tempfile.gettempdir()
    )
    try:
        assert process.stderr
        address = next(line for line in process.stderr if line.startswith("http://"))
        connection, asked = http.client.HTTPConnection(urlsplit(address.strip()).netloc, timeout=60), [0]

        def ask() -> float:
            asked[0] += 1
            began = time.perf_counter()
            connection.request("GET", f"/api/v1/search?q={quote(f'{asked[0]} dogs in the snow')}")
            response = connection.getresponse()
            found = json.loads(response.read())
            assert response.status == 200, found
            return time.perf_counter() - began

        yield lambda: statistics.median(ask() for _ in range(REQUESTS))
    finally:
        process.terminate()
        process.wait()


@contextmanager
def indexing(checkout: Path, photos: Path) -> Iterator[Timer]:
    """A timer of new indexes of the same photos, in a process that has the libraries loaded."""
    with tempfile.TemporaryDirectory() as folder:
        copies = Path(folder, "photos")
        copies.mkdir()
        for photo in sorted(photos.glob("*.jpg"))[:PHOTOS]:
            shutil.copy2(photo, copies)
        code = INDEXING
        if not (checkout / "flairsearch" / "encode.py").is_file():
            code = code.replace("from flairsearch import encode", "from flairsearch.model import encoder")
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(copies)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(checkout),
            cwd=tempfile.gettempdir(),
        )
        assert process.stdin
        assert process.stdout
        number = [0]

        def index() -> float:
            number[0] += 1
            print(Path(folder, f"index{number[0]}"), file=process.stdin, flush=True)
            assert process.stdout
            return float(process.stdout.readline())

        try:
            yield index
        finally:
            process.stdin.close()
            process.wait()


def interval(ratios: list[float]) -> tuple[float, float]:
    """The middle 95 % of the medians of rounds drawn with replacement."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return medians[RESAMPLES // 40], medians[-RESAMPLES // 40]


def main() -> None:
    parser = argparse.ArgumentParser(description="Two states of the code, timed in turns.")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("index", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", nargs="+", choices=("cold", "http", "indexing"))
    args = parser.parse_args()
    kinds = {
        "cold": lambda checkout: cold(checkout, args.index.absolute()),
        "http": lambda checkout: served(checkout, args.index.absolute()),
        "indexing": lambda checkout: indexing(checkout, args.photos.absolute()),
    }
    print("| kind | before, ms | after, ms | after : before | 95 % of it |\n|---|---|---|---|---|")
    for kind in args.only or kinds:
        with ExitStack() as stack:
            timers = [stack.enter_context(kinds[kind](checkout)) for checkout in (args.before, args.after)]
            taken: list[tuple[float, float]] = []
            for number in range(args.rounds + 2):  # The first two rounds fill caches and are left out.
                if number % 2:
                    after, before = timers[1](), timers[0]()
                else:
                    before, after = timers[0](), timers[1]()
                taken.append((before, after))
        ratios = [after / before for before, after in taken[2:]]
        before, after = (1000 * statistics.median(column) for column in zip(*taken[2:], strict=True))
        low, high = interval(ratios)
        print(f"| {kind} | {before:.1f} | {after:.1f} | {statistics.median(ratios):.3f} | {low:.3f} to {high:.3f} |")


if __name__ == "__main__":
    main()
