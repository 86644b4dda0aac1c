"""The calculator's prediction for a measured step: the phases' peaks, resident bytes and reserved bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calculator.common.dtype import ITEMSIZE, rounded
from calculator.estimation.estimate import estimate, training_step
from calculator.methods import QLoRA
from calculator.resident.per_parameter import tensors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.estimation.request import Request
    from calculator.resident.per_parameter import ResidentTensors


def predicted(request: Request) -> dict[str, Any]:
    """Predicted bytes, as the results file has them.

    `load` is weights and constants, with the biases that the first step casts. `end` is after an optimizer step, with
    the gradients still alive. `phases` has the peak of each. `reserved_rule` and `reserved_replay` are
    `peak_reserved_bytes` by the two values of `reserved`.
    """
    by_rule = estimate(replace(request, reserved="rule"))
    replayed = estimate(replace(request, reserved="replay"))
    step = training_step(request)
    resident = step.resident
    states = (*resident.optimizer_states, *resident.gradients)
    left = step.peaks()[-1].left
    return {
        "load": _bytes(resident.tensors) + _cast_in_first_step(request, resident.tensors),
        "end": _bytes((*resident.tensors, *states)) + (0 if left is None else left.bytes),
        "phases": {phase.name: phase.peak_bytes for phase in by_rule.memory.phases},
        "peak_allocated": by_rule.memory.peak_allocated_bytes,
        "library_workspace": by_rule.memory.library_workspace_bytes,
        "reserved_rule": by_rule.memory.peak_reserved_bytes,
        "reserved_replay": replayed.memory.peak_reserved_bytes,
        "required": by_rule.memory.required_bytes,
    }


def _cast_in_first_step(request: Request, resident: Iterable[ResidentTensors]) -> int:
    """Return the bytes that the first step frees when it casts biases of 4-bit layers back from float32.

    Source: peft/utils/other.py, prepare_model_for_kbit_training; bitsandbytes/nn/modules.py, Linear4bit.forward.
    """
    if not isinstance(request.method, QLoRA) or not request.method.prepare_model_for_kbit_training:
        return 0
    base = [tensor for tensor in tensors(resident) if tensor.base]
    layers = {tensor.name.removesuffix(".weight") for tensor in base if tensor.packed}
    biases = [tensor for tensor in base if tensor.name.endswith(".bias") and tensor.name[: -len(".bias")] in layers]
    return sum(rounded(bias.parameters * ITEMSIZE["float32"]) * bias.count - bias.bytes for bias in biases)


def _bytes(tensors: Iterable[ResidentTensors]) -> int:
    return sum(tensor.bytes for tensor in tensors)
