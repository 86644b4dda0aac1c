"""Requests with several GPUs: the shardings that are modeled, and what the libraries refuse under each."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, get_args

from calculator.common.errors import PlanError, Problem
from calculator.estimation.model_cache import returns_cache
from calculator.inputs.sharding import MODELED, DDPConfig, ShardingName
from calculator.methods import Full
from calculator.methods.lily.method import Lily
from calculator.methods.low_rank.method import LowRank
from calculator.resident.tensors import resident_tensors
from calculator.sharding import method_buffers
from calculator.sharding.fsdp import problems as fsdp
from calculator.sharding.zero.refusals import zero_problems
from calculator.sharding.zero3 import refusals as zero3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.architecture.model import Model
    from calculator.estimation.request import Request
    from calculator.inputs.device import Device
    from calculator.methods.prepared_model import PreparedModel


#: Why several GPUs are refused, and what to request instead.
ONE_GPU = "only one GPU is modeled here: set device.count 1 and device.sharding none"
#: Why a sharding needs several GPUs.
TWO_GPUS = "needs 2 GPUs or more: set device.count 2, or device.sharding none"


def problems(request: Request, model: Model, prepared: Callable[[], PreparedModel]) -> Iterator[Problem]:
    """Yield problems of a run on several GPUs, and options of a sharding that the request does not use.

    `prepared` returns the request's model with its method applied. Tasks that are modeled on one GPU only have a
    problem already.
    """
    training, device = request.training, request.device
    has_options = (training.ddp, training.fsdp_config, training.deepspeed) != (None, None, None)
    if device.count == 1 and device.sharding == "none" and not has_options:
        return
    yield from _layers_apart(request)
    if request.device.sharding != "none" and model.task.name != "causal_lm":
        return
    yield from _ddp(request, model, prepared)
    yield from _fsdp(request, prepared)
    yield from _zero3(request, prepared)
    if request.method.facts.buffers_like and request.device.sharding in MODELED - {"none", "ddp"}:
        yield from method_buffers.buffer_problems(prepared())
    yield from zero_problems(
        request.training,
        request.device,
        quantizes=request.method.facts.quantizes_base,
        trains_biases=request.method.trains_biases,
        uses_dora=getattr(request.method, "use_dora", False),
    )


def check_device(request: Request) -> None:
    """Refuse several GPUs and sharding, which this accounting does not model.

    Raises:
        PlanError: with every reason found.
    """
    problems = tuple(single_gpu_problems(request.device))
    if problems:
        raise PlanError(*problems)


def single_gpu_problems(device: Device, loc: str = "device") -> Iterator[Problem]:
    """Yield problems of a device with more than one GPU, for runs that are modeled on one GPU."""
    if device.sharding != "none":
        yield Problem(loc=f"{loc}.sharding", msg=ONE_GPU, input=device.sharding)
    if device.count > 1:
        yield Problem(loc=f"{loc}.count", msg=ONE_GPU, input=device.count)
    if device.nodes > 1:
        yield Problem(loc=f"{loc}.nodes", msg="one GPU is in one node: leave nodes out", input=device.nodes)


def not_modeled() -> str:
    """Return why a sharding, or several GPUs without one, are refused."""
    *names, last = (name for name in get_args(ShardingName) if name in MODELED - {"none"})
    kinds = f"{', '.join(names)} or {last}"
    return f"not modeled here: set device.sharding {kinds}, or device.count 1 and device.sharding none"


def sharding_problems(device: Device, loc: str = "device") -> Iterator[Problem]:
    """Yield problems of a device with more than one GPU, for runs with which some shardings are modeled."""
    if device.count % device.nodes:
        message = (
            f"{device.count:,} GPUs do not divide equally among {device.nodes:,} nodes: use a divisor of device.count"
        )
        yield Problem(loc=f"{loc}.nodes", msg=message, input=device.nodes)
    if device.sharding not in MODELED:
        yield Problem(loc=f"{loc}.sharding", msg=f"{device.sharding} is {not_modeled()}", input=device.sharding)
    elif device.sharding != "none":
        if device.count == 1:
            yield Problem(loc=f"{loc}.count", msg=f"{device.sharding} {TWO_GPUS}", input=device.count)
    elif device.count > 1:
        yield Problem(
            loc=f"{loc}.count",
            msg=f"{device.count:,} GPUs without sharding are {not_modeled()}",
            input=device.count,
        )


def _layers_apart(request: Request) -> Iterator[Problem]:
    """Yield why several GPUs are refused with a method that treats layers of a kind differently.

    Such layers of LoRA and of full fine-tuning are modeled.
    """
    method = request.method
    if request.device.count > 1 and method.differs_between_layers and not isinstance(method, Full | LowRank | Lily):
        message = "settings of single layers are modeled on one GPU only: set device.count 1 and device.sharding none"
        yield Problem(loc="device.count", msg=message, input=request.device.count)


def _ddp(request: Request, model: Model, prepared: Callable[[], PreparedModel]) -> Iterator[Problem]:
    """Yield options of DDP without DDP, settings that DDP refuses, and settings that are not modeled with it."""
    training, config = request.training, request.training.ddp
    if request.device.sharding != "ddp":
        if config is not None:
            message = f"configures ddp, but device.sharding is {request.device.sharding}: set that to ddp, or omit this"
            yield Problem(loc="training.ddp", msg=message, input=asdict(config))
        return
    config = config or DDPConfig()
    if config.gradient_as_bucket_view and training.gradient_accumulation_steps == 2:
        message = (
            "with gradient_as_bucket_view, 2 steps are not modeled yet, because the last micro-batch frees gradients "
            "one by one: use 1 or at least 3, or set gradient_as_bucket_view false"
        )
        yield Problem(loc="training.gradient_accumulation_steps", msg=message, input=2)
    if config.static_graph and training.gradient_accumulation_steps > 1:
        # torch/csrc/distributed/c10d/reducer.cpp, delay_all_reduce: the first backward pass runs without hooks.
        message = (
            "DDP fails in the first micro-batch, which does not synchronize (expect_autograd_hooks_): set it false"
        )
        yield Problem(loc="training.ddp.static_graph", msg=message, input=True)
    if config.find_unused_parameters and training.use_reentrant and training.gradient_checkpointing:
        message = "re-entrant checkpointing marks parameters ready twice, which DDP refuses: set it false"
        yield Problem(loc="training.ddp.find_unused_parameters", msg=message, input=True)
    if config.copies_outputs and returns_cache(model, training, request.method, request.stack):
        message = (
            "DDP then copies the cache of keys and values, which is not modeled yet: use false, or checkpoint, or "
            "set use_cache false in the model's config, or set training.trainer"
        )
        yield Problem(loc="training.ddp.find_unused_parameters", msg=message, input=True)
    if model.has_unused_parameters and not config.find_unused_parameters and not config.static_graph:
        tensors = resident_tensors(prepared())
        if any(tensor.trained and not tensor.in_graph for tensor in tensors):
            message = "DDP raises an error for trained parameters that get no gradient: set it true"
            yield Problem(loc="training.ddp.find_unused_parameters", msg=message, input=False)
    if request.method.facts.quantizes_base and request.method.trains_biases:
        yield from _cast_bias_problems(prepared())


def _cast_bias_problems(prepared: PreparedModel) -> Iterator[Problem]:
    """Yield a trained bias that its quantized layer casts in the first run.

    A tensor of another dtype gives the parameter another AccumulateGrad node, which lacks DDP's hook. DDP never learns
    that the gradient is ready.

    Source: bitsandbytes/nn/modules.py, Linear4bit.forward and Linear8bitLt.forward (bias.data);
    torch/csrc/autograd/variable.cpp, VariableHooks::set_data.
    """
    for path, module, spec in prepared.modules:
        if module.bias is None or "bias" not in spec.trained or spec.quantization is None or not spec.runs:
            continue
        before, after = spec.dtype, spec.dtype_of(module.bias)
        if before != after:
            message = (
                f"bitsandbytes casts {path}.bias from {before} to {after} in the first step. DDP does not reduce its"
                " gradient then, and fails: set method.prepare_model_for_kbit_training false, or bias none"
            )
            yield Problem(loc="method.bias", msg=message, input=getattr(prepared.method, "bias", None))
            return


def _fsdp(request: Request, prepared: Callable[[], PreparedModel]) -> Iterator[Problem]:
    """Yield options of FSDP without FSDP, settings that FSDP refuses, and settings that are not modeled with it."""
    if request.device.sharding == "fsdp":
        yield from fsdp.problems(prepared())
    elif request.training.fsdp_config is not None:
        message = f"configures fsdp, but device.sharding is {request.device.sharding}: set that to fsdp, or omit this"
        yield Problem(loc="training.fsdp_config", msg=message, input=asdict(request.training.fsdp_config))


def _zero3(request: Request, prepared: Callable[[], PreparedModel]) -> Iterator[Problem]:
    """Yield settings that are not modeled under ZeRO-3."""
    if request.device.sharding == "zero3":
        yield from zero3.problems(prepared())
