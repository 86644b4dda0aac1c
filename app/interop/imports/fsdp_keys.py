"""The keys of FSDP, as accelerate, transformers, axolotl and TRL spell them, as the request's `training.fsdp_config`.

Source: accelerate 1.15, utils/dataclasses.py (FullyShardedDataParallelPlugin); transformers 5.24, training_args.py
(`_process_fsdp_args`); axolotl at 067b021, src/axolotl/utils/schemas/fsdp.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from app.interop.imports.imported import NotUnderstood
from app.interop.imports.other_runs import text_of
from app.interop.imports.reference import model_or_none
from calculator.sharding.fsdp.layer_classes import LAYER_CLASSES

if TYPE_CHECKING:
    from app.interop.imports.imported import Imported
    from app.interop.imports.keys import Keys

#: Keys that do not change the memory of a step under FSDP2.
WITHOUT_EFFECT = frozenset(
    (
        *("state_dict_type", "final_state_dict_type", "sync_module_states"),
        *("backward_prefetch", "backward_prefetch_policy", "forward_prefetch", "limit_all_gathers", "xla"),
        *("cpu_offload_pin_memory", "xla_fsdp_v2", "xla_fsdp_grad_ckpt", "xla_fsdp_settings", "use_orig_params"),
    )
)

#: The key that names the classes of units.
CLASSES = "transformer_layer_cls_to_wrap"

#: Whether a strategy of FSDP1 frees weights after the forward pass.
STRATEGIES = {"FULL_SHARD": True, "1": True, "SHARD_GRAD_OP": False, "2": False}

#: Words of transformers' older `fsdp` option.
WORDS: dict[str, dict[str, Any]] = {
    "full_shard": {"sharding_strategy": "FULL_SHARD"},
    "shard_grad_op": {"sharding_strategy": "SHARD_GRAD_OP"},
    "hybrid_shard": {"sharding_strategy": "HYBRID_SHARD"},
    "hybrid_shard_zero2": {"sharding_strategy": "HYBRID_SHARD_ZERO2"},
    "no_shard": {"sharding_strategy": "NO_SHARD"},
    "offload": {"offload_params": True},
    "auto_wrap": {},
}

_EFFECT = "FSDP shards weights, gradients and optimizer states over the GPUs, and can offload them."
_MODELED = "one under FSDP2 with the same settings otherwise"


@dataclass(frozen=True, slots=True, kw_only=True)
class FSDPRun:
    """A run under FSDP: the settings of its training."""

    training: dict[str, Any] = field(default_factory=dict)


def merged(option: Any, config: Any, others: dict[str, Any]) -> dict[str, Any] | None:
    """Return the settings of an option `fsdp`, an object `fsdp_config` and keys of both, without prefixes.

    None if they switch nothing on.
    """
    words = option.split() if isinstance(option, str) else option if isinstance(option, list) else []
    values: dict[str, Any] = {}
    for word in words:
        values |= WORDS.get(str(word), {"fsdp": word})
    nested = config if isinstance(config, dict) else {}
    for key, value in (*others.items(), *nested.items()):
        values[key.removeprefix("fsdp_")] = value
    if isinstance(config, str) and config:
        values["config"] = config
    return values if option or config or others else None


def read(keys: Keys, settings: dict[str, Any], version: int, *, broadcasts: bool = False) -> FSDPRun:
    """Return the run of some settings, and list what it does not reproduce.

    `version` and `broadcasts` are the defaults of `version` and `cpu_ram_efficient_loading`.
    """
    left = {key: value for key, value in settings.items() if key not in WITHOUT_EFFECT}
    given = left.pop("version", version)
    if str(given).isdecimal():
        version = int(given)
    else:
        keys.miss("fsdp_version", given, f"is not a number: {version} is used")
    if version != 2:
        keys.warn(f"fsdp_version: {version}", _EFFECT, _MODELED)
    config: dict[str, Any] = {}
    if not _reshards(keys, left):
        config["reshard_after_forward"] = False
    offloads = [_is_true(left.pop(key, None)) for key in ("offload_params", "cpu_offload")]
    if any(offloads):
        config["cpu_offload"] = True
    if _is_true(left.pop("cpu_ram_efficient_loading", broadcasts)):
        config["cpu_ram_efficient_loading"] = True
    classes = left.pop(CLASSES, None)
    if classes:
        config[CLASSES] = _names(classes)
    training: dict[str, Any] = {"fsdp_config": config} if config else {}
    if _is_true(left.pop("activation_checkpointing", None)):
        training["gradient_checkpointing"] = True
    _list_others(keys, left)
    return FSDPRun(training=training)


def _reshards(keys: Keys, left: dict[str, Any]) -> bool:
    """Return whether a unit's weights are freed after its forward pass: FSDP2's flag, or FSDP1's strategy."""
    flag, strategy = left.pop("reshard_after_forward", None), left.pop("sharding_strategy", None)
    value = strategy if flag is None else flag
    if value is None or isinstance(value, bool):
        return value is not False
    values = {**STRATEGIES, "TRUE": True, "FALSE": False}
    if str(value).upper() not in values:
        keys.warn(f"fsdp_sharding_strategy: {text_of(value)}", "It shards the model over some of the GPUs.", _MODELED)
    return values.get(str(value).upper(), True)


def _list_others(keys: Keys, left: dict[str, Any]) -> None:
    policy = left.pop("auto_wrap_policy", "TRANSFORMER_BASED_WRAP")
    if policy and str(policy).upper() != "TRANSFORMER_BASED_WRAP":
        keys.miss("fsdp_config.auto_wrap_policy", policy, "is not modeled: each decoder layer is a unit")
    for key, value in left.items():
        if value:
            keys.miss(f"fsdp_config.{key}", value, "is not modeled: its default is used")


def with_modeled_classes(imported: Imported) -> Imported:
    """Return the import without class names whose units are not modeled for its model; they are listed."""
    request, settings = imported.request, imported.request.get("training", {}).get("fsdp_config") or {}
    names, model = settings.get(CLASSES), model_or_none(request["model"])
    if names is None or model is None or {*names} == {*LAYER_CLASSES.get(model.model_type, ())}:
        return imported
    why = "units of these classes are not modeled: each layer of the model is a unit"
    listed = NotUnderstood(key=f"fsdp_config.{CLASSES}", value=",".join(names), why=why)
    config = {key: value for key, value in settings.items() if key != CLASSES}
    training = {key: value for key, value in request["training"].items() if key != "fsdp_config"}
    request = {**request, "training": {**training, **({"fsdp_config": config} if config else {})}}
    return replace(imported, request=request, not_understood=(*imported.not_understood, listed))


def _names(value: Any) -> list[str]:
    """Return the names of a list, or of a text that commas separate."""
    parts = value if isinstance(value, list) else str(value).split(",")
    return [str(part).strip() for part in parts if str(part).strip()]


def _is_true(value: Any) -> bool:
    return value is True or str(value).lower() == "true"
