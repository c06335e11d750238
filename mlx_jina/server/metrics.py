"""Metrics for Prometheus, which GET /metrics returns."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# Buckets from a short query on a GPU to a long document on a CPU.
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("mlx_jina_requests", "Requests answered", ["path", "status"], registry=registry)
        self._seconds = Histogram(
            "mlx_jina_request_seconds",
            "Time to an answer, before it is sent",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        # What `labels` finds takes longer to find than to count with.
        self._answered: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self._gone = Counter("mlx_jina_hung_up", "Clients that did not take their answer", registry=registry)
        self._truncated = Counter("mlx_jina_truncated_texts", "Texts that were cut", ["model"], registry=registry)
        self._texts = Counter("mlx_jina_texts", "Texts embedded", ["model"], registry=registry)
        self._tokens = Counter("mlx_jina_tokens", "Tokens embedded", ["model"], registry=registry)
        self._batches = Counter("mlx_jina_batches", "Forward passes", ["model"], registry=registry)
        self._busy = Counter("mlx_jina_forward_seconds", "Time in forward passes", ["model"], registry=registry)

    def gauge(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Add a value that is computed whenever Prometheus asks for it."""
        Gauge(f"mlx_jina_{name}", meaning, registry=self._registry).set_function(value)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request that has its answer."""
        if (path, status) not in self._answered:
            self._answered[path, status] = self._requests.labels(path, str(status)), self._seconds.labels(path)
        requests, durations = self._answered[path, status]
        requests.inc()
        durations.observe(seconds)

    def hung_up(self) -> None:
        """Count a client that left, or stopped reading its answer."""
        self._gone.inc()

    def truncated(self, model: str, texts: int) -> None:
        """Count the cut texts of a request."""
        self._truncated.labels(model).inc(texts)

    def batch(self, model: str, texts: int, tokens: int, seconds: float) -> None:
        """Count a forward pass. May be called from any thread."""
        self._texts.labels(model).inc(texts)
        self._tokens.labels(model).inc(tokens)
        self._batches.labels(model).inc()
        self._busy.labels(model).inc(seconds)

    def page(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
