"""The series caches of the last kinds of requests in this process, so that the next request of a kind is quick.

Requests are of one kind if they differ in sizes alone: batch, length, rank, virtual tokens, bottleneck. An answer is
equal with and without a cache.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING

from calculator.common.errors import PlanError
from calculator.devices.kernels import kernels_of
from calculator.estimation.series import SeriesCache
from calculator.inputs.size_settings import other_settings

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from calculator.estimation.request import Request

#: The most kinds whose cache is kept. One takes some hundred kilobytes.
MAX_KINDS = 64


class RecentSeries:
    """Series caches by kind of request; where there are too many, the one that was not used for longest goes.

    A cache is lent to one request at a time. Where several threads answer requests of one kind at once, the others work
    without it.
    """

    __slots__ = ("_kept", "_lock", "_most")

    def __init__(self, most: int = MAX_KINDS) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, SeriesCache] = OrderedDict()
        self._lock = Lock()

    @contextmanager
    def lent(self, request: Request, *, once: bool = False) -> Iterator[tuple[Request, SeriesCache]]:
        """Lend the cache of a request's kind, with the request on the cache's own model.

        The first request of a kind is traced by the rule, on one GPU and under ZeRO-3, unless it is asked `once`. The
        first of others would take 10 to 40 % longer.
        """
        kind = _kind(request)
        if kind is None:
            yield request, SeriesCache()
            return
        is_quick = request.reserved == "rule" and request.device.sharding in ("none", "zero3")
        with self._lock:
            series = self._kept.pop(kind, None) or SeriesCache(traces_first=is_quick and not once)
        if request.model.config is not None:
            # The caller's config may change later: the cache has its own.
            own = series.reference or replace(request.model, config=json.loads(kind[0]))
            request = replace(request, model=own)
        yield request, series
        with self._lock:
            self._kept[kind] = series
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget every kind."""
        with self._lock:
            self._kept.clear()


def _kind(request: Request) -> tuple[str, Hashable] | None:
    """All of a request that decides which operations run; None where it cannot be compared.

    Configs are compared as text, in which true is not 1.
    """
    config = request.model.config
    try:
        text = json.dumps(config)
        if config is not None and json.loads(text) != config:
            return None
        device = request.device
        settings = (
            other_settings(request.method),
            other_settings(request.training),
            request.stack,
            kernels_of(device, request.stack, request.training.kernels),
            device.divided,
        )
        hash(settings)
    except (PlanError, TypeError, ValueError):
        return None
    return text, (request.model.id, request.model.task, settings)


#: The kinds of the requests that this process answered last.
RECENT_SERIES = RecentSeries()
