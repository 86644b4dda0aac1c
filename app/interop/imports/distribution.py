"""How a file distributes its run over several GPUs, as the request's device and training."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.interop.exports.distribution import AXOLOTL_UNITS
from app.interop.imports import fsdp_keys, zero_config
from app.interop.imports.other_runs import text_of
from calculator.inputs.sharding import DeepSpeedConfig

if TYPE_CHECKING:
    from app.interop.imports.keys import Keys

#: The number of GPUs where a file names none.
FEWEST = 2

#: The key under which a file without a number of GPUs is listed.
COUNT = "num_processes"

_ZERO = "ZeRO shards optimizer states, gradients and (stage 3) weights over the GPUs, and can offload them."
_WHOLE = "one that keeps all of them on each GPU"
_ELSEWHERE = "accelerate's configuration can divide the model among the GPUs."

#: The options of launchers by which processes find each other.
_MEETING = (
    *("machine_rank", "main_process_ip", "main_process_port", "node_rank", "master_addr", "master_port"),
    *("rdzv_backend", "rdzv_endpoint", "rdzv_id", "standalone"),
)

#: A path in TRL's folders of configurations.
_IN_TRL = re.compile(r"(?:^|/)accelerate_configs/[^/]+$")

#: The keys of TrainingArguments for DDP, and the names of the request.
DDP_KEYS = {
    "ddp_find_unused_parameters": "find_unused_parameters",
    "ddp_bucket_cap_mb": "bucket_cap_mb",
    "ddp_static_graph": "static_graph",
}

#: The content of TRL's own configurations. Source: TRL 1.16, accelerate_configs.
TRL_CONFIGS: dict[str, dict[str, Any]] = {
    "single_gpu": {},
    "multi_gpu": {"num_processes": 8},
    "fsdp1": {"num_processes": 8, "fsdp_version": 1, "fsdp_cpu_ram_efficient_loading": True},
    "fsdp2": {"num_processes": 8, "fsdp_version": 2, "fsdp_cpu_ram_efficient_loading": True},
    **{f"zero{stage}": {"num_processes": 8, "zero_stage": stage} for stage in (1, 2, 3)},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """A run's distribution: the request's device, which is empty on one GPU, and its training."""

    device: dict[str, Any]
    training: dict[str, Any]

    @property
    def request(self) -> dict[str, Any]:
        """The part of a request that is not its training."""
        return {"device": self.device} if self.device else {}


def distributed(keys: Keys, format: str, training: dict[str, Any]) -> Distribution:  # noqa: A002  the API's word
    """Consume every key of sharding, and return what they set. `training` has the file's other settings."""
    _read_accelerate_config(keys)
    nodes = keys.integer("num_machines", 0) or keys.integer("nnodes", 1)
    # torchrun counts the processes of a node, accelerate those of all nodes.
    here = keys.integer("nproc_per_node", 0) * max(1, nodes)
    count = keys.integer("num_processes", 0) or here or _gpus_of_tool(keys, format)
    keys.forget(_MEETING)
    ddp = _ddp(keys)
    fsdp, zero = _fsdp(keys, format), _zero(keys, training.get("trainer"))
    if fsdp is not None:
        if zero is not None:
            keys.miss("deepspeed", zero.sharding, "is set together with fsdp, which is used")
        settings, name = {**training, **fsdp.training}, "fsdp"
        if format == "axolotl":
            keys.miss("fsdp_version", keys.given("fsdp_version"), AXOLOTL_UNITS)
    elif zero is not None:
        settings, name, count = {**training, **zero.training}, zero.sharding, count or zero.count
    elif count < FEWEST:
        keys.without_effect += ["ddp"] if ddp else []
        return Distribution(device={}, training=training)
    else:
        settings, name = {**training, **({"ddp": ddp} if ddp else {})}, "ddp"
    if count < FEWEST:
        why = "one GPU shards nothing, which is not modeled" if count else "the file names no number of GPUs"
        keys.miss(COUNT, count or None, f"{why}: {FEWEST} is used")
    count = max(count, FEWEST)
    device = {"count": count, "sharding": name}
    if nodes > 1 and count % nodes:
        keys.miss("num_machines", nodes, f"{count:,} GPUs do not divide equally among the machines: one node is used")
    elif nodes > 1:
        device["nodes"] = nodes
    return Distribution(device=device, training=settings)


def _gpus_of_tool(keys: Keys, format: str) -> int:  # noqa: A002  the API's word
    """Return the number of GPUs that a tool's keys imply, or 0: FSDP's shards in axolotl, and Ray's workers.

    Source: axolotl at 067b021, utils/distributed.py (_get_parallel_config_kwargs) and schemas/integrations.py;
    LLaMA-Factory at ff6d4d1, hparams/training_args.py.
    """
    if format not in ("axolotl", "llama-factory"):
        return 0
    workers = keys.integer("ray_num_workers", 0)
    runs = format == "llama-factory" or keys.flag("use_ray")
    return keys.integer("dp_shard_size", 0) or (workers if runs else 0)


def _read_accelerate_config(keys: Keys) -> None:
    """Replace the name of a configuration of accelerate in the command by its keys."""
    named, file = keys.take("accelerate_config"), keys.take("config_file")
    config = _trl_config(named) if named else None
    if config is None and _IN_TRL.search(str(file)):
        config = _trl_config(file)
        file = file if config is None else None
    if config is not None:
        keys.left = {**config, **keys.left}
    elif named:
        keys.warn(f"accelerate_config: {text_of(named)}", _ELSEWHERE, _WHOLE)
    if file:
        keys.warn(f"config_file: {text_of(file)}", f"{_ELSEWHERE} Import that file too.", _WHOLE)


def _trl_config(name: Any) -> dict[str, Any] | None:
    """Return the content of a configuration of TRL. Its examples have some under longer names."""
    return TRL_CONFIGS.get(str(name).rpartition("/")[2].removesuffix(".yaml").removeprefix("deepspeed_"))


def _ddp(keys: Keys) -> dict[str, Any]:
    """Return the settings of DDP that are not PyTorch's defaults."""
    cap = keys.integer("ddp_bucket_cap_mb", 25)
    settings: dict[str, Any] = {"bucket_cap_mb": cap} if cap != 25 and cap > 0 else {}
    for key, name in DDP_KEYS.items():
        if keys.left.get(key) is True:
            settings[name] = keys.take(key)
        elif key in keys.left:
            keys.take(key)
    keys.forget(key for key in ("ddp", "ddp_broadcast_buffers", "ddp_backend") if key in keys.left)
    return settings


def _fsdp(keys: Keys, format: str) -> fsdp_keys.FSDPRun | None:  # noqa: A002  the API's word
    is_used, option, config = keys.flag("use_fsdp"), keys.take("fsdp"), keys.take("fsdp_config")
    others = {key: keys.take(key) for key in [key for key in keys.left if key.startswith("fsdp_")]}
    others = {key: value for key, value in others.items() if value is not None}
    if option and not isinstance(option, bool | str | list):
        keys.miss("fsdp", option, "is not read: it is true, or names options")
    settings = fsdp_keys.merged(option or is_used, config, others)
    if settings is None:
        return None
    # accelerate launch sets cpu_ram_efficient_loading where nothing else does, and transformers does not.
    return fsdp_keys.read(keys, settings, 1 if format == "axolotl" or is_used else 2, broadcasts=is_used)


def _zero(keys: Keys, trainer: str | None) -> zero_config.ZeroRun | None:
    if keys.take("deepcompile"):
        keys.warn("deepcompile: true", "DeepCompile compiles the model and gathers weights itself.", "one without it")
    is_used, config = keys.flag("use_deepspeed"), keys.take("deepspeed") or keys.take("deepspeed_config_file")
    plugin, builds_partitioned = _plugin(keys), keys.flag("zero3_init_flag", default=True)
    if isinstance(config, str):
        settings = zero_config.named_config(config)
        if settings is None:
            effect = f"{_ZERO} Replace its name by the content of that file."
            keys.warn(f"deepspeed: {text_of(config)}", effect, _WHOLE)
            return None
        config = settings
    if not (isinstance(config, dict) and config):
        if not plugin and not is_used:
            return None
        config = {"zero_optimization": plugin}
    run = zero_config.read(keys, config)
    if run.sharding == "zero3" and builds_partitioned != DeepSpeedConfig().builds_partitioned(trainer):
        run.training["deepspeed"] = run.training.get("deepspeed", {}) | {"zero3_init_flag": builds_partitioned}
    return run


def _plugin(keys: Keys) -> dict[str, Any]:
    """Return ZeRO's settings among accelerate's own keys of DeepSpeed. Its default stage is 2."""
    names = ("zero_stage", "offload_optimizer_device", "offload_param_device")
    given = {name: keys.take(name) for name in names}
    keys.forget(key for key in ("zero3_save_16bit_model", "deepspeed_multinode_launcher"))
    if all(value is None for value in given.values()):
        return {}
    stage = given.pop("zero_stage")
    settings: dict[str, Any] = {"stage": 2 if stage is None else stage}
    return settings | {name.removesuffix("_device"): {"device": value} for name, value in given.items() if value}
