"""Checks for runs that DeepSpeed refuses, and for runs under ZeRO that are not modeled.

Each refusal gives a reason and an alternative.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.inputs.sharding import MODELED, STAGES, offloads_optimizer, stage_problems

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inputs.device import Device
    from calculator.inputs.sharding import ZeroOptimization
    from calculator.inputs.training import Training


#: The trainers whose loops are modeled under DeepSpeed. None is the reference step.
TRAINERS = (None, "transformers", "trl-sft", "trl-dpo", "trl-kto", "trl-reward", "trl-orpo", "trl-grpo", "trl-rloo")

#: The optimizers that accelerate replaces by DeepSpeed's CPU Adam (accelerate/utils/deepspeed.py).
ON_HOST = ("adamw_torch", "adamw_torch_fused")

_ZERO = "training.deepspeed.zero_optimization"


def zero_problems(
    training: Training, device: Device, *, quantizes: bool, trains_biases: bool, uses_dora: bool
) -> Iterator[Problem]:
    """Yield options of ZeRO without ZeRO, settings that DeepSpeed refuses, and settings that are not modeled."""
    stage = STAGES.get(device.sharding)
    if stage is None:
        if training.deepspeed is not None:
            stages = " or ".join(STAGES)
            message = f"configures ZeRO, but device.sharding is {device.sharding}: set that to {stages}, or omit this"
            yield Problem(loc="training.deepspeed", msg=message, input=asdict(training.deepspeed))
        return
    if device.sharding not in MODELED:
        return
    if training.trainer not in TRAINERS:
        message = f"its loop under DeepSpeed is not modeled: use {' or '.join(filter(None, TRAINERS))}, or leave it out"
        yield Problem(loc="training.trainer", msg=message, input=training.trainer)
    yield from stage_problems(training.zero, stage)
    yield from _precision(training, quantizes=quantizes)
    yield from _options(training.zero)
    if quantizes and uses_dora and training.dtype != "bfloat16":
        message = "DoRA over 4-bit layers that compute in another dtype than bf16 weights is not modeled: set bfloat16"
        yield Problem(loc="training.dtype", msg=message, input=training.dtype)
    elif quantizes and trains_biases and training.dtype != "bfloat16":
        message = (
            "bitsandbytes casts the biases of 4-bit layers to this dtype, out of DeepSpeed's flat tensors, which is not"
            " modeled: set bfloat16, or method.bias none"
        )
        yield Problem(loc="training.dtype", msg=message, input=training.dtype)
    if offloads_optimizer(training.zero) and training.optimizer not in ON_HOST:
        message = f"DeepSpeed updates offloaded partitions with its CPU Adam: use one of {', '.join(ON_HOST)}"
        yield Problem(loc="training.optimizer", msg=message, input=training.optimizer)
    elif training.optimizer == "adagrad":
        message = (
            "DeepSpeed makes another Adagrad for its partitions and keeps the states of the first one too, which is not"
            " modeled: use another optimizer"
        )
        yield Problem(loc="training.optimizer", msg=message, input="adagrad")


def _precision(training: Training, *, quantizes: bool) -> Iterator[Problem]:
    """Yield precisions that are refused.

    DeepSpeed trains float32 weights, or casts all of them (runtime/engine.py, _configure_distributed_model).
    """
    where = "training.autocast"
    if training.autocast == "float16":
        message = "float16 scales the loss, which is not modeled under ZeRO: set bfloat16"
        yield Problem(loc=where, msg=message, input="float16")
    elif training.autocast is None and (training.dtype != "float32" or quantizes):
        message = (
            "DeepSpeed refuses parameters that are not float32 unless bf16 is enabled: set it to bfloat16, which is"
            " Trainer's bf16=True"
        )
        yield Problem(loc=where, msg=message, input=None)


def _options(zero: ZeroOptimization) -> Iterator[Problem]:
    if not zero.contiguous_gradients:
        message = "false is not modeled (gradients without a contiguous buffer): use true"
        yield Problem(loc=f"{_ZERO}.contiguous_gradients", msg=message, input=False)
