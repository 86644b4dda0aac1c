"""The tensors in DeepSpeed's checkpoints of ZeRO.

The files are pickles of DeepSpeed's own state, with the run's config in them: in addition to the tensors, each has some
kilobytes, and more where a model has many parameters, whose names and places it lists.

Sources: deepspeed 0.19.8, runtime/engine.py (_save_checkpoint, _save_zero_checkpoint) and runtime/zero/
stage_1_and_2.py and stage3.py (state_dict).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.common.dtype import ITEMSIZE

if TYPE_CHECKING:
    from calculator.resident.optimizer import Optimizer
    from calculator.sharding.zero.state import FlatState
    from calculator.sharding.zero3.state import PartitionedState

#: The number of an optimizer's steps, which is a tensor.
_STEP = ITEMSIZE["float32"]


def weights_bytes(state: FlatState) -> int:
    """The flat weights, whose storages mp_rank_00_model_states.pt has."""
    return sum(group.padded for group in state.partitions.groups) * ITEMSIZE[state.dtype]


def partition_bytes(state: FlatState) -> int:
    """The masters of one process's partitions, with the optimizer's states."""
    sizes = [group.partition for group in state.partitions.groups]
    return sum(_with_states(size, state.optimizer) for size in sizes if size)


def sub_groups_bytes(state: PartitionedState) -> int:
    """The masters of one process's sub-groups of stage 3, with the optimizer's states."""
    sizes = [sum(each.partition for each in group) for group in state.sub_groups]
    return sum(_with_states(size, state.optimizer) for size in sizes)


def _with_states(size: int, optimizer: Optimizer) -> int:
    """The bytes of a flat master of this many elements and of its states."""
    steps = _STEP if replace(optimizer, step_on_device=False).names else 0
    return size * (1 + len(optimizer.names)) * ITEMSIZE["float32"] + steps
