"""What a script of Unsloth says besides the settings of TRL's SFTTrainer.

Source: unsloth at 015bdef, models/llama.py, get_peft_model, and models/rl.py, which sets bf16 and fp16, and the batch
of GRPO.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.interop.imports.reference import known
from calculator.trainers.unsloth.check import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.interop.imports.keys import Keys

#: The arguments of get_peft_model, which has no effect with full_finetuning.
OF_ADAPTERS = (
    "r", "lora_alpha", "lora_dropout", "target_modules", "bias", "use_rslora", "use_dora", "modules_to_save",
    "layers_to_transform", "layers_pattern", "finetune_vision_layers", "finetune_language_layers",
    "finetune_attention_modules", "finetune_mlp_modules",
)  # fmt: skip

#: The classes that load a model: of text, of images, and of either.
MODELS = ("FastLanguageModel", "FastVisionModel", "FastModel")


def is_modelled(calls: Iterable[str], trainer: str, method: dict[str, Any], model: Any) -> bool:
    """Whether Headroom models the run: supervised LoRA of a model that FastLanguageModel patches."""
    is_language_model = any(name.startswith("FastLanguageModel") for name in calls)
    found = known(model)
    is_patched = found is not None and found.model_type in FAMILIES
    low_rank = method["name"] in ("lora", "qlora") and not method.get("load_in_8bit")
    return is_language_model and trainer == "trl-sft" and low_rank and is_patched


def read_checkpointing(keys: Keys) -> None:
    """Read `use_gradient_checkpointing`: "unsloth", which offloads layer inputs, True or False."""
    given = keys.take("use_gradient_checkpointing", "unsloth")
    keys.left.setdefault("gradient_checkpointing", bool(given) and given != "False")
    keys.left.pop("activation_offloading", None)
    if given in (True, "True"):
        keys.left["activation_offloading"] = False


def training(keys: Keys, read: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the training of a run with Unsloth, which decides on autocast and attention itself."""
    found = {**read, **arguments, "trainer": "unsloth"}
    if found["dtype"] != "float32":
        found["autocast"] = found["dtype"]
    if found["attention"] == "eager":
        keys.miss("attn_implementation", "eager", "Unsloth runs flash-attn or xformers, whichever is installed")
        found["attention"] = "sdpa"
    if keys.take("activation_offloading") is False and found["gradient_checkpointing"]:
        found["activation_offloading"] = False
    return found


def in_groups(keys: Keys, training: dict[str, Any]) -> dict[str, Any]:
    """Return the training with the batch that Unsloth sets where rows are no whole groups of completions."""
    group = training.get("num_generations", 1)
    rows = training["micro_batch_size"]
    if rows * training["gradient_accumulation_steps"] % group == 0:
        return training
    keys.miss("per_device_train_batch_size", rows, f"Unsloth replaces it by num_generations, {group}")
    return {**training, "micro_batch_size": group}
