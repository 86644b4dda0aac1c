"""Settings of an Unsloth script beyond those of TRL's SFTTrainer.

Source: unsloth 2026.10.9, models/llama.py, get_peft_model, and models/rl.py, which sets bf16 and fp16, and the batch
of GRPO.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from app.interop.imports.pinned import refusals
from app.interop.imports.reference import model_or_none
from app.interop.imports.target_patterns import linear_modules, matched_by, settings, targets
from calculator.trainers.unsloth.families import UNSLOTH_FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.interop.imports.keys import Keys
    from calculator.architecture.model import Model
    from calculator.trainers.unsloth.families import UnslothFamily

#: The arguments of get_peft_model, which has no effect with full_finetuning.
OF_ADAPTERS = (
    "r", "lora_alpha", "lora_dropout", "target_modules", "bias", "use_rslora", "use_dora", "modules_to_save",
    "layers_to_transform", "layers_pattern", "finetune_vision_layers", "finetune_language_layers",
    "finetune_attention_modules", "finetune_mlp_modules", "finetune_last_n_layers",
)  # fmt: skip

#: The release of a request that the newest one refuses and this one does not.
OLDER = "2026.8"

#: The modules that FastLanguageModel adapts by default.
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

#: Parts of the names of the modules that FastModel adapts, by the argument that excludes them.
PARTS = {"finetune_vision_layers": "vision|image|visual|patch", "finetune_language_layers": "language|text"}
MODULES = {
    "finetune_attention_modules": "self_attn|attention|attn|mixer",
    "finetune_mlp_modules": "mlp|feed_forward|ffn|dense|mixer",
}

#: The classes that load a model: of text, of images, and of either.
MODELS = ("FastLanguageModel", "FastVisionModel", "FastModel")


def modeled_family(calls: Iterable[str], trainer: str, method: dict[str, Any], model: Any) -> UnslothFamily | None:
    """Return the family of a run that Headroom models: supervised LoRA of a model that FastLanguageModel patches."""
    is_language_model = any(name.startswith("FastLanguageModel") for name in calls)
    low_rank = method["name"] in ("lora", "qlora") and not method.get("load_in_8bit")
    known = model_or_none(model)
    if known is None or not (is_language_model and trainer == "trl-sft" and low_rank):
        return None
    return UNSLOTH_FAMILIES.get(known.model_type)


def read_checkpointing(keys: Keys) -> None:
    """Read `use_gradient_checkpointing`: "unsloth", which offloads layer inputs, True or False."""
    given = keys.take("use_gradient_checkpointing", "unsloth")
    keys.left.setdefault("gradient_checkpointing", bool(given) and given != "False")
    if keys.take("activation_offloading"):
        why = "is TRL's offloading, which is not modeled with Unsloth: what it saves stays on the GPU"
        keys.miss("activation_offloading", True, why)
    if given in (True, "True"):
        keys.left["activation_offloading"] = False


def training(keys: Keys, family: UnslothFamily, read: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the training of a run with Unsloth, which decides on autocast and attention itself."""
    training_settings = {**read, **arguments, "trainer": "unsloth"}
    if training_settings["dtype"] != "float32":
        training_settings["autocast"] = training_settings["dtype"]
    if training_settings["attention"] == "eager":
        keys.miss("attn_implementation", "eager", "Unsloth runs flash-attn or xformers, whichever is installed")
        training_settings["attention"] = "sdpa"
    if family.needs_flash_attn and training_settings["attention"] != "flash_attention_2":
        effect = "Without flash-attn 2.6.3 or later, torch.compile chooses what attention with soft caps saves."
        keys.warn("Unsloth's compiled attention of Gemma 2", effect, "one with flash-attn installed")
        training_settings["attention"] = "flash_attention_2"
    rate = keys.take("embedding_learning_rate")
    if rate is not None and "8bit" in str(training_settings.get("optimizer")):
        why = "has embeddings in a group of their own, whose optimizer states are in 8 bits: here they are in 32"
        keys.miss("embedding_learning_rate", rate, why)
    if keys.take("activation_offloading") is False and training_settings["gradient_checkpointing"]:
        training_settings["activation_offloading"] = False
    return training_settings


def read_last_layers(keys: Keys, model: Model | None) -> None:
    """Read `finetune_last_n_layers`, which counts without layers_to_transform.

    Source: unsloth 2026.10.9, models/llama.py, get_peft_model.
    """
    last = keys.left.get("finetune_last_n_layers")
    if isinstance(last, int) and model is not None:
        keys.take("finetune_last_n_layers")
        count = len(model.decoder.layers)
        keys.left.setdefault("layers_to_transform", [*range(count - max(1, min(last, count)), count)])


def release_of(keys: Keys, request: dict[str, Any]) -> dict[str, str]:
    """Return the older release as the stack of a run that the newest one refuses, with a warning, or nothing."""
    older = {"unsloth": OLDER}
    wrong = refusals(request) - refusals({**request, "stack": older}) if "unsloth" not in keys.script.pins else set()
    if not wrong:
        return {}
    keys.warn("this run with the newest Unsloth", f"Its refusal: {min(wrong)}.", f"one with Unsloth {OLDER}")
    return older


def warn_of_experts(keys: Keys, method: dict[str, Any], model: Model | None) -> None:
    """Warn about experts: Unsloth quantizes and adapts more of them than transformers and PEFT do.

    Source: unsloth at 015bdef, models/mapper.py, and models/_utils.py, get_moe_target_parameters.
    """
    if model is None or not any(module.kind == "experts" for _, module in model.paths):
        return
    if method["name"] == "qlora" and model.model_type == "gpt_oss":
        effect = "Unsloth loads a copy of gpt-oss whose experts are in 4 bits: about a third of these weights."
        keys.warn("experts in 4 bits", effect, "one with experts in half precision")
    targets = method.get("target_modules") or ()
    if method["name"] != "full" and {"gate_proj", "up_proj", "down_proj", "gate_up_proj"}.intersection(targets):
        effect = "Unsloth adapts them too, which has many more trained parameters."
        keys.warn("Unsloth's adapters on experts", effect, "one in which experts are not adapted")


def training_in_groups(keys: Keys, training: dict[str, Any]) -> dict[str, Any]:
    """Return the training with the batch that Unsloth sets where rows are no whole groups of completions."""
    group = training.get("num_generations", 1)
    rows = training["micro_batch_size"]
    if rows * training["gradient_accumulation_steps"] % group == 0:
        return training
    keys.miss("per_device_train_batch_size", rows, f"Unsloth replaces it by num_generations, {group}")
    return {**training, "micro_batch_size": group}


def targets_of(keys: Keys, model: Model | None) -> dict[str, Any]:
    """Return the settings for the modules that get_peft_model adapts.

    FastModel and FastVisionModel adapt linear layers by parts of their names. Source: unsloth at 015bdef,
    models/vision.py, get_peft_model; unsloth_zoo at ce232d6, peft_utils.py, get_peft_regex.
    """
    flags = {name: keys.flag(name, default=True) for name in (*PARTS, *MODULES)}
    by_parts = any(name in keys.script.calls for name in ("FastModel.get_peft_model", "FastVisionModel.get_peft_model"))
    if keys.left.get("target_modules") == "all-linear" and by_parts:
        flags = dict.fromkeys(flags, True)
        keys.take("target_modules")
    if keys.left.get("target_modules") == "all-linear":
        return {"target_modules": keys.take("target_modules")}
    named = targets(keys, "target_modules", model)
    if not by_parts and model is not None and model.model_type in UNSLOTH_FAMILIES and named["target_modules"]:
        named["target_modules"] = _layer_names(keys, named["target_modules"])
    if not by_parts or model is None or (named["target_modules"] and all(flags.values())):
        return named if named["target_modules"] else {"target_modules": TARGETS}
    pattern = _pattern(flags, _names_in_model(named["target_modules"], model) or _repeated(model))
    matched = settings(matched_by(re.compile(pattern), model), model) if pattern else None
    if matched is None:
        keys.miss(
            "target_modules",
            None,
            "Unsloth adapts modules that a list of names cannot express: its usual seven are used",
        )
    return matched or {"target_modules": TARGETS}


def _layer_names(keys: Keys, names: list[str]) -> list[str]:
    """Return the names without those of the embeddings, which are trained in full, and of the head.

    Source: models/llama.py, get_peft_model, and CausalLM_fast_forward, which reads the head's weight alone.
    """
    if "embed_tokens" in names:
        keys.left["modules_to_save"] = [*(keys.names("modules_to_save") or ()), "embed_tokens"]
    if "lm_head" in names:
        keys.miss("target_modules", "lm_head", "has an adapter that gets no gradient with Unsloth: it is left out")
    return [name for name in names if name not in ("embed_tokens", "lm_head")]


def _names_in_model(names: list[str] | None, model: Model) -> list[str]:
    """Return those names that are ends of names in the model, each once."""
    in_model = {name.rpartition(".")[2] for name, _ in linear_modules(model)}
    return [name for name in dict.fromkeys(names or ()) if name in in_model]


def _repeated(model: Model) -> list[str]:
    """Return the names of linear layers that a model has more than once."""
    counts = Counter(name.rpartition(".")[2] for name, _ in linear_modules(model))
    return [name for name, count in counts.items() if count > 1]


def _pattern(flags: dict[str, bool], names: list[str]) -> str | None:
    """Return the pattern of whole names that Unsloth gives PEFT; None without a part or modules."""
    parts = "|".join(text for name, text in PARTS.items() if flags[name])
    modules = "|".join(text for name, text in MODULES.items() if flags[name])
    if not parts or not modules:
        return None
    named = "|".join(map(re.escape, names))
    pattern = rf"(?:.*?(?:{parts}).*?(?:{modules}).*?(?:{named}))"
    text_pattern = rf"(?:model\.layers\.\d+\.(?:{modules})\.(?:{named}))"
    return f"{pattern}|{text_pattern}" if flags["finetune_language_layers"] else pattern
