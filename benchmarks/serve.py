"""A running server under load: latency of one client, then throughput and latency of many at once.

    python -m benchmarks.serve INDEX val.json [--clients 32] [--seconds 60]

The captions of the annotation file are the queries, all different. The server is a process of its own on this machine,
so that clients take some of its time. Latencies are those that clients see; each keeps its connection.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from urllib.parse import quote, urlsplit

from benchmarks.flickr import Annotations

ONE_CLIENT_CAPTIONS = 200  # The one client asks this number of captions.
TIMEOUT_SECONDS = 60.0  # An answer that takes longer counts as an error.


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency and throughput of flairsearch serve.")
    parser.add_argument("index", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    photos = Annotations.read(args.annotations).captions
    texts = list(dict.fromkeys(caption for i in range(5) for captions in photos for caption in captions[i : i + 1]))
    with running(args.index) as address:
        print(f"{get(connect(address), '/api/v1/status')['views']:,} views, {len(texts):,} captions")
        alone, errors = ask_all(connect(address), texts[:ONE_CLIENT_CAPTIONS])
        print(
            f"one client: p50 {_ms(alone, 50)}, p99 {_ms(alone, 99)}, {errors} errors of {ONE_CLIENT_CAPTIONS} captions"
        )
        before = batches(address)
        began = time.perf_counter()
        seconds, errors = ask_at_once(address, texts[ONE_CLIENT_CAPTIONS:], args.clients, args.seconds)
        took = time.perf_counter() - began
        groups, queries = (now - then for now, then in zip(batches(address), before, strict=True))
        print(
            f"{args.clients} clients, {took:.0f} s: {len(seconds) / took:.1f} queries/s, p50 {_ms(seconds, 50)}, "
            f"p99 {_ms(seconds, 99)}, {errors} errors of {len(seconds) + errors:,}, "
            f"{queries / max(1, groups):.1f} queries a batch"
        )


@contextmanager
def running(index: Path) -> Iterator[str]:
    """HOST:PORT of a server on the index, which is stopped at the end."""
    command = [sys.executable, "-m", "flairsearch", "serve", "--index", str(index.absolute()), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        for line in process.stderr:
            if line.startswith("http://"):
                break
            print(line.rstrip(), file=sys.stderr)
        else:
            raise SystemExit("the server did not start")
        yield urlsplit(line.strip()).netloc
    finally:
        process.terminate()
        process.wait(30)


def connect(address: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(address, timeout=TIMEOUT_SECONDS)


def get(connection: http.client.HTTPConnection, target: str) -> dict[str, object]:
    connection.request("GET", target)
    response = connection.getresponse()
    data = response.read()
    if response.status != 200:
        raise http.client.HTTPException(f"{response.status}: {data[:200]!r}")
    found: dict[str, object] = json.loads(data)
    return found


def ask_all(connection: http.client.HTTPConnection, texts: Sequence[str]) -> tuple[list[float], int]:
    """Ask texts one after the other; -> the seconds of each answer, and the number of errors."""
    seconds, errors = [], 0
    for text in texts:
        began = time.perf_counter()
        try:
            get(connection, f"/api/v1/search?q={quote(text)}")
            seconds.append(time.perf_counter() - began)
        except (OSError, http.client.HTTPException) as error:
            print(f"error: {error}", file=sys.stderr)
            errors += 1
            connection.close()
    return seconds, errors


def ask_at_once(address: str, texts: Sequence[str], clients: int, lasting: float) -> tuple[list[float], int]:
    """Clients that ask for `lasting` seconds, each its next text as soon as it has an answer; -> as `ask_all`."""
    number, end = count(), time.perf_counter() + lasting
    found: list[tuple[list[float], int]] = []

    def client() -> None:
        connection, seconds, errors = connect(address), [], 0
        while time.perf_counter() < end:
            taken, wrong = ask_all(connection, [texts[next(number) % len(texts)]])
            seconds += taken
            errors += wrong
        found.append((seconds, errors))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [second for seconds, _ in found for second in seconds], sum(errors for _, errors in found)


def batches(address: str) -> tuple[float, float]:
    """The number of batches that were answered, and of queries in them."""
    connection = connect(address)
    connection.request("GET", "/api/v1/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("flairsearch_batch_size"))
    return float(values["flairsearch_batch_size_count"]), float(values["flairsearch_batch_size_sum"])


def _ms(seconds: Sequence[float], percent: int) -> str:
    if len(seconds) < 2:
        return "-"
    return f"{statistics.quantiles(seconds, n=100, method='inclusive')[percent - 1] * 1e3:.0f} ms"


if __name__ == "__main__":
    main()
