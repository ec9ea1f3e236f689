"""Prometheus metrics of a server, and an access log of JSON lines."""

import json
import logging
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from zoomldm.viewer.tiles import TileService

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_log = logging.getLogger("zoomldm.viewer.access")
_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)


class _Service:
    """Metrics read from the tile service on request."""

    def __init__(self, service: TileService) -> None:
        self.service = service

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; called by Prometheus' client."""
        service = self.service
        hits = CounterMetricFamily(
            "zoomldm_tiles", "Tiles requested, by where they were found.", labels=["found"]
        )
        for where, count in service.hits.items():
            hits.add_metric([where], count)
        yield hits
        done = CounterMetricFamily(
            "zoomldm_work", "Calls of the work queues, by how they ended.", labels=["queue", "end"]
        )
        seconds = CounterMetricFamily(
            "zoomldm_work_seconds", "Seconds spent on finished calls.", labels=["queue"]
        )
        waiting = GaugeMetricFamily(
            "zoomldm_work_waiting", "Calls that have not begun.", labels=["queue"]
        )
        for name, queue in (("read", service.reading), ("generate", service.making)):
            for end in ("done", "failed", "joined", "abandoned", "refused"):
                done.add_metric([name, end], getattr(queue.counts, end))
            seconds.add_metric([name], queue.counts.seconds)
            waiting.add_metric([name], queue.waiting)
        yield done
        yield seconds
        yield waiting
        cache = GaugeMetricFamily("zoomldm_cache_bytes", "Bytes cached.", labels=["where"])
        cache.add_metric(["memory"], service.cache.memory_bytes)
        cache.add_metric(["disk"], service.cache.disk_bytes)
        yield cache
        yield CounterMetricFamily(
            "zoomldm_cache_faults", "Reads and writes that failed on disk.", service.cache.faults
        )


class Telemetry:
    """Metrics and access log of one server.

    Args:
        service: the service whose queues and cache are reported.
    """

    def __init__(self, service: TileService) -> None:
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            "zoomldm_request_seconds",
            "Response time, by kind of path.",
            ["kind"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._requests = Counter(
            "zoomldm_requests",
            "Responses, by kind of path and status.",
            ["kind", "status"],
            registry=self.registry,
        )
        self.registry.register(_Service(service))
        self._kinds: dict[str, tuple[Histogram, dict[int, Counter]]] = {}

    def seen(
        self, method: str, path: str, status: int, seconds: float, sent: int, client: str
    ) -> None:
        """Count and log one response."""
        kind = _kind(path)
        histogram, counters = self._kinds.setdefault(kind, (self._seconds.labels(kind), {}))
        histogram.observe(seconds)
        if status not in counters:
            counters[status] = self._requests.labels(kind, str(status))
        counters[status].inc()
        if _log.isEnabledFor(logging.INFO):
            entry = {
                "method": method,
                "path": path[:512],
                "status": status,
                "ms": round(seconds * 1e3, 2),
                "bytes": sent,
                "client": client,
            }
            _log.info("%s", json.dumps(entry))

    def page(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


_KNOWN = ("tiles", "regions", "api", "static", "dzi", "health", "metrics")


def _kind(path: str) -> str:
    """Return the first part of a path: few values, whatever clients request."""
    first = path.split("/", 2)[1] if path.count("/") else ""
    if not first:
        return "page"
    return first if first in _KNOWN else "other"
