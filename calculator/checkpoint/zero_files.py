"""The tensors in DeepSpeed's ZeRO checkpoints.

The files are pickles of DeepSpeed's own state and contain the config of the run. In addition to the tensors, each file
has some kilobytes, and more for models with many parameters, whose names and places it lists.

Sources: deepspeed 0.19.8, runtime/engine.py (_save_checkpoint, _save_zero_checkpoint) and runtime/zero/stage_1_and_2.py
and stage3.py (state_dict).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.common.dtype import ITEMSIZE

if TYPE_CHECKING:
    from calculator.resident.optimizer import Optimizer
    from calculator.sharding.zero.state import FlatState
    from calculator.sharding.zero3.state import PartitionedState

#: The size of the step count of an optimizer, a tensor, in bytes.
_STEP = ITEMSIZE["float32"]


def weights_bytes(state: FlatState) -> int:
    """Return the size of the flat weights, whose storages are in mp_rank_00_model_states.pt."""
    return sum(group.padded for group in state.partitions.groups) * ITEMSIZE[state.dtype]


def partition_bytes(state: FlatState) -> int:
    """Return the size of one process's partitions: master weights and optimizer states."""
    sizes = [group.partition for group in state.partitions.groups]
    return sum(_with_states(size, state.optimizer) for size in sizes if size)


def sub_groups_bytes(state: PartitionedState) -> int:
    """Return the size of one process's sub-groups in stage 3: master weights and optimizer states."""
    sizes = [sum(tensor.partition for tensor in group) for group in state.sub_groups]
    return sum(_with_states(size, state.optimizer) for size in sizes)


def _with_states(size: int, optimizer: Optimizer) -> int:
    """Return the size of a flat master weight with this many elements, and of its states."""
    steps = _STEP if replace(optimizer, step_on_device=False).names else 0
    return size * (1 + len(optimizer.names)) * ITEMSIZE["float32"] + steps
