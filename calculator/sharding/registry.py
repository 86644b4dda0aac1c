"""The hooks of each sharding that takes part in a micro-batch. DDP only adds resident tensors, so it has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.layers.sharding_hooks import NO_HOOKS
from calculator.sharding.zero.hooks import stage_1, stage_2

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.inputs.sharding import ShardingName
    from calculator.layers.method_hooks import Prepared
    from calculator.layers.sharding_hooks import Hooks

#: What makes the hooks of a run, by the name of its sharding.
HOOKS: dict[ShardingName, Callable[[Prepared], Hooks]] = {"zero1": stage_1, "zero2": stage_2}


def hooks_of(prepared: Prepared) -> Hooks:
    """The hooks of one run of a prepared model."""
    make = HOOKS.get(prepared.device.sharding)
    return NO_HOOKS if make is None else make(prepared)
