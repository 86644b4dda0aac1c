"""Measurements in processes of their own, in which nothing is left of an earlier one.

DeepSpeed keeps tensors and replaces functions of torch until its process ends.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from validation.tracing.silence import silence_libraries

if TYPE_CHECKING:
    from collections.abc import Callable


def in_child(measured: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Run a function in a new process without a CUDA context, and return its result."""
    with ProcessPoolExecutor(1, get_context("spawn"), silence_libraries) as pool:
        return pool.submit(measured, *arguments).result()
