"""The sampling profiler of dask's workers, which must not run while a step is interpreted."""

from __future__ import annotations

import sys
from threading import Event

#: How long to wait for the worker's event loop, in seconds.
PATIENCE = 30


def stop_profiler() -> None:
    """Stop the profiler of the dask worker that runs this task, if one does.

    A tensor of the interpreted step is freed when its last reference goes. The profiler reads `sys._current_frames`
    every 10 ms, and a frame keeps its local variables: tensors would live longer, and peaks would be too high.
    Source: distributed/worker.py, Worker.trigger_profile.
    """
    if "distributed.worker" not in sys.modules:
        return
    from distributed import get_worker  # noqa: PLC0415  an extra installs it

    try:
        worker = get_worker()
    except ValueError:  # no task of dask
        return
    profile = worker.periodic_callbacks.get("profile")
    if profile is None or not profile.is_running():
        return
    stopped = Event()

    def stop() -> None:
        profile.stop()
        stopped.set()

    worker.loop.add_callback(stop)
    if not stopped.wait(PATIENCE):
        raise TimeoutError(f"the event loop of a dask worker did not answer in {PATIENCE} s")
