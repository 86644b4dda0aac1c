"""Metrics of the service in Prometheus' format. Those of several processes are added up, from files that they share.

`serve` sets PROMETHEUS_MULTIPROC_DIR before this module is imported, which is when prometheus_client reads it.
"""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

#: The folder of the metrics of several processes.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"

#: Bounds of the histogram, in seconds: from a cached answer to the longest plan.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REQUESTS = Counter("headroom_requests", "Requests by endpoint, method and status.", ("endpoint", "method", "status"))
DURATIONS = Histogram("headroom_request_seconds", "Durations of requests by endpoint.", ("endpoint",), buckets=SECONDS)
ESTIMATES = Counter(
    "headroom_estimates", "Estimates that the JSON API answered: single ones, and points of sweeps.", ("endpoint",)
)
CACHE = Counter("headroom_cache_requests", "Requests that the cache of answers can answer, by result.", ("result",))
CACHE_SIZE = Gauge("headroom_cache_bytes", "Bytes in the cache of answers.", multiprocess_mode="livesum")
REFUSED = Counter("headroom_refused_requests", "Requests that were refused because too many wait.", ("endpoint",))
IN_FLIGHT = Gauge(
    "headroom_requests_in_flight", "Requests that are being answered or wait.", multiprocess_mode="livesum"
)

MEDIA_TYPE = CONTENT_TYPE_LATEST


def exposition() -> bytes:
    """Return the metrics of every process."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return generate_latest(REGISTRY)
    _forget_dead(Path(folder))
    registry = CollectorRegistry()
    MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def _forget_dead(folder: Path) -> None:
    """Remove the gauges of processes that have ended. Their counters stay."""
    for pid in {int(path.stem.rpartition("_")[2]) for path in folder.glob("gauge_livesum_*.db")}:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
