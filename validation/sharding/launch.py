"""A trainer's process as `accelerate launch` starts it: one rank of N, on the `fake` process group."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from unittest import mock

from accelerate.state import PartialState
from accelerate.utils import DistributedType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inputs.sharding import Sharding
    from calculator.inputs.training import Training
    from validation.sharding.streams import Streams

#: The values that a DeepSpeed config leaves to transformers.
AUTO = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size", "gradient_clipping")


@contextmanager
def launched(sharding: Sharding, rank: int, streams: Streams) -> Iterator[None]:
    """Make accelerate find a GPU of several, whose process group exists, inside the context."""
    environment = {
        "RANK": str(rank),
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(sharding.count),
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29500",
    }
    backend = lambda *_, **__: ("fake", DistributedType.MULTI_GPU)  # noqa: E731
    with ExitStack() as stack:
        if sharding.stage:
            from validation.sharding import accelerator  # noqa: PLC0415  (DeepSpeed is optional)

            accelerator.forget_groups()
            stack.enter_context(accelerator.posing_as_cuda("meta", streams, "fake"))
        stack.enter_context(mock.patch.dict(os.environ, environment))
        stack.enter_context(mock.patch.object(PartialState, "_prepare_backend", backend))
        yield


def arguments(training: Training, sharding: Sharding) -> dict[str, Any]:
    """Return the arguments of `TrainingArguments` that distribute a run."""
    if sharding.name == "ddp":
        names = ("find_unused_parameters", "static_graph", "bucket_cap_mb")
        return {f"ddp_{name}": getattr(sharding.ddp, name) for name in names}
    if sharding.name == "fsdp":
        return {"fsdp": True, "fsdp_config": asdict(sharding.fsdp_config)}
    return {"deepspeed": _deepspeed(training, sharding)}


def _deepspeed(training: Training, sharding: Sharding) -> dict[str, Any]:
    zero = {key: value for key, value in asdict(sharding.zero_optimization).items() if value is not None}
    if sharding.zero_optimization.offload_optimizer is not None:
        zero["offload_optimizer"] = {**zero["offload_optimizer"], "pin_memory": False}  # pinning needs CUDA
    return {
        **dict.fromkeys(AUTO, "auto"),
        "bf16": {"enabled": training.autocast == "bfloat16"},
        "zero_optimization": {**zero, "stage": sharding.stage},
        "zero_force_ds_cpu_optimizer": False,
    }
