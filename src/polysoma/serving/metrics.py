"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """What ``/metrics`` tells."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("polysoma_requests", "Requests by body", ["embodiment"], registry=self.registry)
        self.refused = Counter("polysoma_refused", "Requests that were refused", registry=self.registry)
        self.late = Counter("polysoma_late", "Answers after their deadline", ["embodiment"], registry=self.registry)
        self.limited = Counter(
            "polysoma_limited", "Actions in answers that limits changed", ["embodiment"], registry=self.registry
        )
        self._replaced = Counter(
            "polysoma_guard_replaced", "Plans that a guard replaced", ["embodiment"], registry=self.registry
        )
        self._alarms = Counter(
            "polysoma_guard_alarms", "Plans at which a guard raised an alarm", ["embodiment"], registry=self.registry
        )
        self.clients = Gauge("polysoma_clients", "Connections", registry=self.registry)
        self.batch = Histogram(
            "polysoma_batch_size", "Requests in a batch", buckets=(1, 2, 4, 8, 16, 32, 64), registry=self.registry
        )
        self.seconds = Histogram(
            "polysoma_answer_seconds",
            "From the arrival of a request to its answer",
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2),
            registry=self.registry,
        )

    def guarded(self, body: str, said: Mapping[str, Any]) -> None:
        """Counts what a guard said of a plan."""
        self._replaced.labels(body).inc("replaced" in said)
        self._alarms.labels(body).inc(bool(said["alarm"]))
