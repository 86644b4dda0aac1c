"""LLaMA-Factory's YAML as a request: keys, defaults and effects from the source that the export of it names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.interop.exports import llama_factory
from app.interop.imports.other_runs import text_of
from app.interop.imports.reference import reference
from app.interop.imports.without_effect import WITHOUT_EFFECT
from calculator.common.errors import refusal
from calculator.resident.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from app.interop.imports.imported import Imported
    from app.interop.imports.keys import Keys

ATTENTION = {"auto": "sdpa", **{flag: name for name, flag in llama_factory.FLASH_ATTN.items()}}


def imported(keys: Keys, given: Any) -> Imported:
    """The request of a configuration; `given` is the model beside the file, if there is one."""
    model = reference(keys, "model_name_or_path", given)
    keys.forget(WITHOUT_EFFECT["llama-factory"])
    method = _method(keys)
    dtype, autocast = _dtypes(keys, full=method["name"] == "full")
    training = {"dtype": dtype, "autocast": autocast, **_training(keys), **_lengths(keys)}
    return keys.close("llama-factory", {"model": model, "method": method, "training": training})


def _method(keys: Keys) -> dict[str, Any]:
    name = keys.take("finetuning_type", "lora")
    if name not in ("lora", "full"):
        raise refusal("content.finetuning_type", "is no method that is planned: lora or full", name)
    quantized = _quantization(keys)
    if name == "full":
        return {"name": "full"}
    r, target = keys.whole("lora_rank", 8), keys.names("lora_target")
    method = {
        "r": r,
        "lora_alpha": keys.whole("lora_alpha", 0) or 2 * r,
        "lora_dropout": keys.number("lora_dropout", 0.0),
        "target_modules": "all-linear" if target in (None, ["all"]) else target,
        "use_dora": keys.flag("use_dora"),
        "use_rslora": keys.flag("use_rslora"),
        "modules_to_save": keys.names("additional_target"),
    }
    return {"name": "qlora", **method, **quantized} if quantized else {"name": "lora", **method}


def _quantization(keys: Keys) -> dict[str, Any]:
    """The settings of 4-bit storage; nothing where there is none."""
    bits, by = keys.take("quantization_bit"), keys.take("quantization_method", "bnb")
    if bits == 4 and by in ("bnb", "bitsandbytes"):
        return {
            "quant_type": keys.take("quantization_type", "nf4"),
            "double_quant": keys.flag("double_quantization", usual=True),
            "prepare_model_for_kbit_training": False,
        }
    keys.forget(("quantization_type", "double_quantization"))
    if bits is not None:
        asked = {"quantization_bit": bits, "quantization_method": by}
        keys.miss("quantization_bit", asked, "only 4 bits by bnb are modelled: weights in half precision are taken")
    return {}


def _dtypes(keys: Keys, *, full: bool) -> tuple[str, str | None]:
    ways = llama_factory.FULL_PRECISIONS if full else llama_factory.ADAPTER_PRECISIONS
    flags = {name: keys.flag(name) for name in ("pure_bf16", "bf16", "fp16")}
    named = next((name for name, is_set in flags.items() if is_set), None)
    if named is None:
        return ("float32", None) if full else ways[0].runs
    return next(way.runs for way in ways if way.keys.get(named))


def _training(keys: Keys) -> dict[str, Any]:
    return {
        "micro_batch_size": keys.whole("per_device_train_batch_size", 8),
        "gradient_accumulation_steps": keys.whole("gradient_accumulation_steps", 1),
        "gradient_checkpointing": _checkpointing(keys),
        "attention": keys.choice("flash_attn", ATTENTION, "sdpa", "sdpa"),
        "optimizer": keys.choice("optim", {n: n for n in OPTIMIZERS}, "adamw_torch_fused", "adamw_torch_fused"),
        "max_grad_norm": keys.number("max_grad_norm", 1.0) or None,
    }


def _checkpointing(keys: Keys) -> bool:
    asked, reentrant = not keys.flag("disable_gradient_checkpointing"), keys.flag("use_reentrant_gc", usual=True)
    if asked and reentrant:
        why = "checkpoints re-entrantly, as LLaMA-Factory does where it is left out: false is taken"
        keys.miss("use_reentrant_gc", True, why)
    return asked


def _lengths(keys: Keys) -> dict[str, Any]:
    """Tokens and padding: pre-training packs where nothing else is said. Source: hparams/parser.py, get_train_args."""
    stage = keys.take("stage", "sft")
    if stage not in ("pt", "sft"):
        effect = "Preference and reinforcement learning add a reference model, more sequences or another loss."
        keys.warn(f"stage: {text_of(stage)}", effect, "one of supervised fine-tuning")
    packed = keys.flag("packing", usual=stage == "pt")
    if packed and stage != "pt":
        effect = "Packing puts several examples into one row, and pads the end of the row."
        keys.warn("packing: true", effect, "one with full sequences of cutoff_len tokens")
    return {"sequence_length": keys.whole("cutoff_len", 2048), "padding": not packed}
