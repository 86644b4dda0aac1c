"""Sharded requests that the libraries refuse, and those that the trace does not run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from calculator.common.errors import refusal
from calculator.resident.optimizers import OPTIMIZERS
from calculator.sharding.fsdp.problems import ON_SHARDS
from calculator.stack.releases import dotted, release
from calculator.stack.torch_releases import FREES_EARLY

if TYPE_CHECKING:
    from calculator.inputs.sharding import Sharding
    from calculator.inputs.stack import StackVersions
    from calculator.inputs.training import Training


def check(training: Training, sharding: Sharding, rank: int) -> None:
    """Refuse what does not run on several GPUs, and what the trace does not run.

    Raises:
        PlanError: with the reason.
    """
    if not 0 <= rank < sharding.count:
        raise refusal("rank", f"must be from 0 to {sharding.count - 1}", rank)
    if sharding.stage and training.autocast != "bfloat16" and training.dtype != "float32":
        reason = "DeepSpeed trains float32 weights unless bf16 is enabled: set autocast bfloat16"
        raise refusal("training.autocast", reason, training.autocast)
    updates_shards = OPTIMIZERS[training.optimizer].updates_shards or training.optimizer in ON_SHARDS
    if sharding.name == "fsdp" and not updates_shards:
        reason = f"it fails on FSDP2's DTensor shards: use one of {', '.join(ON_SHARDS)}"
        raise refusal("training.optimizer", reason, training.optimizer)


def check_torch(versions: StackVersions, sharding: Sharding) -> None:
    """Refuse a step under FSDP2 if the installed PyTorch frees tensors at other moments than that of the request.

    Raises:
        PlanError: with the release to use.
    """
    installed = release(torch.__version__)[:2]
    if sharding.name == "fsdp" and (installed < FREES_EARLY) != (release(versions.torch)[:2] < FREES_EARLY):
        reason = (
            f"the installed PyTorch is {dotted(installed)}, and FSDP2 frees buffers earlier from {dotted(FREES_EARLY)}"
            f" on: use {dotted(installed)}, or install PyTorch {versions.torch}"
        )
        raise refusal("stack.torch", reason, versions.torch)
