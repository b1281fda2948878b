"""What Prometheus reads from `/metrics`."""

from __future__ import annotations

from typing import Any

from eyespot.errors import require_extra

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters of one server, in a registry of their own.

    Raises:
        MissingExtraError: prometheus_client is not installed.
    """

    def __init__(self) -> None:
        require_extra("serve", "prometheus_client")
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "eyespot_requests", "Requests by path, method and status.", ("path", "method", "status"), registry=registry
        )
        self.seconds = Histogram(
            "eyespot_request_seconds", "From the headers to the answer.", buckets=_SECONDS, registry=registry
        )
        self.pictures = Counter(
            "eyespot_pictures", "Pictures by outcome: answered, unknown or bad.", ("outcome",), registry=registry
        )
        self.decode_seconds = Histogram(
            "eyespot_decode_seconds", "Decoding of one picture.", buckets=_SECONDS, registry=registry
        )
        self.compute_seconds = Histogram(
            "eyespot_compute_seconds", "Forward pass of one batch.", buckets=_SECONDS, registry=registry
        )
        self.batch_pictures = Histogram(
            "eyespot_batch_pictures", "Pictures in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.waiting = Gauge("eyespot_waiting_pictures", "Accepted and not answered.", registry=registry)
        self.bytes = Gauge("eyespot_waiting_bytes", "Bodies in memory.", registry=registry)

    def watch(self, waiting: Any, held_bytes: Any) -> None:
        """Take the two gauges from these functions."""
        self.waiting.set_function(waiting)
        self.bytes.set_function(held_bytes)

    def text(self) -> bytes:
        """Return the page that Prometheus scrapes."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)
