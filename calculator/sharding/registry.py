"""The registry of shardings: the tensors that a rank keeps, and the hooks of a micro-batch."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.layers.sharding_hooks import NO_HOOKS
from calculator.sharding.fsdp.evaluation import EvaluationBatch
from calculator.sharding.fsdp.generation import GenerationPass
from calculator.sharding.fsdp.micro_batch import MicroBatch
from calculator.sharding.fsdp.shards import FSDPShards
from calculator.sharding.shards import Shards
from calculator.sharding.zero.hooks import stage_1, stage_2
from calculator.sharding.zero3.hooks import stage_3

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.inputs.sharding import ShardingName
    from calculator.layers.sharding_hooks import Hooks
    from calculator.methods.prepared_model import PreparedModel
    from calculator.sharding.fsdp.generation import PassOf

#: The tensors that a rank keeps, by the name of the sharding. Shardings that keep all tensors are left out.
SHARDS: dict[ShardingName, type[Shards]] = {"fsdp": FSDPShards}

#: The hooks of a step's last micro-batch, by the name of the sharding. DDP only adds resident tensors.
HOOKS: dict[ShardingName, Callable[[PreparedModel], Hooks]] = {
    "zero1": stage_1,
    "zero2": stage_2,
    "zero3": stage_3,
    "fsdp": MicroBatch,
}

#: The hooks of a micro-batch before the last, for shardings under which it differs from the last.
BEFORE_LAST: dict[ShardingName, Callable[[PreparedModel], Hooks]] = {"fsdp": partial(MicroBatch, reduces=False)}


def shards_of(prepared: PreparedModel) -> Shards:
    """Return the tensors that a rank keeps of a prepared model."""
    return SHARDS.get(prepared.device.sharding, Shards)(prepared)


def hooks_of(prepared: PreparedModel, *, reduces: bool = True) -> Hooks:
    """Return the hooks of one micro-batch.

    `reduces`: whether it is the last of its step, in which gradients are reduced.
    """
    make = (HOOKS if reduces else BEFORE_LAST).get(prepared.device.sharding)
    return NO_HOOKS if make is None else make(prepared)


def evaluation_hooks(
    prepared: PreparedModel, gathered: frozenset[str] | None = None, *, follows_generation: bool = False
) -> Hooks:
    """Return the hooks of a batch of an evaluation.

    `gathered`: what the previous batch left gathered (`Hooks.left_gathered`). None if neither a batch nor `generate`
    ran before.
    """
    sharding = prepared.device.sharding
    if sharding == "fsdp":
        return EvaluationBatch(prepared, gathered, follows_generation=follows_generation)
    return stage_3(prepared) if sharding == "zero3" else NO_HOOKS


def generation_hooks(prepared: PreparedModel, which: PassOf, *, is_first: bool = True) -> Hooks:
    """Return the hooks of a pass of `generate`. TRL gathers all weights of ZeRO's stage 3 before it.

    `is_first`: whether no batch of an evaluation ran before it.
    """
    return GenerationPass(prepared, which, is_first=is_first) if prepared.device.sharding == "fsdp" else NO_HOOKS
