"""A training script or notebook cell of transformers, PEFT, TRL or Unsloth as a request. It is read, never run.

Sources of defaults: transformers 5.24, training_args.py and utils/quantization_config.py; peft 0.21,
tuners/lora/config.py; TRL 1.16, trainer/base_config.py and trainer/utils.py; unsloth at 015bdef, models/loader.py,
models/llama.py and models/rl.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from app.interop.imports import base_storage, exported_loop, other_runs, tasks, unsloth
from app.interop.imports.arguments import TRAINING_ARGUMENTS, TRL_CONFIG, UNSLOTH_CONFIG, arguments, trainer_or_warn
from app.interop.imports.distribution import distributed
from app.interop.imports.exported_rows import with_rows
from app.interop.imports.frozen_parameters import cast_copies, settings_of
from app.interop.imports.loaded_dtype import loaded_dtype
from app.interop.imports.lora_layers import lora_layers
from app.interop.imports.other_classes import other_trainer, refuse_other_method
from app.interop.imports.peft_adapter import OF_CLASSES, method_of
from app.interop.imports.pinned import stack_of
from app.interop.imports.python_calls import VISION_COLLATOR
from app.interop.imports.reference import model_or_none, reference
from app.interop.imports.script_bases import quantized_base
from app.interop.imports.target_patterns import targets
from app.interop.imports.trainer_classes import CLASSES, trainer_of
from app.interop.imports.trl import quant_storage
from app.interop.imports.without_effect import WITHOUT_EFFECT
from calculator.trainers import TRAINERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.interop.imports.imported import Imported
    from app.interop.imports.keys import Keys
    from calculator.architecture.model import Model
    from calculator.common.names import TrainerName

#: Arguments that a script gives functions and classes of its own.
FUNCTIONS = ("reward_funcs", "tools", "environment_factory")

#: The name of a file in an expression.
_JSON = re.compile(r"[\w.-]{1,100}\.json")

_DTYPES = {name: name for name in ("bfloat16", "float16", "float32")}


def imported(keys: Keys, given: Any) -> Imported:
    """Return the request of a script's calls; `given` replaces the model that it names."""
    calls, embeds = keys.script.calls, tasks.embeds(keys.left, keys.script.unread)
    keys.forget(WITHOUT_EFFECT["script"])
    _list_unread(keys)
    is_unsloth = any(name.startswith(unsloth.MODELS) for name in calls)
    trainer = _trainer(keys, calls, is_unsloth=is_unsloth)
    if trainer == "trl-reward":
        keys.forget(("num_labels",))
    keys.rename("torch_dtype", "dtype")
    by_name = keys.left.get("model_name") is None
    keys.rename("model", "model_name")
    model = reference(keys, "model_name", given)
    method = base_storage.but_for_stated(_method(keys, calls, model_or_none(model), is_unsloth=is_unsloth), model)
    if trainer == "trl-orpo" and method["name"] == "qlora":
        method["prepare_model_for_kbit_training"] = True  # by ORPOTrainer itself
    by_trl = by_name and trainer.startswith("trl") and not is_unsloth
    task = {"task": "feature_extraction"} if embeds else tasks.task_of(keys)
    dtype = loaded_dtype(keys, method, model, by_trl=by_trl, by_unsloth=is_unsloth)
    training: dict[str, Any] = {"trainer": trainer, "dtype": dtype}
    loop = keys.script.loop if trainer_of(calls) is None and not is_unsloth else None
    if is_unsloth:
        training = _unsloth_training(keys, calls, method, model, training)
    else:
        training |= _plain_training(keys, calls, trainer, loop)
    training |= _images(keys, calls, task)
    if loop is None and tasks.has_fixed_length(keys, task):
        training = tasks.without_length(keys, training)
    if embeds:
        training = tasks.own_loop_training(keys, training)
    elif trainer_of(calls) is None and not is_unsloth and loop is None:
        why = "no Trainer is called, and training loops are not read: batch, length and optimizer are defaults"
        keys.miss("trainer", None, why)
    cast_copies(keys, method, training)
    spread = distributed(keys, "script", training)
    request = {"model": model, "method": method, "training": spread.training, **task, **spread.request}
    known = unsloth.release_of(keys, request) if spread.training.get("trainer") == "unsloth" else {}
    stack = stack_of(keys, request, known, patches_trl=is_unsloth)
    request |= {"stack": stack} if stack else {}
    return keys.close("script", request, tool="unsloth" if training.get("trainer") == "unsloth" else "")


def _plain_training(
    keys: Keys, calls: tuple[str, ...], trainer: TrainerName, loop: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the settings of a loop that Headroom exported, or of the trainer's arguments."""
    defaults = _defaults(keys, calls, trainer, is_unsloth=False)
    _set_length_of_images(keys)
    if loop is not None:
        return exported_loop.settings_of(keys, loop)
    in_float32 = keys.take("autocast_adapter_dtype", default=True)
    training = with_rows(keys, arguments(keys, trainer, defaults), keys.script.rows)
    return training if in_float32 else {**training, "adapter_dtype": "model"}


def _unsloth_training(
    keys: Keys, calls: tuple[str, ...], method: dict[str, Any], model: Any, training: dict[str, Any]
) -> dict[str, Any]:
    """Return the training settings of Unsloth, or those of TRL's trainer with a warning if Unsloth is not modeled."""
    trainer: TrainerName = training["trainer"]
    other_runs.warn_of(keys, other_runs.VLLM)
    defaults = _defaults(keys, calls, trainer, is_unsloth=True)
    _set_length_of_images(keys)
    if family := unsloth.modeled_family(calls, trainer, method, model):
        training = unsloth.training(keys, family, training, arguments(keys, "unsloth", defaults))
    else:
        training |= arguments(keys, trainer, defaults)
    training = unsloth.training_in_groups(keys, training)
    if training["trainer"] != "unsloth":
        keys.warn(
            "Unsloth",
            "Its kernels save other tensors, and its checkpointing moves layer inputs to host memory.",
            f"one of {TRAINERS[trainer].facts.label} with the same settings",
        )
    unsloth.warn_of_experts(keys, method, model_or_none(model))
    return training


def _set_length_of_images(keys: Keys) -> None:
    """Set the length of rows with images, unless the script sets another one."""
    if "sequence_length" in keys.script.images:
        keys.left.setdefault("max_length", keys.script.images["sequence_length"])


def _images(keys: Keys, calls: tuple[str, ...], task: dict[str, Any]) -> dict[str, Any]:
    """Return the training settings of images that the code states. Where it states none, it is a warning."""
    if task == {} and keys.script.images:
        return dict(keys.script.images)
    image_names = ("FastVisionModel", VISION_COLLATOR)
    if any(name.startswith(image_names) for name in calls) or (task == {} and tasks.may_read_images(calls)):
        effect = "Their tower runs for each, and their tokens count in a sequence."
        keys.warn("the images or audio of a dataset, which the file does not state", effect, "one with text only")
    return {}


def _list_unread(keys: Keys) -> None:
    file = _JSON.search(keys.script.unread.get("deepspeed", ""))
    if file is not None:
        keys.left.setdefault("deepspeed", file[0])
    for key, text in keys.script.unread.items():
        if file is not None and key == "deepspeed":
            continue
        if key not in (*WITHOUT_EFFECT["script"], *FUNCTIONS, "model_name") and not (
            key == tasks.AUTO_MODEL and tasks.is_read(text)
        ):
            keys.miss(key, text, "is an expression that is not evaluated: the default is used")
    is_exported = bool(keys.script.rows or keys.script.images) or keys.script.loop is not None
    for key, text in keys.script.defaults.items():
        if key not in WITHOUT_EFFECT["script"] and not (is_exported and key == "model_name"):
            keys.miss(key, text, "is an option or a parameter of the code: its default is used")


def _trainer(keys: Keys, calls: tuple[str, ...], *, is_unsloth: bool) -> TrainerName:
    other = other_trainer(keys.script.others)
    if trainer_of(calls) is None and other is not None and not is_unsloth:
        return trainer_or_warn(keys, other)
    return trainer_or_warn(keys, trainer_of(calls) or ("trl-sft" if is_unsloth else "transformers"))


def _defaults(keys: Keys, calls: tuple[str, ...], trainer: str, *, is_unsloth: bool) -> Any:
    if is_unsloth:
        unsloth.read_checkpointing(keys)
        return UNSLOTH_CONFIG
    plain = trainer == "transformers" or not any(name in calls for name in CLASSES if name.endswith("Config"))
    return TRAINING_ARGUMENTS if (plain and "TrainingArguments" in calls) or trainer == "transformers" else TRL_CONFIG


def _method(keys: Keys, calls: tuple[str, ...], model: Model | None, *, is_unsloth: bool) -> dict[str, Any]:
    in_8_bits, full = keys.flag("load_in_8bit"), keys.flag("full_finetuning")
    in_16_bits = is_unsloth and keys.flag("load_in_16bit")
    in_4_bits = keys.flag("load_in_4bit", default=is_unsloth and not (in_8_bits or in_16_bits or full))
    adapts = "LoraConfig" in calls or any(name.endswith(".get_peft_model") for name in calls)
    if adapts and full and is_unsloth:
        keys.forget(unsloth.OF_ADAPTERS)
        adapts = False
    if not adapts and in_8_bits:
        keys.miss("load_in_8bit", True, "8-bit weights are modeled under LoRA only: half-precision weights are used")
    if keys.script.adapters is not None:
        return dict(keys.script.adapters)
    base = quantized_base(keys, calls)
    other = next((name for call, name in OF_CLASSES.items() if call in calls), None)
    if other is not None and not adapts:
        if in_4_bits:
            keys.miss("load_in_4bit", True, "4 bits are modeled under LoRA only: half-precision weights are used")
            keys.forget((*base_storage.OF_4_BITS, "bnb_4bit_quant_storage"))
        return method_of(keys, other, model)
    if not adapts and base:
        why = "quantized weights are not trained themselves: half-precision weights are used"
        keys.miss("quantization_config", base["quant_method"], why)
    if not adapts:
        refuse_other_method(keys.script.others)
    if not adapts and keys.script.peft_config:
        why = "is not read, since its class is not called in the code: no adapter is assumed"
        keys.miss("peft_config", keys.script.peft_config, why)
    if not adapts and not in_4_bits:
        return {"name": "full", **settings_of(keys)}
    if not adapts:
        keys.miss("load_in_4bit", True, "4-bit weights are not trained themselves: LoRA with PEFT's defaults is used")
    if is_unsloth:
        unsloth.read_last_layers(keys, model)
    method = {
        "r": keys.integer("r", 16 if is_unsloth else 8),
        "lora_alpha": keys.number("lora_alpha", 16 if is_unsloth else 8),
        "lora_dropout": keys.number("lora_dropout", 0.0),
        **_targets(keys, model, is_unsloth=is_unsloth),
        "use_dora": keys.flag("use_dora"),
        "use_rslora": keys.flag("use_rslora"),
        "bias": keys.choice("bias", {name: name for name in ("none", "all", "lora_only")}, "none", "none"),
        "modules_to_save": keys.names("modules_to_save"),
        **lora_layers(keys),
    }
    if in_4_bits:
        return {"name": "qlora", **method, **_quantization(keys, calls, is_unsloth=is_unsloth)}
    if base:
        method |= {"quantization_config": base}
    if base.get("quant_method") in ("awq", "fp8"):
        method["prepare_model_for_kbit_training"] = _prepares(calls)
    if in_8_bits:
        method |= {"load_in_8bit": True, "prepare_model_for_kbit_training": _prepares(calls)}
    return {"name": "lora", **method}


def _targets(keys: Keys, model: Model | None, *, is_unsloth: bool) -> dict[str, Any]:
    if is_unsloth:
        return unsloth.targets_of(keys, model)
    if keys.left.get("target_modules") == "all-linear":
        return {"target_modules": keys.take("target_modules")}
    return targets(keys, "target_modules", model)


def _quantization(keys: Keys, calls: tuple[str, ...], *, is_unsloth: bool) -> dict[str, Any]:
    types = {name: name for name in ("nf4", "fp4")}
    default = "nf4" if is_unsloth else "fp4"
    compute = keys.take("bnb_4bit_compute_dtype")
    if compute is not None and compute != keys.left.get("dtype", compute):
        keys.miss("bnb_4bit_compute_dtype", compute, "differs from dtype, which is used for both")
    elif isinstance(compute, str) and compute in _DTYPES:
        keys.left.setdefault("dtype", compute)
    return {
        "quant_type": keys.choice("bnb_4bit_quant_type", types, default, default),
        "double_quant": keys.flag("bnb_4bit_use_double_quant", default=is_unsloth),
        **quant_storage(keys),
        "prepare_model_for_kbit_training": _prepares(calls),
    }


def _prepares(calls: tuple[str, ...]) -> bool:
    return "prepare_model_for_kbit_training" in calls
