"""Single changes to how ZeRO shards a run: higher stages, more GPUs, smaller buckets, and offload to host memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError
from calculator.devices import Verdict
from calculator.diagnosis.change import Change
from calculator.estimation.estimate import estimate, model_of
from calculator.inputs.sharding import STAGES, DeepSpeedConfig, Offload, offloads_optimizer
from calculator.planning.suggestions import LEAST_SHARE
from calculator.speed.step_cost import step_cost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import Request
    from calculator.inputs.sharding import ShardingName

_ZERO = "Rajbhandari et al. 2020, ZeRO, arXiv 1910.02054, section 5"
_CONFIG = "deepspeed.ai/docs/config-json, zero_optimization"
_OBJECT = "training.deepspeed.zero_optimization"

_BY_MEMORY = " The verdict is by the required memory, since a run of stage 3 with offload is not replayed."

#: The state that each stage partitions in addition to the previous stage.
_STAGES: dict[ShardingName, str] = {
    "zero2": "Stage 2 shards gradients too. GPUs send no more to each other than in stage 1.",
    "zero3": "Stage 3 shards the weights too, and gathers each module's before it runs: GPUs send half as much again.",
}


@dataclass(frozen=True, slots=True)
class _Option:
    """A change, the request with it, its drawback, and the source of that."""

    changes: dict[str, Any]
    request: Request
    statement: str
    source: str = _CONFIG


def sharding_changes(request: Request, answer: Estimate, usable_bytes: int, *, reproduces: bool) -> Iterator[Change]:
    """Yield changes that save memory.

    A run of stage 3 with offload is not replayed. Its verdict is by the required memory.
    """
    model = model_of(request.model)
    before = step_cost(model, request, answer).relative
    for option in _options(request, model.config.get("hidden_size")):
        try:
            after = estimate(option.request)
        except PlanError:
            continue
        saved = answer.memory.required_bytes - after.memory.required_bytes
        if saved < LEAST_SHARE * answer.memory.required_bytes:
            continue
        verdict = _verdict(after, usable_bytes)
        yield Change(
            changes=option.changes,
            request=option.request,
            saved_bytes=saved,
            verdict=verdict,
            ends=verdict is not Verdict.DOES_NOT_FIT if reproduces else None,
            statement=option.statement,
            source=option.source,
            cost=step_cost(model, option.request, after).relative / before,
        )


def _verdict(answer: Estimate, usable_bytes: int) -> Verdict:
    replay = answer.memory.replay
    if replay is not None:
        return replay.outcome(usable_bytes).verdict
    return Verdict.FITS if answer.memory.required_bytes <= usable_bytes else Verdict.DOES_NOT_FIT


def _options(request: Request, hidden_size: int | None) -> Iterator[_Option]:
    if request.device.sharding not in STAGES:
        return
    yield from _later_stages(request)
    yield _more_gpus(request)
    yield from _buckets(request, hidden_size)
    yield from _offloads(request)


def _later_stages(request: Request) -> Iterator[_Option]:
    for name, statement in _STAGES.items():
        if STAGES[name] > STAGES[request.device.sharding]:
            changed = _with_zero(request, stage=None)
            changed = replace(changed, device=replace(request.device, sharding=name))
            yield _Option({"device.sharding": name}, changed, statement, _ZERO)


def _more_gpus(request: Request) -> _Option:
    device = request.device
    nodes = device.nodes * 2 if device.nodes > 1 else 1
    return _Option(
        {"device.count": device.count * 2},
        replace(request, device=replace(device, count=device.count * 2, nodes=nodes)),
        "Each of twice as many GPUs keeps half of each shard. The batch of a step has twice as many rows.",
        _ZERO,
    )


def _buckets(request: Request, hidden_size: int | None) -> Iterator[_Option]:
    zero = request.training.zero
    bucket = zero.reduce_bucket_size
    if (
        bucket != "auto"
        and hidden_size is not None
        and zero.resolved("reduce_bucket_size", hidden_size) > hidden_size**2
    ):
        yield _Option(
            {f"{_OBJECT}.reduce_bucket_size": "auto"},
            _with_zero(request, reduce_bucket_size="auto"),
            "Gradients are reduced in more, smaller parts: of hidden_size² elements with transformers.",
        )
    overlaps = zero.overlap_comm if zero.overlap_comm is not None else request.device.sharding == "zero3"
    if overlaps:
        yield _Option(
            {f"{_OBJECT}.overlap_comm": False},
            _with_zero(request, overlap_comm=False),
            "The backward pass waits for the reduction of gradients, which then needs no second buffer.",
        )


def _offloads(request: Request) -> Iterator[_Option]:
    zero, cpu = request.training.zero, {"device": "cpu"}
    verdict = _BY_MEMORY if request.device.sharding == "zero3" else ""
    if not offloads_optimizer(zero):
        yield _Option(
            {f"{_OBJECT}.offload_optimizer": cpu},
            _with_zero(request, offload_optimizer=Offload(device="cpu")),
            "Master weights and optimizer states are in host memory, which must have room, and are updated there: steps"
            f" take longer.{verdict}",
        )
    if request.device.sharding == "zero3" and (zero.offload_param is None or zero.offload_param.device == "none"):
        yield _Option(
            {f"{_OBJECT}.offload_param": cpu},
            _with_zero(request, offload_param=Offload(device="cpu")),
            "The sharded weights are in host memory, and each module's are copied to the GPU before it runs."
            f"{_BY_MEMORY}",
        )


def _with_zero(request: Request, **settings: Any) -> Request:
    """Return the request with settings of zero_optimization."""
    config = request.training.deepspeed or DeepSpeedConfig()
    deepspeed = replace(config, zero_optimization=replace(config.zero, **settings))
    return replace(request, training=replace(request.training, deepspeed=deepspeed))
