"""Paired timings: two functions are timed alternately, so a slower machine slows both, and their ratio is stable.

On a CPU with one thread the clock is the process's CPU time, which stops while other processes run.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from statistics import quantiles
from typing import TYPE_CHECKING

import torch

from validation.prove.claim import Figure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Ratios by round: the other function's time over the base's, and the base's over its own round before.

    `control` shows the noise of the measurement, because its true ratio is 1.
    """

    ratios: list[float]
    control: list[float]


def paired(base: Callable[[], object], other: Callable[[], object], *, rounds: int, device: torch.device) -> Paired:
    """Time base, other, base, ..., base; divide each round of the other by the base's round before or after it."""
    for warm_up in (base, other):
        _seconds(warm_up, device)
    gc.disable()
    try:
        bases, others = [_seconds(base, device)], []
        for _ in range(rounds):
            others.append(_seconds(other, device))
            bases.append(_seconds(base, device))
    finally:
        gc.enable()
    neighbors = list(pairwise(bases))
    return Paired(
        ratios=[time / pair[number % 2] for number, (time, pair) in enumerate(zip(others, neighbors, strict=True))],
        control=[after / before for before, after in neighbors],
    )


def quartiles(key: str, name: str, values: Sequence[float]) -> Figure:
    """Return the median of ratios, with their quartiles as the spread."""
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return Figure(key=key, name=name, value=middle, unit="×", low=low, high=high, of=len(values), timing=True)


def median_uncertainty(figure: Figure) -> float:
    """Return the half-width of a median's 95 % confidence interval (McGill et al. 1978, notches)."""
    assert figure.low is not None
    assert figure.high is not None
    assert figure.of
    return 1.57 * (figure.high - figure.low) / sqrt(figure.of)


def _seconds(timed: Callable[[], object], device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    _synchronize(device)
    start = clock()
    timed()
    _synchronize(device)
    return clock() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
