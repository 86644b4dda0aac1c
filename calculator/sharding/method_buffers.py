"""Checks of the buffers that a method adds to a model, which a sharding does not cast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.methods.prepared_model import PreparedModel


def buffer_problems(prepared: PreparedModel) -> Iterator[Problem]:
    """Yield buffers in another dtype than that to which a sharding casts the parameters.

    Most methods multiply both, which PyTorch refuses.

    Sources: deepspeed/runtime/engine.py, _cast_module_mixed_precision; torch/distributed/fsdp/_fully_shard, whose
    mixed precision is of parameters.
    """
    given, sharding, like = prepared.given, prepared.device.sharding, prepared.method.facts.buffers_like
    dtype = given.autocast if sharding == "fsdp" else prepared.cast_added_to
    if like is None or dtype is None:
        return
    field, own = ("dtype", given.dtype) if like == "base" else ("adapter_dtype", given.added_dtype)
    if own != dtype:
        mixes = prepared.method.facts.mixes_buffers
        reason = "their products are not modeled" if mixes else "PyTorch refuses their products"
        message = (
            f"{sharding} casts the parameters of {prepared.method.title} to {dtype}, but not its buffers, which stay in"
            f" {own}, and {reason}: set training.dtype {dtype}"
        )
        instead = " and training.adapter_dtype model" if like == "adapters" else ""
        yield Problem(loc=f"training.{field}", msg=f"{message}{instead}", input=getattr(given, field))
