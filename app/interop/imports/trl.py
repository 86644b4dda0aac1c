"""A command line of TRL, or the YAML of `trl sft --config`, as a request.

Source: TRL 1.16, scripts/sft.py, trainer/model_config.py, and get_quantization_config in trainer/utils.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from app.interop.imports.arguments import TRL_CONFIG, arguments, trainer_or_warn
from app.interop.imports.command import SUBCOMMAND
from app.interop.imports.distribution import distributed
from app.interop.imports.loaded_dtype import checkpoint_dtype
from app.interop.imports.reference import reference
from app.interop.imports.without_effect import WITHOUT_EFFECT
from calculator.inputs.sharding import QuantStorage

if TYPE_CHECKING:
    from app.interop.imports.imported import Imported
    from app.interop.imports.keys import Keys

_DTYPES = {name: name for name in ("bfloat16", "float16", "float32")}

#: TRL prepares no model for k-bit training.
UNPREPARED = {"prepare_model_for_kbit_training": False}


def quant_storage(keys: Keys) -> dict[str, Any]:
    """Return the dtype of the tensors with packed 4-bit weights, if the configuration names one."""
    choices = {name: name for name in get_args(QuantStorage)}
    name = keys.choice("bnb_4bit_quant_storage", choices, "uint8", "uint8")
    return {"quant_storage": name} if name != "uint8" else {}


def imported(keys: Keys, given: Any) -> Imported:
    """Return the request of a configuration; `given` replaces the model that it names."""
    trainer = trainer_or_warn(keys, f"trl-{keys.take(SUBCOMMAND) or _subcommand(keys)}")
    model = reference(keys, "model_name_or_path", given)
    keys.forget(WITHOUT_EFFECT["trl"])
    keys.rename("torch_dtype", "dtype")
    training = {
        "trainer": trainer,
        "dtype": keys.choice("dtype", {**_DTYPES, "auto": checkpoint_dtype(model)}, "float32", "float32"),
        **arguments(keys, trainer, TRL_CONFIG),
    }
    method, spread = _method(keys), distributed(keys, "trl", training)
    request = {"model": model, "method": method, "training": spread.training, **spread.request}
    return keys.close("trl", request)


#: Keys that only configurations of a trainer other than SFTTrainer have, with its subcommand.
_OF_TRAINERS = {
    **dict.fromkeys(("desirable_weight", "undesirable_weight"), "kto"),
    **dict.fromkeys(("ld_alpha", "f_divergence_type", "precompute_ref_log_probs", "label_smoothing"), "dpo"),
    "center_rewards_coefficient": "reward",
    **dict.fromkeys(("reward_funcs", "num_generations", "max_completion_length", "steps_per_generation"), "grpo"),
}


def _subcommand(keys: Keys) -> str:
    """Return the subcommand that a configuration is for, by its keys. Without such a key, SFTTrainer is assumed."""
    subcommand = next((name for key, name in _OF_TRAINERS.items() if keys.left.get(key) is not None), None)
    why = "is not in the file: " + (f"its keys are those of trl {subcommand}" if subcommand else "trl sft is assumed")
    keys.miss("trl subcommand", None, why)
    return subcommand or "sft"


def _method(keys: Keys) -> dict[str, Any]:
    """Return the method of a ModelConfig, with its defaults."""
    adapts, in_4_bits = keys.flag("use_peft"), keys.flag("load_in_4bit")
    in_8_bits = keys.flag("load_in_8bit")
    method = {
        "r": keys.integer("lora_r", 16),
        "lora_alpha": keys.number("lora_alpha", 32),
        "lora_dropout": keys.number("lora_dropout", 0.05),
        "target_modules": _targets(keys),
        "use_dora": keys.flag("use_dora"),
        "use_rslora": keys.flag("use_rslora"),
        "modules_to_save": keys.names("lora_modules_to_save"),
    }
    quantization = {
        "quant_type": keys.choice("bnb_4bit_quant_type", {n: n for n in ("nf4", "fp4")}, "nf4", "nf4"),
        "double_quant": keys.flag("use_bnb_nested_quant"),
        **quant_storage(keys),
        **UNPREPARED,
    }
    if not adapts:
        if in_4_bits:
            keys.miss("load_in_4bit", True, "is refused without use_peft: the weights are not quantized")
        if in_8_bits:
            keys.miss("load_in_8bit", True, "is refused without use_peft: the weights are not quantized")
        return {"name": "full"}
    if in_4_bits:
        return {"name": "qlora", **method, **quantization}
    return {"name": "lora", **method, **({"load_in_8bit": True, **UNPREPARED} if in_8_bits else {})}


def _targets(keys: Keys) -> Any:
    targets = keys.left.get("lora_target_modules")
    if targets in ("all-linear", ["all-linear"]):
        keys.take("lora_target_modules")
        return "all-linear"
    return keys.names("lora_target_modules")
