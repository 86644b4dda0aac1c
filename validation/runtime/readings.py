"""The figures that a running training measures after a step, and the calculator's predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from calculator.common.dtype import rounded
from calculator.estimation.estimate import estimate, resident_state
from calculator.trainers import trainer_of
from calculator.trainers.resident import kept

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.estimation.request import Request

#: The statistics of a GPU, by torch.cuda's names.
ON_CUDA = ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved")

#: The statistic of a CPU: the storages of weights, buffers and optimizer states.
RESIDENT = "resident"


def predicted(request: Request, device: torch.device) -> dict[str, int]:
    """Return the bytes of each statistic that the device measures, after the second step or a later one."""
    memory = estimate(request).memory
    resident = resident_state(request)
    states = sum(tensor.bytes for tensor in (*resident.tensors, *resident.optimizer_states))
    if device.type != "cuda":
        trainer_tensors = kept(trainer_of(resident.prepared.training), resident.prepared)
        return {RESIDENT: states - sum(tensor.bytes for tensor in trainer_tensors)}
    return {
        "memory_allocated": states + memory.library_workspace_bytes,
        "max_memory_allocated": memory.peak_allocated_bytes + memory.library_workspace_bytes,
        "max_memory_reserved": memory.peak_reserved_bytes,
    }


def measured(model: Any, optimizer: Any, device: torch.device) -> dict[str, int]:
    """Return the bytes of each statistic."""
    if device.type == "cuda":
        return {name: getattr(torch.cuda, name)(device) for name in ON_CUDA}
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in _resident_tensors(model, optimizer)
    }
    return {RESIDENT: sum(map(rounded, storages.values()))}


def _resident_tensors(model: Any, optimizer: Any) -> Iterator[torch.Tensor]:
    """Yield weights, buffers and states. Only a fused optimizer has the count of steps on the GPU."""
    yield from model.parameters()
    yield from model.buffers()
    fused = any(group.get("fused") for group in optimizer.param_groups)
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and (fused or name != "step"):
                yield value
