"""The tensors in DeepSpeed's checkpoints of ZeRO's stages 1 and 2.

The files are pickles of DeepSpeed's own state, with the run's config in them: besides the tensors, each has some
kilobytes, and more where a model has many parameters, whose names and places it lists.

Sources: deepspeed 0.19.8, runtime/engine.py (_save_checkpoint, _save_zero_checkpoint) and runtime/zero/
stage_1_and_2.py (state_dict).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.common.dtype import ITEMSIZE

if TYPE_CHECKING:
    from calculator.sharding.zero.state import FlatState

#: The number of an optimizer's steps, which is a tensor.
_STEP = ITEMSIZE["float32"]


def weights_bytes(state: FlatState) -> int:
    """The flat weights, whose storages mp_rank_00_model_states.pt has."""
    return sum(group.padded for group in state.partitions.groups) * ITEMSIZE[state.dtype]


def partition_bytes(state: FlatState) -> int:
    """The masters of one process's partitions, with the optimizer's states."""
    optimizer = replace(state.optimizer, step_on_device=False)
    steps = _STEP if optimizer.names else 0
    copies = 1 + len(optimizer.names)
    return sum(
        group.partition * copies * ITEMSIZE["float32"] + steps for group in state.partitions.groups if group.partition
    )
