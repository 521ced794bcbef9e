"""What Prometheus reads from `/metrics`."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The counts of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "fastlane_requests", "Requests.", ["method", "path", "status"], registry=self.registry
        )
        self._seconds = self._histogram("request", "From a request to its answer.", ["path"])
        self._batch_sizes = Histogram(
            "fastlane_batch_size",
            "Queries that were encoded and searched at once.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self._stages = self._histogram("stage", "Stages of a query's search.", ["stage"])
        self._changed = Counter(
            "fastlane_documents_changed",
            "Documents added, replaced and deleted.",
            ["change"],
            registry=self.registry,
        )

    def _histogram(self, name: str, text: str, labels: list[str]) -> Histogram:
        return Histogram(
            f"fastlane_{name}_seconds", text, labels, buckets=SECONDS, registry=self.registry
        )

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Shows a value as it is when the metrics are read."""
        Gauge(f"fastlane_{name}", text, registry=self.registry).set_function(value)

    def observe_request(self, method: str, path: str, status: int, seconds: float) -> None:
        """Counts a request."""
        self._requests.labels(method, path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def observe_batch(self, size: int) -> None:
        """Counts a batch."""
        self._batch_sizes.observe(size)

    def observe_stages(self, **seconds: float) -> None:
        """Counts what a query took, stage by stage."""
        for stage, value in seconds.items():
            self._stages.labels(stage).observe(value)

    def observe_change(self, change: str, count: int) -> None:
        """Counts changed documents."""
        self._changed.labels(change).inc(count)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        written: bytes = generate_latest(self.registry)
        return written
