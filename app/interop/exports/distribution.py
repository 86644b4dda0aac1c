"""The keys of axolotl and LLaMA-Factory for several GPUs, and the files that they name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.interop.exports.part import Part, differs
from app.interop.exports.several_gpus import (
    ACCELERATE,
    DEEPSPEED,
    accelerate_file,
    ddp_keys,
    deepspeed_file,
    fsdp_config,
    torchrun_nodes,
    unnamed_ddp,
)

if TYPE_CHECKING:
    from app.interop.exports.exported import AdditionalFile, NotExpressed
    from app.interop.exports.planned import Planned
    from calculator.estimation.request import Request

_HEADING = "Several GPUs"

#: Source: axolotl, src/axolotl/monkeypatch/accelerate/fsdp2.py, fsdp2_prepare_model, which replaces accelerate's.
AXOLOTL_UNITS = (
    "axolotl has its own fsdp2_prepare_model: only decoder layers are units, embeddings and output head are gathered"
    " together, and trained weights keep their dtype"
)

#: Source: axolotl, src/axolotl/core/builders/causal.py.
_AXOLOTL_DDP = ("find_unused_parameters", "bucket_cap_mb")

#: Source: LLaMA-Factory, src/llamafactory/model/model_utils/quantization.py.
STORAGE = "LLaMA-Factory stores packed 4-bit weights in the compute dtype"


def axolotl(planned: Planned) -> tuple[Part, ...]:
    """Return the keys of axolotl. Empty for one GPU."""
    request, keys = planned.request, dict[str, Any]()
    not_expressed: list[NotExpressed] = []
    match request.device.sharding:
        case "none":
            return ()
        case "ddp":
            keys = {"ddp": True, **ddp_keys(request)}
            keys.pop("ddp_static_graph", None)
            not_expressed += unnamed_ddp(request, "axolotl", _AXOLOTL_DDP)
        case "fsdp":
            keys = {"fsdp_version": 2, "fsdp_config": fsdp_config(request)}
            not_expressed.append(differs("device.sharding", "fsdp", AXOLOTL_UNITS))
            not_expressed += reference_step_differences(planned, "axolotl")
        case _:
            keys = {"deepspeed": DEEPSPEED}
            not_expressed += (
                *reference_step_differences(planned, "axolotl"),
                *zero3_loading_difference(request, "axolotl"),
            )
    return (Part(heading=_HEADING, keys=keys, not_expressed=tuple(not_expressed)),)


def llama_factory(planned: Planned) -> tuple[Part, ...]:
    """Return the keys of LLaMA-Factory. Empty for one GPU."""
    request, keys = planned.request, dict[str, Any]()
    not_expressed: list[NotExpressed] = []
    storage, dtype = getattr(request.method, "quant_storage", None), request.training.dtype
    if storage not in (None, dtype):
        not_expressed.append(differs("method.quant_storage", storage, STORAGE))
    match request.device.sharding:
        case "none":
            return ()
        case "ddp":
            keys = ddp_keys(request)
            not_expressed += unnamed_ddp(request, "LLaMA-Factory")
        case "fsdp":
            not_expressed += reference_step_differences(planned, "LLaMA-Factory")
        case _:
            keys = {"deepspeed": DEEPSPEED}
            not_expressed += (
                *reference_step_differences(planned, "LLaMA-Factory"),
                *zero3_loading_difference(request, "LLaMA-Factory"),
            )
    return (Part(heading=_HEADING, keys=keys, not_expressed=tuple(not_expressed)),)


def reference_step_differences(planned: Planned, tool: str) -> tuple[NotExpressed, ...]:
    """Return the setting `trainer` if the figures are for the reference step, which the tool does not run."""
    if planned.request.training.trainer is not None:
        return ()
    why = f"{tool} trains with a Trainer: the figures are for a plain loop"
    return (differs("training.trainer", None, why),)


def zero3_loading_difference(request: Request, tool: str) -> tuple[NotExpressed, ...]:
    """Return the setting of ZeRO-3 if the tool loads the model before it knows the stage.

    Source: axolotl, setup_deepspeed_env, which sets ACCELERATE_DEEPSPEED_ZERO3_INIT; LLaMA-Factory, get_train_args.
    """
    if request.device.sharding != "zero3" or request.training.zero3_init_flag or request.method.facts.quantizes_base:
        return ()
    why = f"{tool} builds the model under deepspeed.zero.Init"
    return (differs("training.deepspeed.zero3_init_flag", False, why),)


def axolotl_command(planned: Planned) -> str:
    """Return the command that runs axolotl."""
    device = planned.request.device
    command = "axolotl train axolotl.yaml"
    if device.sharding == "none":
        return command
    here = f"--nproc_per_node={device.count // device.nodes}"
    return f"{command} --launcher torchrun -- {torchrun_nodes(device.nodes)}{here}"


def llama_factory_command(planned: Planned) -> str:
    """Return the command that runs LLaMA-Factory."""
    device, file = planned.request.device, "llama_factory.yaml"
    if device.sharding == "fsdp":
        return f"accelerate launch --config_file {ACCELERATE} src/train.py {file}"
    command = f"llamafactory-cli train {file}"
    if device.sharding == "none":
        return command
    several = "" if device.nodes == 1 else f"NNODES={device.nodes} NODE_RANK=0 MASTER_ADDR=MAIN_NODE "
    return f"FORCE_TORCHRUN=1 {several}NPROC_PER_NODE={device.count // device.nodes} {command}"


def files(planned: Planned, *, accelerate: bool) -> tuple[AdditionalFile, ...]:
    """Return the files that a tool's file names; `accelerate`: whether accelerate's configuration is one of them."""
    match planned.request.device.sharding:
        case "none" | "ddp":
            return ()
        case "fsdp":
            return (accelerate_file(planned.request),) if accelerate else ()
        case _:
            return (deepspeed_file(planned.request, has_trainer=True),)
