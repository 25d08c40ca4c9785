"""Counts of a running server, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric

from flairsearch.serve.worker import SearchWorker

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Of one server."""

    def __init__(self, service: SearchWorker) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_OfService(service))
        self.requests = Counter(
            "flairsearch_requests", "Requests answered.", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "flairsearch_search_seconds",
            "Searches, from the request to the answer.",
            buckets=_SECONDS,
            registry=self._registry,
        )

    def text(self) -> bytes:
        """All of them; the format's version is in CONTENT_TYPE."""
        return generate_latest(self._registry)


class _OfService:
    """What the service itself counts, read when somebody asks."""

    def __init__(self, service: SearchWorker) -> None:
        self._service = service

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("flairsearch_queue", "Requests that wait.", self._service.waiting)
        images, _ = self._service.catalog.counts()
        yield GaugeMetricFamily("flairsearch_photos", "Photos in the index.", images)
        sizes = dict(self._service.batches)
        buckets = [
            (str(float(bound)), sum(count for size, count in sizes.items() if size <= bound)) for bound in _SIZES
        ]
        buckets.append(("+Inf", sum(sizes.values())))
        total = sum(size * count for size, count in sizes.items())
        yield HistogramMetricFamily("flairsearch_batch_size", "Searches answered at once.", buckets, total)
