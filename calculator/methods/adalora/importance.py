"""The importance of each element, which PEFT stores (peft.tuners.adalora.layer.RankAllocator.update_ipt)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.methods.adalora.layer import A, B, E
from calculator.resident.per_parameter import PerParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.tensor import ResidentTensor

#: The tensors that are stored for each parameter, with the names of PEFT's attributes.
_KEPT = ("ipt", "exp_avg_ipt", "exp_avg_unc")

#: The number of tensors of a parameter's size that are alive while its importance is updated.
_TEMPORARIES = 3


def _factors(tensors: Sequence[ResidentTensor]) -> list[ResidentTensor]:
    return [tensor for tensor in tensors if tensor.trained and tensor.name.rpartition(".")[2] in (A, B, E)]


def statistics(tensors: Sequence[ResidentTensor]) -> tuple[ResidentTensors, ...]:
    """Return the importance of every factor, and its averages."""
    return (PerParameter(_factors(tensors), _KEPT, "optimizer_states"),)


def update(tensors: Sequence[ResidentTensor]) -> tuple[ResidentTensors, ...]:
    """Return the temporaries of the largest factor's update. The factors are updated one after the other."""
    largest = max(_factors(tensors), key=lambda factor: factor.bytes // factor.count)
    one = replace(largest, count=1, bytes=largest.bytes // largest.count)
    return (PerParameter((one,), ("importance, updated",), "workspace", _TEMPORARIES),)
