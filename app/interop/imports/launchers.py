"""accelerate's YAML and DeepSpeed's JSON, which distribute a run over GPUs, as a request.

They name no model and no method: the request's own are kept.

Source: accelerate 1.15, commands/config/config_args.py; DeepSpeed 0.19.8, runtime/config.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from app.interop.imports import zero_config
from app.interop.imports.distribution import COUNT, FEWEST, distributed
from app.interop.imports.imported import NotUnderstood
from app.interop.imports.other_runs import text_of
from calculator.common.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.interop.imports.imported import Imported
    from app.interop.imports.keys import Keys

#: Keys of accelerate's configuration that do not change the memory of a step.
_MACHINE = (
    *("compute_environment", "debug", "downcast_bf16", "enable_cpu_affinity", "main_training_function", "use_cpu"),
    *("rdzv_backend", "same_network", "main_process_ip", "main_process_port", "gpu_ids"),
    *("machine_rank", "tpu_env", "tpu_use_cluster", "tpu_use_sudo", "tpu_name", "tpu_zone", "command_file"),
)

_PRECISIONS = {"no": None, "bf16": "bfloat16", "fp16": "float16"}

#: The kinds of runs that are read.
_KINDS = ("NO", "MULTI_GPU", "FSDP", "DEEPSPEED")


def accelerate(keys: Keys, given: Any) -> Imported:
    """Return the request of accelerate's configuration; `given` is its model."""
    keys.forget(_MACHINE)
    kind = keys.take("distributed_type", "NO")
    if str(kind).upper() not in _KINDS:
        keys.warn(f"distributed_type: {text_of(kind)}", "Another device or engine trains the model.", "one on GPUs")
    for name, section in (("fsdp_config", "FSDP"), ("deepspeed_config", "DEEPSPEED")):
        nested = keys.take(name, {})
        if nested and not isinstance(nested, dict):
            keys.miss(name, nested, "is not an object: it is not read")
        elif nested and str(kind).upper() != section:
            keys.without_effect.append(name)
        elif str(kind).upper() == section:
            keys.left |= {"use_fsdp": True} if section == "FSDP" else {"use_deepspeed": True}
            keys.left |= nested
    _warn_of_parallelism(keys)
    if keys.left.get("mixed_precision") == "fp8":
        keys.left["mixed_precision"] = "bf16"
        effect = "Linear layers cast weights and activations to 8 bits, under autocast in bfloat16."
        keys.warn("mixed_precision: fp8", effect, "one with mixed_precision bf16")
        keys.forget(("fp8_config",))
    states = keys.left.get("mixed_precision") is not None
    precision = keys.choice("mixed_precision", _PRECISIONS, None, "no")
    training = {**({"autocast": precision} if states else {}), **_sizes(keys)}
    return _closed(keys, "accelerate", given, training)


def _warn_of_parallelism(keys: Keys) -> None:
    """Read `parallelism_config`, whose groups of GPUs other than those that shard the model are not modeled."""
    given = keys.take("parallelism_config", {})
    sizes = {key.removeprefix("parallelism_config_"): size for key, size in given.items()} if _is_map(given) else {}
    split = [f"{name}: {sizes[name]}" for name in _GROUPS if sizes.get(name) not in (None, 1)]
    if split:
        effect = "They divide sequences or matrices among the GPUs, or replicate the model."
        keys.warn(", ".join(split), effect, "one that shards the model over all GPUs")


#: The sizes of accelerate's groups of GPUs that are not modeled.
_GROUPS = ("tp_size", "cp_size", "sp_size", "ep_size", "dp_replicate_size")


def _is_map(value: Any) -> bool:
    return isinstance(value, dict)


def deepspeed(keys: Keys, given: Any) -> Imported:
    """Return the request of DeepSpeed's configuration; `given` is its model."""
    config, keys.left = keys.left, {}
    keys.left["deepspeed"] = config
    keys.without_effect += [key for key in config if key in zero_config.WITHOUT_EFFECT]
    return _closed(keys, "deepspeed", given, {})


def _sizes(keys: Keys) -> dict[str, Any]:
    """Return the settings of training that the file states among accelerate's keys of DeepSpeed."""
    sizes: dict[str, Any] = {}
    if "gradient_accumulation_steps" in keys.left:
        sizes["gradient_accumulation_steps"] = max(1, keys.integer("gradient_accumulation_steps", 1))
    if "gradient_clipping" in keys.left:
        sizes["max_grad_norm"] = keys.number("gradient_clipping", 1.0) or None
    return sizes


def _closed(keys: Keys, format: str, given: Any, training: dict[str, Any]) -> Imported:  # noqa: A002  the API's word
    if given is None:
        raise refusal("model", f"{format}'s file names no model: give a catalogue id, or a config", None)
    spread = distributed(keys, format, training)
    keys.miss("method", None, "is not in the file: full fine-tuning is used, or the request's own method")
    request = {"model": given, "method": {"name": "full"}, "training": spread.training, **spread.request}
    return keys.close(format, request)


def without_plan(imported: Imported) -> Imported:
    """Return the request of a file without a plan. DeepSpeed's `auto` takes the precision of a tool, which is bf16.

    In float32, ZeRO keeps no weights in half precision, which few runs mean.
    """
    training, sharding = imported.request["training"], imported.request.get("device", {}).get("sharding", "")
    if training.get("autocast") or not sharding.startswith("zero"):
        return imported
    why = "is not in the file, or is auto: Trainer's bf16=True is assumed"
    assumed = NotUnderstood(key="bf16.enabled", value=None, why=why)
    request = {**imported.request, "training": {**training, "autocast": "bfloat16"}}
    return replace(imported, request=request, not_understood=(*imported.not_understood, assumed))


def applied(imported: Imported, plan: dict[str, Any]) -> Imported:
    """Return a plan's request, distributed as an imported file does it.

    The plan's number of GPUs stays where the file names none. DeepSpeed refuses weights in bfloat16 without Trainer's
    bf16=True, which is then assumed as for a file without a plan.
    """
    settings = {key: value for key, value in plan.get("training", {}).items() if key not in _CONFIGS}
    training = {**settings, **imported.request["training"]}
    device, given = dict(imported.request.get("device", {})), plan.get("device", {})
    stated = {"method"}
    if given.get("count", 1) >= FEWEST and any(map(_lacks_count, imported.not_understood)):
        device["count"] = given["count"]
        stated.add(COUNT)
    request = {**plan, "training": training, "device": {**given, **device}}
    others = tuple(entry for entry in imported.not_understood if entry.key not in stated)
    planned = replace(imported, request=request, not_understood=others)
    return without_plan(planned) if training.get("dtype", "bfloat16") == "bfloat16" else planned


def _lacks_count(missed: NotUnderstood) -> bool:
    """Return whether a remark is that the file names no number of GPUs."""
    return missed.key == COUNT and missed.value is None


#: The settings of one sharding, which another one refuses.
_CONFIGS = ("ddp", "fsdp_config", "deepspeed")

#: The function that reads each format.
FORMATS: dict[str, Callable[[Keys, Any], Imported]] = {"accelerate": accelerate, "deepspeed": deepspeed}
