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

from app.interop.imports.other_runs import text_of
from calculator.inputs import deepspeed_keys
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

_FIELDS = {field.name: field for field in declared(ZeroOptimization)}
_TRAINING = {field.name: field for field in declared(Training)}
_OFFLOAD = {field.name: field for field in declared(Offload)}

#: Keys that do not change the memory of a step, or that repeat others.
WITHOUT_EFFECT = frozenset((*deepspeed_keys.WITHOUT_EFFECT, "train_batch_size"))

#: DeepSpeed's older flags of offloading, and the objects that they stand for.
_OLDER_OFFLOADS = {"cpu_offload": "offload_optimizer", "cpu_offload_param": "offload_param"}

_EAGER = ("torch.compile fuses operations and saves other tensors.", "one in eager mode")
_SPLIT = ("It splits weights or sequences over the GPUs.", "one that shards only what ZeRO shards")

#: Features of DeepSpeed that change the memory of a step: their effect, and the run that the figures are for.
_OTHER_RUNS = {
    "compile": _EAGER,
    "tensor_parallel": _SPLIT,
    "sequence_parallel_size": _SPLIT,
    "compression_training": ("It quantizes or prunes weights while they are trained.", "one without it"),
    "sparse_attention": ("It replaces the attention of the model.", "one with transformers' attention"),
    "progressive_layer_drop": ("It leaves out layers of a step.", "one that runs all layers"),
    "data_efficiency": ("It can drop tokens in the middle layers.", "one with all tokens in all layers"),
}

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


def named_config(path: str) -> dict[str, Any] | None:
    """Return the config of a file that a tool comes with, by its path; None if it is none of them."""
    zero = KNOWN_FILES.get(path.rpartition("/")[2].removesuffix(".json"))
    return None if zero is None else {"zero_optimization": zero}


def read(keys: Keys, config: dict[str, Any]) -> ZeroRun:
    """Return the run of a DeepSpeed config, and list what it does not reproduce."""
    left = {key: value for key, value in config.items() if key not in WITHOUT_EFFECT}
    zero = left.pop("zero_optimization", None)
    zero_settings = _zero(keys, dict(zero)) if isinstance(zero, dict) else {}
    training = _sizes(keys, left) | _precision(keys, left) | _optimizer(keys, left)
    for key, value in left.items():
        if isinstance(value, dict) and value.get("enabled") is False:
            keys.without_effect.append(f"deepspeed.{key}")
        elif value and key in _OTHER_RUNS:
            keys.warn(f"deepspeed.{key}: {text_of(value)}", *_OTHER_RUNS[key])
        elif value:
            keys.miss(f"deepspeed.{key}", value, "is not modeled: DeepSpeed's default is used")
    stage = zero_settings.pop("stage", 0)
    name = next((name for name, number in STAGES.items() if number == stage), "ddp")
    if name == "ddp":
        why = "DeepSpeed without ZeRO is not modeled: DistributedDataParallel is used"
        keys.miss("deepspeed.zero_optimization.stage", stage, why)
        return ZeroRun(sharding=name, training=training)
    if zero_settings:
        training["deepspeed"] = {"zero_optimization": zero_settings}
    return ZeroRun(sharding=name, training=training, count=_count(config))


def _count(config: dict[str, Any]) -> int:
    """Return the number of GPUs that the batch sizes imply; 0 if they are not all given."""
    names = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    values = [config.get(name, 1 if name.startswith("grad") else None) for name in names]
    total, micro, steps = (value if isinstance(value, int) and value > 0 else 0 for value in values)
    return total // (micro * steps) if micro and steps else 0


def _sizes(keys: Keys, left: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes that are numbers a request can have; `auto` leaves those of the tool."""
    sizes: dict[str, Any] = {}
    for key, name in SIZES.items():
        value = _whole(left.pop(key, None))
        if value in (None, "auto"):
            continue
        value = value or None if name == "max_grad_norm" else value
        setting = _TRAINING[name]
        problem = mismatch(setting.type, value) or out_of_range(setting.setting, value)
        if problem is None:
            sizes[name] = value
        else:
            keys.miss(f"deepspeed.{key}", value, f"{problem}: it is not read")
    return sizes


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


def _optimizer(keys: Keys, left: dict[str, Any]) -> dict[str, Any]:
    """Return the optimizer that DeepSpeed creates in place of the tool's.

    FusedAdam updates parameters without temporaries, as PyTorch's fused AdamW does. Source: runtime/engine.py,
    _configure_basic_optimizer; ops/adam/fused_adam.py.
    """
    given = left.pop("optimizer", None)
    if not given:
        return {}
    kind = given.get("type") if isinstance(given, dict) else given
    if str(kind).lower() not in ("adam", "adamw"):
        keys.miss("deepspeed.optimizer", kind, "is not modeled: the request's own optimizer is used")
        return {}
    params = given.get("params")
    if isinstance(params, dict) and params.get("torch_adam") is True:
        return {"optimizer": "adamw_torch"}
    keys.miss("deepspeed.optimizer", kind, "is DeepSpeed's FusedAdam: adamw_torch_fused is used, which needs the same")
    return {"optimizer": "adamw_torch_fused"}


#: Keys of bf16 and fp16 that do not change memory.
_SCALE = {"enabled", "auto_cast", "loss_scale", "initial_scale_power", "loss_scale_window", "hysteresis"} | {
    "min_loss_scale",
    "consecutive_hysteresis",
}


def _zero(keys: Keys, given: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for key, value in given.items():
        name = deepspeed_keys.SHORT_NAMES.get(key, key)
        if key in deepspeed_keys.ZERO_WITHOUT_EFFECT:
            keys.without_effect.append(f"deepspeed.zero_optimization.{key}")
        elif key in _OLDER_OFFLOADS:
            settings |= {_OLDER_OFFLOADS[key]: {"device": "cpu"}} if value is True else {}
        elif name in ("offload_optimizer", "offload_param"):
            settings |= _offloaded(keys, name, value)
        elif name == "stage" and value == 0:
            settings["stage"] = 0
        elif value is not None:
            settings |= _setting(keys, f"zero_optimization.{key}", name, _FIELDS.get(name), value)
    return settings


def _offloaded(keys: Keys, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get("device", "none") == "none":
        return {}
    settings: dict[str, Any] = {}
    path = f"zero_optimization.{name}"
    if value.get("device") == "nvme":
        keys.warn(
            f"deepspeed.{path}.device: nvme", "States are swapped to a disk.", "one that keeps them in host memory"
        )
        value = {**value, "device": "cpu"}
    for key, part in value.items():
        if key in deepspeed_keys.OF_NVME:
            keys.without_effect.append(f"deepspeed.{path}.{key}")
        else:
            settings |= _setting(keys, f"{path}.{key}", key, _OFFLOAD.get(key), part)
    return {name: settings} if settings.get("device") == "cpu" else {}


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
