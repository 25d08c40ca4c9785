"""Counters and gauges of a running server in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric

from flairsearch.serve.worker import SearchWorker

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # The version is that of the text format.
_SECONDS_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The metrics of one server."""

    def __init__(self, worker: SearchWorker) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_WorkerCollector(worker))
        self.requests = Counter(
            "flairsearch_requests", "Requests answered.", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "flairsearch_search_seconds",
            "Searches, from the request to the answer.",
            buckets=_SECONDS_BUCKETS,
            registry=self._registry,
        )

    def text(self) -> bytes:
        """Return all metrics in the format of CONTENT_TYPE."""
        return generate_latest(self._registry)


class _WorkerCollector:
    """Reads the numbers that the search worker counts whenever the metrics are requested."""

    def __init__(self, worker: SearchWorker) -> None:
        self._worker = worker

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("flairsearch_queue", "Requests that wait.", self._worker.waiting)
        images, _ = self._worker.catalog.counts()
        yield GaugeMetricFamily("flairsearch_photos", "Photos in the index.", images)
        sizes = dict(self._worker.batches)
        buckets = [
            (str(float(bound)), sum(count for size, count in sizes.items() if size <= bound))
            for bound in _BATCH_BUCKETS
        ]
        buckets.append(("+Inf", sum(sizes.values())))
        total = sum(size * count for size, count in sizes.items())
        yield HistogramMetricFamily("flairsearch_batch_size", "Searches answered at once.", buckets, total)
