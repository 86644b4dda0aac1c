"""The precision of a run under DeepSpeed: what Trainer's `bf16=True` does to its weights.

DeepSpeed casts every floating-point parameter of the model to bfloat16 and keeps float32 masters of what it trains. The
step runs without autocast.

Source: deepspeed/runtime/engine.py, _cast_module_mixed_precision.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.inputs.sharding import STAGES

if TYPE_CHECKING:
    from calculator.common.dtype import DType
    from calculator.inputs.device import Device
    from calculator.inputs.training import Training
    from calculator.resident.module_spec import ModuleSpec


def cast_to(training: Training, device: Device) -> DType | None:
    """The dtype that every parameter is cast to after the method is applied; None if each keeps its own."""
    return training.autocast if device.sharding in STAGES else None


def of_step(training: Training, device: Device) -> Training:
    """The training that the step runs: in the weights' dtype instead of under autocast."""
    if cast_to(training, device) is None:
        return training
    dtype = training.autocast or training.dtype
    return replace(training, dtype=dtype, autocast=None, adapter_dtype="model")


def cast(spec: ModuleSpec, dtype: DType | None) -> ModuleSpec:
    """How a module is stored once its parameters are cast. Weights in 4 bits and their constants stay."""
    if dtype is None:
        return spec
    added = tuple(replace(each, dtype=dtype) for each in spec.added)
    return replace(spec, dtype=dtype, added=added, cast_to=dtype)
