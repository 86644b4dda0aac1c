"""The files that distribute a run: accelerate's YAML for FSDP2, DeepSpeed's JSON, and the commands that read them.

Source: accelerate 1.15, commands/config/config_args.py, commands/launch.py and utils/dataclasses.py; transformers 5.24,
integrations/deepspeed.py (`auto` values) and training_args.py; DeepSpeed 0.19.8, runtime/config.py.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import yaml

from app.interop.exports.exported import AdditionalFile, NotExpressed
from calculator.inputs.sharding import STAGES, DDPConfig, FSDPConfig, ZeroOptimization
from calculator.sharding.precision import is_built_partitioned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.estimation.request import Request

ACCELERATE = "accelerate.yaml"
DEEPSPEED = "deepspeed.json"

#: accelerate's names of `training.autocast`.
MIXED_PRECISION = {None: "no", "bfloat16": "bf16", "float16": "fp16"}

#: The keys of TrainingArguments for the settings of DDP.
DDP_KEYS = {
    "find_unused_parameters": "ddp_find_unused_parameters",
    "static_graph": "ddp_static_graph",
    "bucket_cap_mb": "ddp_bucket_cap_mb",
}


def launch(request: Request, script: str) -> str:
    """Return the command that starts one process per GPU."""
    device = request.device
    if device.sharding == "none":
        return f"python {script}"
    if device.sharding == "ddp":
        here = f"--nproc_per_node {device.count // device.nodes}"
        return f"torchrun {torchrun_nodes(device.nodes)}{here} {script}"
    return f"accelerate launch --config_file {ACCELERATE} {script}"


def torchrun_nodes(nodes: int) -> str:
    """Return torchrun's options for several nodes; MAIN_NODE stands for the address of the first one."""
    return "" if nodes == 1 else f"--nnodes {nodes} --rdzv_backend c10d --rdzv_endpoint MAIN_NODE:29500 "


def accelerate_file(request: Request) -> AdditionalFile:
    """Return accelerate's configuration of a run under FSDP2 or ZeRO."""
    text: str = yaml.safe_dump(accelerate_config(request), sort_keys=False)
    return AdditionalFile(filename=ACCELERATE, media_type="application/yaml", content=text)


def accelerate_config(request: Request) -> dict[str, Any]:
    """Return the keys of accelerate's configuration. Those of DeepSpeed are in a file of their own."""
    device = request.device
    machine: dict[str, Any] = {"compute_environment": "LOCAL_MACHINE"}
    machine |= {"num_machines": device.nodes, "num_processes": device.count}
    if device.nodes > 1:
        # Each node has its own rank; the first node's address is the same on all.
        machine |= {"machine_rank": 0, "main_process_ip": "MAIN_NODE", "main_process_port": 29500}
    if request.device.sharding != "fsdp":
        settings = {"deepspeed_config_file": DEEPSPEED, "zero3_init_flag": partitions_while_loading(request)}
        return {**machine, "distributed_type": "DEEPSPEED", "deepspeed_config": settings}
    config = {f"fsdp_{key}": value for key, value in fsdp_config(request).items()}
    precision = MIXED_PRECISION[request.training.autocast]
    return {
        **machine,
        "distributed_type": "FSDP",
        "mixed_precision": precision,
        "fsdp_config": {"fsdp_version": 2, **config},
    }


def partitions_while_loading(request: Request) -> bool:
    """Return whether the model is built under deepspeed.zero.Init, which partitions each parameter at once.

    transformers loads 4-bit models whole (modeling_utils.py, _load_pretrained_model).
    """
    return is_built_partitioned(request.training, request.device, request.method)


def fsdp_config(request: Request) -> dict[str, Any]:
    """Return the settings of FSDP2, without the prefix that accelerate gives them."""
    config = request.training.fsdp_config or FSDPConfig()
    classes = config.transformer_layer_cls_to_wrap
    return {
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        **({"transformer_layer_cls_to_wrap": ",".join(classes)} if classes else {}),
        "reshard_after_forward": config.reshard_after_forward,
        "offload_params": config.cpu_offload,
        "cpu_ram_efficient_loading": config.cpu_ram_efficient_loading,
        "state_dict_type": "FULL_STATE_DICT",
    }


def deepspeed_file(request: Request, *, has_trainer: bool) -> AdditionalFile:
    """Return DeepSpeed's configuration of a run under ZeRO."""
    content = f"{json.dumps(deepspeed_config(request, has_trainer=has_trainer), indent=2)}\n"
    return AdditionalFile(filename=DEEPSPEED, media_type="application/json", content=content)


def deepspeed_config(request: Request, *, has_trainer: bool) -> dict[str, Any]:
    """Return the keys of DeepSpeed's configuration.

    `has_trainer`: whether transformers' Trainer reads it and fills in what is `auto`. accelerate alone does not.
    """
    training, count = request.training, request.device.count
    sizes: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "train_batch_size": training.micro_batch_size * training.gradient_accumulation_steps * count,
        "gradient_clipping": training.max_grad_norm or 0.0,
    }
    zero = {"stage": STAGES[request.device.sharding], **_changed(training.zero)}
    if request.device.sharding == "zero3":
        zero["stage3_gather_16bit_weights_on_model_save"] = True  # accelerate does not save the model without it
    return {
        **(dict.fromkeys(sizes, "auto") if has_trainer else sizes),
        "bf16": {"enabled": "auto" if has_trainer else training.autocast == "bfloat16"},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": zero,
    }


def _changed(zero: ZeroOptimization) -> dict[str, Any]:
    """Return the settings that are not DeepSpeed's defaults."""
    default, given = asdict(ZeroOptimization()), asdict(zero)
    return {key: value for key, value in given.items() if key != "stage" and value != default[key]}


def ddp_keys(request: Request) -> dict[str, Any]:
    """Return the keys of TrainingArguments for DDP."""
    config = request.training.ddp or DDPConfig()
    given = {"find_unused_parameters": config.find_unused_parameters, **changed_ddp(request)}
    return {DDP_KEYS[name]: value for name, value in given.items() if name in DDP_KEYS}


def changed_ddp(request: Request) -> dict[str, Any]:
    """Return the settings of DDP that are not PyTorch's defaults."""
    config, default = request.training.ddp or DDPConfig(), DDPConfig()
    names = (field.name for field in fields(DDPConfig))
    return {name: getattr(config, name) for name in names if getattr(config, name) != getattr(default, name)}


def unnamed_ddp(request: Request, owner: str, named: tuple[str, ...] = tuple(DDP_KEYS)) -> Iterator[NotExpressed]:
    """Yield the settings of DDP for which `owner` has no key."""
    if request.device.sharding != "ddp":
        return
    for name, value in changed_ddp(request).items():
        if name not in named:
            yield NotExpressed(loc=f"training.ddp.{name}", value=value, why=f"{owner} has no key for it")
