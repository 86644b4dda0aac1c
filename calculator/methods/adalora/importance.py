"""The importance of each element, which PEFT keeps (peft.tuners.adalora.layer.RankAllocator.update_ipt)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.methods.adalora.layer import A, B, E
from calculator.resident.per_parameter import PerParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.tensors import ResidentTensor

#: What is kept of each parameter, as PEFT's attributes are called.
_KEPT = ("ipt", "exp_avg_ipt", "exp_avg_unc")

#: The tensors of a parameter's size that are alive at once while its importance is updated.
_TEMPORARIES = 3


def _factors(tensors: Sequence[ResidentTensor]) -> list[ResidentTensor]:
    return [each for each in tensors if each.trained and each.name.rpartition(".")[2] in (A, B, E)]


def statistics(tensors: Sequence[ResidentTensor]) -> tuple[ResidentTensors, ...]:
    """The importance of every factor and its averages."""
    return (PerParameter(_factors(tensors), _KEPT, "optimizer_states"),)


def update(tensors: Sequence[ResidentTensor]) -> tuple[ResidentTensors, ...]:
    """The temporaries of the largest factor's update; one is updated after the other."""
    largest = max(_factors(tensors), key=lambda each: each.bytes // each.count)
    one = replace(largest, count=1, bytes=largest.bytes // largest.count)
    return (PerParameter((one,), ("importance, updated",), "workspace", _TEMPORARIES),)
