"""One of several processes that load a model, or evaluate one, and write how much their resident sets grew.

The real Trainer evaluates, and accelerate shards the model. What a GPU would have is in the processes too.
"""

from __future__ import annotations

import gc
import json
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from calculator.inputs.sharding import parse_sharding
from calculator.run.request import parse_run
from validation.host.child import CLEAR_REFS, from_pretrained, load, resident
from validation.sharding.checkpoints import rank_of
from validation.sharding.launch import arguments
from validation.sharding.streams import Streams
from validation.sharding.zero_init import applies, zero_init
from validation.tracing.silence import silence_libraries

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.inputs.sharding import Sharding
    from calculator.run.request import RunRequest

_FULLY_SHARD = "torch.distributed.fsdp.fully_shard"


def proportional() -> int:
    """Return the resident set of the process, each page divided by the number of processes that have it, in bytes."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


class Growth:
    """The growth of this process, from its creation to a moment."""

    def __init__(self) -> None:
        gc.collect()
        dist.barrier()
        CLEAR_REFS.write_text("5", encoding="utf-8")
        self._before, self._proportional = resident()["VmRSS"], proportional()
        dist.barrier()

    @cached_property
    def found(self) -> dict[str, int]:
        """The most bytes until this is first read, and the bytes of the proportional resident set then."""
        peak = resident()["VmHWM"] - self._before
        dist.barrier()
        now = proportional() - self._proportional
        dist.barrier()
        return {"bytes": peak, "proportional": now}


class CastsOnHost(TorchDispatchMode):
    """Casts what is copied into a tensor of another dtype in a tensor of its own, as a copy to a GPU does.

    Between two tensors of the host, a copy casts on its way. Source: PyTorch 2.13, aten/src/ATen/native/cuda/Copy.cu
    (copy_kernel_cuda), which converts on the host if the copy blocks.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        if func is torch.ops.aten.copy_.default and args[0].dtype != args[1].dtype:
            args = (args[0], args[1].to(args[0].dtype), *args[2:])
        return func(*args, **(kwargs or {}))


def run_rank(body: dict[str, Any], phase: str, large: str, tiny: str, folder: str, rank: int) -> None:
    """Warm the libraries with a tiny model, run a phase of a request, and write the growth to a file of the folder."""
    silence_libraries()
    torch.set_num_threads(1)
    parsed, device = parse_run(body), body["device"]
    sharding = parse_sharding({name: body[name] for name in body if name != "run"}, device["sharding"], device["count"])
    run: Callable[..., dict[str, int]] = {"load": _load, "evaluation": _evaluate}[phase]
    if sharding.stage:
        run = partial(_load_for_deepspeed, sharding)
    with rank_of(sharding, rank, folder):
        given = arguments(parsed.estimate.training, sharding)
        run(tiny, parsed, given, folder)
        result = run(large, parsed, given, folder)
    Path(folder, f"grown-{rank}").write_text(json.dumps(result), encoding="utf-8")


def _trainer(model: Any, request: RunRequest, given: dict[str, Any], folder: str, **more: Any) -> Trainer:
    run, training = request.run, request.estimate.training
    settings = TrainingArguments(
        output_dir=f"{folder}/run",
        bf16=training.autocast == "bfloat16",
        per_device_eval_batch_size=run.per_device_eval_batch_size,
        eval_accumulation_steps=run.eval_accumulation_steps,
        report_to=[],
        disable_tqdm=True,
        **given,
    )
    return Trainer(model=model, args=settings, **more)


def _load(model: str, request: RunRequest, given: dict[str, Any], folder: str) -> dict[str, int]:
    """Load a model, and under FSDP2 let accelerate cast it. The growth is that until the first unit is sharded."""
    growth = Growth()
    loaded = load(model, request.estimate.training.dtype)
    if "fsdp" in given:
        trainer = _trainer(loaded, request, given, folder)
        with mock.patch(_FULLY_SHARD, _recording_growth(growth, torch.distributed.fsdp.fully_shard)):
            trainer.accelerator.prepare(trainer.model, torch.optim.SGD(trainer.model.parameters()))
    return growth.found


def _load_for_deepspeed(
    sharding: Sharding, model: str, request: RunRequest, given: dict[str, Any], folder: str
) -> dict[str, int]:
    """Load a model for stage 3. Where it is given whole to DeepSpeed, the growth is that until it moves to the GPU."""
    import deepspeed  # noqa: PLC0415  (DeepSpeed is optional)
    from deepspeed.runtime.engine import DeepSpeedEngine  # noqa: PLC0415  (as above)

    from validation.sharding.accelerator import forget_groups, posing_as_cuda  # noqa: PLC0415  (as above)
    from validation.sharding.zero import config_of  # noqa: PLC0415  (as above)

    estimate, streams = request.estimate, Streams()
    growth = Growth()
    with zero_init(estimate, sharding, streams, torch.device("cpu")):
        is_partitioned = applies(estimate, sharding)
        dtype = estimate.training.dtype
        with CastsOnHost() if is_partitioned else nullcontext():
            loaded = from_pretrained(model, dtype) if is_partitioned else load(model, dtype)
    if not is_partitioned:
        config = config_of(estimate.training, sharding, loaded.config.hidden_size)
        optimizer = torch.optim.SGD(loaded.parameters())
        forget_groups()
        broadcast = _recording_growth(growth, DeepSpeedEngine._broadcast_model)
        with (
            posing_as_cuda("cpu", streams, "gloo"),
            mock.patch.object(DeepSpeedEngine, "_broadcast_model", broadcast),
        ):
            deepspeed.initialize(model=loaded, optimizer=optimizer, config=config)
    return growth.found


def _recording_growth(growth: Growth, shard: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that shards, before whose first call the growth is read."""

    def run(*args: Any, **kwargs: Any) -> Any:
        _ = growth.found
        return shard(*args, **kwargs)

    return run


def _evaluate(model: str, request: RunRequest, given: dict[str, Any], folder: str) -> dict[str, int]:
    """Evaluate with compute_metrics, which has all logits."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, request.estimate.training.dtype))
    row = torch.ones(request.estimate.training.sequence_length, dtype=torch.long)
    rows = [{"input_ids": row, "labels": row}] * request.run.eval_samples
    trainer = _trainer(loaded, request, given, folder, eval_dataset=rows, compute_metrics=lambda _: {})
    trainer.evaluate(rows[: 2 * request.run.per_device_eval_batch_size])
    growth = Growth()
    trainer.evaluate()
    return growth.found
