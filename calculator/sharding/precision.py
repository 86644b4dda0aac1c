"""The precision of a run under DeepSpeed: what `bf16=True` in the Trainer does to its weights.

DeepSpeed casts every floating-point parameter of the model to bfloat16 and keeps float32 master weights of the trained
ones. The step runs without autocast. A model under deepspeed.zero.Init is created in bfloat16, and what PEFT adds to it
is not cast.

Source: deepspeed/runtime/engine.py, _configure_distributed_model and _cast_module_mixed_precision.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.inputs.sharding import STAGES

if TYPE_CHECKING:
    from calculator.common.dtype import DType
    from calculator.inputs.device import Device
    from calculator.inputs.training import Training
    from calculator.methods.base import Method
    from calculator.resident.module_spec import ModuleSpec


def cast_to(training: Training, device: Device) -> DType | None:
    """Return the dtype that every parameter is cast to after the method is applied, or None if each keeps its own."""
    return training.autocast if device.sharding in STAGES else None


def is_built_partitioned(training: Training, device: Device, method: Method) -> bool:
    """Return whether transformers builds the model under deepspeed.zero.Init. It does not for 4-bit models."""
    return device.sharding == "zero3" and training.zero3_init_flag and not method.facts.quantizes_base


def step_training(training: Training, device: Device, method: Method) -> Training:
    """Return the training of a step whose parameters are cast: in their dtype instead of under autocast."""
    dtype = training.autocast or training.dtype
    keeps_adapters = is_built_partitioned(training, device, method)
    adapter_dtype = training.adapter_dtype if keeps_adapters else "model"
    return replace(training, dtype=dtype, autocast=None, adapter_dtype=adapter_dtype)


def cast(spec: ModuleSpec, dtype: DType, training: Training) -> ModuleSpec:
    """Return how a module is stored after its parameters are cast. 4-bit weights and their constants are not cast."""
    added = spec.added
    if training.adapter_dtype == "model":
        added = tuple([parameter.cast(dtype) for parameter in added])
    return spec.cast(dtype, added)
