"""Series caches for the most recent kinds of requests in this process.

Requests are of one kind if they differ in sizes alone: batch, length, rank, virtual tokens, bottleneck. The next
request of a kind is quick. The answer is the same with and without a cache.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING

from calculator.common.errors import PlanError
from calculator.devices.kernels import kernels_of
from calculator.estimation.series import SeriesCache
from calculator.inputs.size_settings import other_settings

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from calculator.estimation.request import Request

#: The maximum number of kinds whose caches are kept. A cache takes some hundred kilobytes.
MAX_KINDS = 64

#: The number of the most recent of them that keep a step under ZeRO, which takes some ten megabytes.
MAX_STEPS = 4


class RecentSeries:
    """Series caches by kind of request. The least recently used cache is dropped first.

    A cache is lent to one request at a time. If several threads answer requests of one kind at once, the others work
    without a cache.
    """

    __slots__ = ("_kept", "_lock", "_most")

    def __init__(self, most: int = MAX_KINDS) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, SeriesCache] = OrderedDict()
        self._lock = Lock()

    @contextmanager
    def borrow(self, request: Request, *, once: bool = False) -> Iterator[tuple[Request, SeriesCache]]:
        """Lend the cache of a request's kind, with the request on the cache's own model.

        The first request of a kind is traced if it is by the rule, on one GPU or under ZeRO-3, unless `once` is true.
        For others, a trace would take 10 to 40 % longer than the first request.
        """
        kind = _kind(request)
        if kind is None:
            yield request, SeriesCache()
            return
        is_quick = request.reserved == "rule" and request.device.sharding in ("none", "zero3")
        with self._lock:
            series = self._kept.pop(kind, None) or SeriesCache(traces_first=is_quick and not once)
        if request.model.config is not None:
            # The caller may change its config later, so the cache has a copy.
            model = series.reference or replace(request.model, config=json.loads(kind[0]))
            request = replace(request, model=model)
        yield request, series
        with self._lock:
            self._kept[kind] = series
            for earlier in islice(reversed(self._kept.values()), MAX_STEPS, MAX_STEPS + 1):
                earlier.unrolled.drop_step()
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget every kind."""
        with self._lock:
            self._kept.clear()


def _kind(request: Request) -> tuple[str, Hashable] | None:
    """Return everything in a request that determines which operations run, or None if it cannot be compared.

    Configs are compared as text, in which true is not 1.
    """
    config = request.model.config
    try:
        text = "" if config is None else json.dumps(config)
        if config is not None and json.loads(text) != config:
            return None
        device = request.device
        settings = (
            other_settings(request.method),
            other_settings(request.training),
            request.stack,
            kernels_of(device, request.stack, request.training.kernels),
            device.sharded_over,
        )
        hash(settings)
    except (PlanError, TypeError, ValueError):
        return None
    return text, (request.model.id, request.model.task, settings)


#: The caches of the kinds of requests that this process answered most recently.
RECENT_SERIES = RecentSeries()
