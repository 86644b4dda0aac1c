"""A trace of one rank's reference step on the meta device."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from calculator.common.errors import refusal
from validation.reference.build import META, build_model
from validation.reference.optimizers import optimizers_on_meta
from validation.sharding.ddp import DDPEngine
from validation.sharding.fsdp import FSDPEngine
from validation.sharding.host_reads import HostReads
from validation.sharding.process_group import one_rank_of
from validation.sharding.refusals import check
from validation.sharding.step import ShardedStep
from validation.sharding.streams import Streams
from validation.sharding.zero_init import zero_init
from validation.tracing.emulations import EMULATIONS
from validation.tracing.shims import emulate_cuda, patched_model_code
from validation.tracing.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from calculator.estimation.sharded_request import ShardedRequest
    from validation.sharding.engine import Engine


def _zero(*arguments: Any, **options: Any) -> Engine:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed looks for a GPU while it is imported
    try:
        from validation.sharding.zero import ZeROEngine  # noqa: PLC0415  (DeepSpeed is optional)
    except ImportError as error:
        raise refusal("device.sharding", "needs DeepSpeed: pip install deepspeed==0.19.8") from error
    return ZeROEngine(*arguments, **options)


#: The engine of each sharding.
ENGINES: dict[str, Callable[..., Engine]] = {
    "ddp": DDPEngine,
    "fsdp": FSDPEngine,
    "zero1": _zero,
    "zero2": _zero,
    "zero3": _zero,
}


def trace(sharded: ShardedRequest, rank: int = 0, *, before_2_14: bool = False) -> Trace:
    """Run one rank's reference step on the meta device and record every storage.

    `before_2_14` runs float32 attention with grouped keys and values as PyTorch before 2.14 does.

    Raises:
        PlanError: if the libraries refuse the request, or the trace does not run it.
    """
    check(sharded.request.training, sharded.sharding, rank)
    streams = Streams()
    with one_rank_of(sharded.sharding.count, rank, streams):
        return trace_in_group(sharded, META, streams, before_2_14=before_2_14)


def trace_in_group(
    sharded: ShardedRequest, device: torch.device, streams: Streams, *, before_2_14: bool = False
) -> Trace:
    """Run the reference step of this process's rank on a device and record every storage there.

    Raises:
        PlanError: if the libraries refuse the request.
    """
    request, sharding = sharded.request, sharded.sharding
    with emulate_cuda(before_2_14=before_2_14), optimizers_on_meta(request.training.optimizer):
        with zero_init(request, sharding, streams, device):
            reference = build_model(request, device, quant_storage=sharding.quant_storage)
        counts = reference.parameter_counts()
        with patched_model_code():
            with HostReads():
                engine = ENGINES[sharding.name](reference, request.training, sharding, streams)
                engine.build()
            step = ShardedStep(engine, request, device, streams)
            step.run()
    return Trace(
        parameters=counts, static=step.static(), ledger=step.ledger, emulations=EMULATIONS, resident=step.resident
    )
