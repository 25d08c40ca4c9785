"""Measure a running server: latency of one client, then throughput and latency of many concurrent clients.

    python -m benchmarks.serve INDEX val.json [--clients 32] [--seconds 60]

The queries are the distinct captions of the annotation file. The server runs as a separate process on this machine, so
the clients take some of its time. Latencies are measured by the clients, each of which keeps its connection open.
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

SINGLE_CLIENT_CAPTIONS = 200  # Number of captions that the single client sends.
TIMEOUT_SECONDS = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency and throughput of flairsearch serve.")
    parser.add_argument("index", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    photos = Annotations.read(args.annotations).captions
    in_rounds = (caption for i in range(5) for captions in photos for caption in captions[i : i + 1])
    texts = list(dict.fromkeys(in_rounds))
    with running(args.index) as address:
        print(f"{get(connect(address), '/api/v1/status')['views']:,} views, {len(texts):,} captions")
        alone, errors = search_all(connect(address), texts[:SINGLE_CLIENT_CAPTIONS])
        print(
            f"one client: p50 {_ms(alone, 50)}, p99 {_ms(alone, 99)}, "
            f"{errors} errors of {SINGLE_CLIENT_CAPTIONS} captions"
        )
        before = batches(address)
        began = time.perf_counter()
        seconds, errors = search_concurrently(address, texts[SINGLE_CLIENT_CAPTIONS:], args.clients, args.seconds)
        took = time.perf_counter() - began
        groups, queries = (after - earlier for after, earlier in zip(batches(address), before, strict=True))
        print(
            f"{args.clients} clients, {took:.0f} s: {len(seconds) / took:.1f} queries/s, p50 {_ms(seconds, 50)}, "
            f"p99 {_ms(seconds, 99)}, {errors} errors of {len(seconds) + errors:,}, "
            f"{queries / max(1, groups):.1f} queries a batch"
        )


@contextmanager
def running(index: Path) -> Iterator[str]:
    """Start a server on the index, yield its HOST:PORT, and stop it at the end."""
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
    """Return a connection to HOST:PORT."""
    return http.client.HTTPConnection(address, timeout=TIMEOUT_SECONDS)


def get(connection: http.client.HTTPConnection, target: str) -> dict[str, object]:
    """Return the JSON object that the server answers with. Raises HTTPException for an error status."""
    connection.request("GET", target)
    response = connection.getresponse()
    data = response.read()
    if response.status != 200:
        raise http.client.HTTPException(f"{response.status}: {data[:200]!r}")
    found: dict[str, object] = json.loads(data)
    return found


def search_all(connection: http.client.HTTPConnection, texts: Sequence[str]) -> tuple[list[float], int]:
    """Search for the texts one by one. Returns the seconds of each success and the number of errors."""
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


def search_concurrently(address: str, texts: Sequence[str], clients: int, duration: float) -> tuple[list[float], int]:
    """Run concurrent clients for `duration` seconds; each sends its next caption as soon as it has an answer."""
    counter, end = count(), time.perf_counter() + duration
    found: list[tuple[list[float], int]] = []

    def client() -> None:
        connection, seconds, errors = connect(address), [], 0
        while time.perf_counter() < end:
            new_seconds, new_errors = search_all(connection, [texts[next(counter) % len(texts)]])
            seconds += new_seconds
            errors += new_errors
        found.append((seconds, errors))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [second for seconds, _ in found for second in seconds], sum(errors for _, errors in found)


def batches(address: str) -> tuple[float, float]:
    """Return the number of batches that the server has answered and the number of queries in them."""
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
