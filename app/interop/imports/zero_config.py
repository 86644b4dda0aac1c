"""A DeepSpeed config as the request's `training.deepspeed`.

Source: DeepSpeed 0.19.8, runtime/config.py and runtime/zero/config.py; transformers 5.24, integrations/deepspeed.py;
accelerate 1.15, utils/dataclasses.py (DeepSpeedPlugin); axolotl at 067b021, deepspeed_configs; LLaMA-Factory at
ff6d4d1, examples/deepspeed; TRL 1.16, accelerate_configs.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from calculator.inputs.settings import declared, mismatch, out_of_range
from calculator.inputs.sharding import STAGES, Offload, ZeroOptimization
from calculator.inputs.training import Training

if TYPE_CHECKING:
    from app.interop.imports.keys import Keys
    from calculator.inputs.settings import Declared

#: The object `zero_optimization` of the files that the tools come with, by their names.
KNOWN_FILES: dict[str, dict[str, Any]] = json.loads(
    files(__package__).joinpath("zero_configs.json").read_text(encoding="utf-8")
)

_FIELDS = {each.name: each for each in declared(ZeroOptimization)}
_TRAINING = {each.name: each for each in declared(Training)}
_OFFLOAD = {each.name: each for each in declared(Offload)}

#: DeepSpeed reads the settings of stage 3 without their prefix too.
_SHORT = {name.removeprefix("stage3_"): name for name in _FIELDS if name.startswith("stage3_")}

#: Keys that do not change the memory of a step.
WITHOUT_EFFECT = frozenset(
    (
        *("zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "wall_clock_breakdown", "steps_per_print"),
        *("scheduler", "monitor_config", "tensorboard", "csv_monitor", "wandb", "comms_logger", "comms_config"),
        *("flops_profiler", "dump_state", "checkpoint", "_comment", "train_batch_size", "prescale_gradients", "seed"),
    )
)

#: Keys whose `auto` the tool fills in from its own settings.
SIZES = {
    "train_micro_batch_size_per_gpu": "micro_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_clipping": "max_grad_norm",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroRun:
    """A run under DeepSpeed: the name of the sharding, and the settings that its config has."""

    sharding: str
    training: dict[str, Any] = field(default_factory=dict)
    count: int = 0


def by_name(path: str) -> dict[str, Any] | None:
    """Return the config of a file that a tool comes with, by its path; None if it is none of them."""
    zero = KNOWN_FILES.get(path.rpartition("/")[2].removesuffix(".json"))
    return None if zero is None else {"zero_optimization": zero}


def read(keys: Keys, config: dict[str, Any]) -> ZeroRun:
    """Return the run of a DeepSpeed config, and list what it does not reproduce."""
    left = {key: value for key, value in config.items() if key not in WITHOUT_EFFECT}
    zero = left.pop("zero_optimization", None)
    found = _zero(keys, dict(zero)) if isinstance(zero, dict) else {}
    training = _sizes(keys, left) | _precision(keys, left)
    for key, value in left.items():
        if value:
            keys.miss(f"deepspeed.{key}", value, "is not modeled: DeepSpeed's default is used")
    stage = found.pop("stage", 0)
    name = next((name for name, number in STAGES.items() if number == stage), "ddp")
    if name == "ddp":
        why = "DeepSpeed without ZeRO is not modeled: DistributedDataParallel is used"
        keys.miss("deepspeed.zero_optimization.stage", stage, why)
        return ZeroRun(sharding=name, training=training)
    if found:
        training["deepspeed"] = {"zero_optimization": found}
    return ZeroRun(sharding=name, training=training, count=_count(config))


def _count(config: dict[str, Any]) -> int:
    """Return the number of GPUs that the batch sizes imply; 0 if they are not all given."""
    names = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    values = [config.get(name, 1 if name.startswith("grad") else None) for name in names]
    total, micro, steps = (value if isinstance(value, int) and value > 0 else 0 for value in values)
    return total // (micro * steps) if micro and steps else 0


def _sizes(keys: Keys, left: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes that are numbers a request can have; `auto` leaves those of the tool."""
    found: dict[str, Any] = {}
    for key, name in SIZES.items():
        value = _whole(left.pop(key, None))
        if value in (None, "auto"):
            continue
        value = value or None if name == "max_grad_norm" else value
        setting = _TRAINING[name]
        problem = mismatch(setting.type, value) or out_of_range(setting.setting, value)
        if problem is None:
            found[name] = value
        else:
            keys.miss(f"deepspeed.{key}", value, f"{problem}: it is not read")
    return found


def _precision(keys: Keys, left: dict[str, Any]) -> dict[str, Any]:
    """Return autocast. Other keys of bf16 and fp16 are of the loss scale, or are listed."""
    bf16, fp16 = left.pop("bf16", None), left.pop("fp16", None)
    for name, value in (("bf16", bf16), ("fp16", fp16)):
        others = set(value) - _SCALE if isinstance(value, dict) else set()
        if others:
            keys.miss(f"deepspeed.{name}", sorted(others), "is not modeled: DeepSpeed's default is used")
    if isinstance(bf16, dict) and bf16.get("enabled") is True:
        return {"autocast": "bfloat16"}
    return {"autocast": "float16"} if isinstance(fp16, dict) and fp16.get("enabled") is True else {}


#: Keys of bf16 and fp16 that do not change memory.
_SCALE = {"enabled", "auto_cast", "loss_scale", "initial_scale_power", "loss_scale_window", "hysteresis"} | {
    "min_loss_scale",
    "consecutive_hysteresis",
}


def _zero(keys: Keys, given: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in given.items():
        name = _SHORT.get(key, key)
        if name in ("offload_optimizer", "offload_param"):
            found |= _offloaded(keys, name, value)
        elif name == "stage" and value == 0:
            found["stage"] = 0
        elif value is not None:
            found |= _setting(keys, f"zero_optimization.{key}", name, _FIELDS.get(name), value)
    return found


def _offloaded(keys: Keys, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get("device", "none") == "none":
        return {}
    found: dict[str, Any] = {}
    for key, part in value.items():
        found |= _setting(keys, f"zero_optimization.{name}.{key}", key, _OFFLOAD.get(key), part)
    return {name: found} if found.get("device") == "cpu" else {}


def _setting(keys: Keys, path: str, name: str, setting: Declared | None, value: Any) -> dict[str, Any]:
    """Return a setting by its name, or list it."""
    if setting is None:
        keys.miss(f"deepspeed.{path}", value, "is not modeled: DeepSpeed's default is used")
        return {}
    value = _whole(value)
    problem = mismatch(setting.type, value) or out_of_range(setting.setting, value)
    if problem is not None:
        keys.miss(f"deepspeed.{path}", value, f"{problem}: DeepSpeed's default is used")
        return {}
    return {name: value}


def _whole(value: Any) -> Any:
    """Return 5e8 as an integer, which YAML reads as text and JSON as a float."""
    if isinstance(value, str) and value[:1].isdigit():
        with suppress(ValueError):
            value = float(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value
