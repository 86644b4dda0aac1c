"""Processes that run one trace each: Liger patches classes for good, and TRL is imported with other device tests.

A server imports the libraries once; each process is a fork of it.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor

#: The modules that the server imports before it forks.
PRELOADED = "validation.tracing.preloaded"


def each_alone(function: Callable[[Any], Any], items: Iterable[Any], processes: int) -> Iterator[tuple[Any, Any]]:
    """Call a function with each item in a new process; yield items with results as they finish."""
    context = get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    with ProcessPoolExecutor(processes, context, max_tasks_per_child=1) as pool:
        yield from each_in_pool(pool, function, items)


def each_in_pool(pool: Executor, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Call a function with each item in a pool; yield items with results as they finish.

    An error, and a caller that stops early, cancel the calls that have not begun.
    """
    waiting = {pool.submit(function, item): item for item in items}
    try:
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise


def in_new_process(function: Callable[[Any], Any], item: Any) -> Any:
    """Call a function with an item in a new process."""
    return next(each_alone(function, [item], 1))[1]
