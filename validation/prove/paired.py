"""Two things timed in turns, so that what slows the machine down slows both, and their ratio stands.

On a CPU with one thread the clock is the process's own, which stands still while other processes have the processor.
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
    """By round, how many times as long as the base another thing takes, and the base as itself.

    `control` is what "the same" looks like while it was measured: a round of the base over the one before it.
    """

    ratios: list[float]
    control: list[float]


def paired(base: Callable[[], object], other: Callable[[], object], *, rounds: int, device: torch.device) -> Paired:
    """Time the base, the other, the base, ..., the base; each round of the other over one of its neighbours."""
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
    neighbours = list(pairwise(bases))
    return Paired(
        ratios=[own / both[turn % 2] for turn, (own, both) in enumerate(zip(others, neighbours, strict=True))],
        control=[after / before for before, after in neighbours],
    )


def quartiles(key: str, name: str, found: Sequence[float]) -> Figure:
    """The median of some ratios, with the quartiles as its spread."""
    low, middle, high = quantiles(found, n=4, method="inclusive")
    return Figure(key=key, name=name, value=middle, unit="×", low=low, high=high, of=len(found), timing=True)


def uncertainty(figure: Figure) -> float:
    """How far the median of so many rounds may lie from the true one, at 95 % (McGill et al. 1978, notches)."""
    assert figure.low is not None
    assert figure.high is not None
    assert figure.of
    return 1.57 * (figure.high - figure.low) / sqrt(figure.of)


def _seconds(told: Callable[[], object], device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    _wait(device)
    start = clock()
    told()
    _wait(device)
    return clock() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
