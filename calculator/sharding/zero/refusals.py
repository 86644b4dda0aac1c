"""What DeepSpeed refuses, and what of ZeRO is not modelled. Each refusal has a reason and a way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.inputs.sharding import MODELLED, STAGES, stage_problems

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inputs.sharding import ZeroOptimization
    from calculator.inputs.training import Device, Training

#: Optimizers whose step on a flat partition is modelled.
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd", "rmsprop")

_ZERO = "training.deepspeed.zero_optimization"


def zero_problems(training: Training, device: Device, *, quantizes: bool) -> Iterator[Problem]:
    """Options without ZeRO, what DeepSpeed refuses, and what of it is not modelled."""
    stage = STAGES.get(device.sharding)
    if stage is None:
        if training.deepspeed is not None:
            message = f"configures zero1, zero2 or zero3, but device.sharding is {device.sharding}: leave it out"
            yield Problem(loc="training.deepspeed", msg=message, input=None)
        return
    if device.sharding not in MODELLED:
        return
    yield from stage_problems(training.zero, stage)
    yield from _precision(training, quantizes=quantizes)
    yield from _options(training.zero)
    if training.optimizer not in OPTIMIZERS:
        message = f"its step on DeepSpeed's flat partitions is not modelled yet: use one of {', '.join(OPTIMIZERS)}"
        yield Problem(loc="training.optimizer", msg=message, input=training.optimizer)
    if training.use_reentrant and training.gradient_checkpointing:
        message = "re-entrant checkpointing runs DeepSpeed's reductions in phases, which is not modelled: set it false"
        yield Problem(loc="training.gradient_checkpointing_kwargs.use_reentrant", msg=message, input=True)


def _precision(training: Training, *, quantizes: bool) -> Iterator[Problem]:
    """DeepSpeed trains float32 weights, or casts all of them (runtime/engine.py, _configure_distributed_model)."""
    where = "training.autocast"
    if training.autocast == "float16":
        message = "float16 scales the loss, which is not modelled under ZeRO: set bfloat16"
        yield Problem(loc=where, msg=message, input="float16")
    elif training.autocast is None and (training.dtype != "float32" or quantizes):
        message = (
            "DeepSpeed refuses parameters that are not float32 unless bf16 is enabled: set it to bfloat16, which is"
            " Trainer's bf16=True"
        )
        yield Problem(loc=where, msg=message, input=None)


def _options(zero: ZeroOptimization) -> Iterator[Problem]:
    if not zero.contiguous_gradients:
        message = "gradients without a contiguous buffer are not modelled: leave it true"
        yield Problem(loc=f"{_ZERO}.contiguous_gradients", msg=message, input=False)
    for name in ("offload_optimizer", "offload_param"):
        offload = getattr(zero, name)
        if offload is not None and offload.device != "none":
            message = "offload to the host is not modelled yet: leave it out"
            yield Problem(loc=f"{_ZERO}.{name}", msg=message, input=offload.device)
