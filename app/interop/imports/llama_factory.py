"""LLaMA-Factory's YAML as a request. The export module names the sources of keys, defaults and effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.interop.exports import llama_factory
from app.interop.frozen_layers import TRAINABLE_LAYERS, FrozenLayers
from app.interop.imports import active_layers, preferences
from app.interop.imports.arguments import checkpointing
from app.interop.imports.distribution import distributed
from app.interop.imports.frozen_towers import language_targets, trained_in_full
from app.interop.imports.other_runs import text_of
from app.interop.imports.reference import model_or_none, reference
from app.interop.imports.target_patterns import listed_of_quantized
from app.interop.imports.trainer_keys import empty_cache_settings, optimizer, unpadded, with_liger, written
from app.interop.imports.without_effect import WITHOUT_EFFECT
from calculator.common.errors import refusal

if TYPE_CHECKING:
    from app.interop.imports.imported import Imported
    from app.interop.imports.keys import Keys
    from calculator.architecture.model import Model

ATTENTION = {"auto": "sdpa", **{flag: name for name, flag in llama_factory.FLASH_ATTN.items()}}

#: PiSSA's initializations by pissa_iter; other numbers have the memory of 16.
PISSA = {iterations: name for name, iterations in llama_factory.PISSA_ITER.items()}


def imported(keys: Keys, given: Any) -> Imported:
    """Return the request of a configuration; `given` replaces the model that the file names."""
    if "model" in keys.left and "model_name_or_path" not in keys.left:
        message = (
            "is for LLaMA-Factory's v1, whose own training loop is not modeled: give the file of a run with"
            " model_name_or_path, or state the model, the method and the training"
        )
        raise refusal("content", message, keys.left["model"])
    model = reference(keys, "model_name_or_path", given)
    _warn_of_other_commands(keys)
    keys.forget(WITHOUT_EFFECT["llama-factory"])
    freezes_later = _freezes_later(keys)
    badam = active_layers.badam(keys, keys.left.get("finetuning_type", "lora"))
    method = _method(keys, model_or_none(model))
    method = {"name": "full", **badam} if badam else method
    method |= listed_of_quantized(method, model, model_or_none(model))
    # DeepSpeed keeps float32 copies of what it trains.
    freezes = "unfrozen_parameters" in method and not keys.left.get("deepspeed")
    dtype, autocast = _dtypes(keys, full=method["name"] == "full" and not freezes and not badam)
    if freezes and autocast is not None:
        method["unfrozen_dtype"] = "float32"  # it casts what it trains, unless pure_bf16 is set
    stage = keys.take("stage", "sft")
    trainer = preferences.stage_trainer(keys, stage)
    saved = method.get("modules_to_save")
    if saved and autocast is not None and not keys.left.get("deepspeed"):
        if trainer == "transformers":
            method["unfrozen_dtype"] = "float32"
        else:
            keys.miss("additional_target", saved, f"LLaMA-Factory trains these copies in float32: {dtype} is used")
    training = {
        "trainer": trainer,
        "dtype": dtype,
        "autocast": autocast,
        **_training(keys, model_or_none(model)),
        **_lengths(keys, stage),
    }
    training |= _without_checkpointing(keys, training) if badam else {}
    if freezes and training["gradient_checkpointing"] and freezes_later:
        keys.miss("disable_gradient_checkpointing", False, active_layers.PARTLY_CHECKPOINTED)
    training |= preferences.factory_settings(keys, trainer) if trainer != "transformers" else {}
    training |= preferences.rows_of_kto(keys, training)
    training |= _liger(keys, model_or_none(model))
    training = unpadded(keys, "flash_attn", training)
    spread = distributed(keys, "llama-factory", training)
    if method["name"] == "qlora" and spread.request:
        method["quant_storage"] = dtype  # LLaMA-Factory's, see the export module
    request = {"model": model, "method": method, "training": spread.training, **spread.request}
    return keys.close(
        "llama-factory", request, tool="llama-factory" if spread.training["trainer"] == "transformers" else ""
    )


def _warn_of_other_commands(keys: Keys) -> None:
    """Warn that a file is for a command other than train. Source: src/llamafactory/cli.py and hparams."""
    if keys.left.get("do_train") is True:
        return
    named = [key for key in ("export_dir", "infer_backend", "do_predict") if keys.left.get(key)]
    if named:
        effect = "The file merges, serves or evaluates a model, and trains none."
        keys.warn(f"{named[0]}: {text_of(keys.left[named[0]])}", effect, "one that trains it with the tool's defaults")
        keys.forget((*_OF_OTHER_COMMANDS,))


#: The keys of merging, serving and evaluating a model.
_OF_OTHER_COMMANDS = (
    *("export_dir", "export_size", "export_device", "export_legacy_format", "infer_backend", "do_predict"),
    *("predict_with_generate", "adapter_name_or_path"),
)


def _liger(keys: Keys, model: Model | None) -> dict[str, Any]:
    """Return the setting of Liger's kernels. Source: model/model_utils/liger_kernel.py, apply_liger_kernel."""
    flags = [key for key in ("enable_liger_kernel", "use_liger_kernel") if keys.flag(key)]
    return with_liger(keys, f"{flags[0]}: true", model) if flags else {}


def _method(keys: Keys, model: Model | None) -> dict[str, Any]:
    name = keys.take("finetuning_type", "lora")
    if name not in ("lora", "oft", "full", "freeze"):
        raise refusal("content.finetuning_type", "is not a supported method: use lora, oft, full or freeze", name)
    quantized = _quantization(keys)
    if name == "full":
        return trained_in_full(keys, model)
    if name == "freeze":
        return _freeze(keys, model)
    if name == "oft":
        return _oft(keys, quantized, model)
    r = keys.integer("lora_rank", 8)
    method: dict[str, Any] = {
        "r": r,
        "lora_alpha": keys.integer("lora_alpha", 0) or 2 * r,
        "lora_dropout": keys.number("lora_dropout", 0.0),
        **language_targets(keys, keys.names("lora_target"), model),
        "use_dora": keys.flag("use_dora"),
        "use_rslora": keys.flag("use_rslora"),
        "modules_to_save": keys.names("additional_target"),
    }
    keys.forget(("pissa_convert",))
    iterations = keys.integer("pissa_iter", 16)
    if keys.flag("pissa_init"):
        method["init_lora_weights"] = PISSA.get(iterations, "pissa_niter_16")
    return {"name": "qlora" if "quant_type" in quantized else "lora", **method, **quantized}


def _freeze(keys: Keys, model: Model | None) -> dict[str, Any]:
    """Return the trained parameters of finetuning_type freeze.

    Raises:
        PlanError: if the model is not known, or the layers cannot be spread evenly.
    """
    layers, spread = keys.integer("freeze_trainable_layers", TRAINABLE_LAYERS), keys.flag("use_llama_pro")
    modules, extra = keys.names("freeze_trainable_modules") or ["all"], keys.names("freeze_extra_modules") or []
    if model is None:
        name = keys.given("model_name_or_path")
        message = f"freezes layers by number, and {name!r} is not in the catalogue: give a model with as many layers"
        raise refusal("content.finetuning_type", message, "freeze")
    count = len(model.decoder.layers)
    if not layers or (spread and (layers < 0 or count % layers)):
        message = f"chooses none of {count} layers: use 1 to {count}" + (", a divisor of that" if spread else "")
        raise refusal("content.freeze_trainable_layers", message, layers)
    choice = FrozenLayers(layers=layers, modules=modules, extra=extra, spread=spread)
    return {"name": "full", "unfrozen_parameters": [*choice.patterns(model)]}


def _freezes_later(keys: Keys) -> bool:
    """Return whether frozen layers come after trained parameters, so that the backward pass goes through them."""
    first = str(keys.left.get("freeze_trainable_layers", "")).startswith("-")
    return first or bool(keys.left.get("use_llama_pro")) or "embed" in str(keys.left.get("freeze_extra_modules"))


def _oft(keys: Keys, quantized: dict[str, Any], model: Model | None) -> dict[str, Any]:
    """Return the settings of OFT, for which lora_target names the modules too.

    Source: LLaMA-Factory at ff6d4d1, hparams/finetuning_args.py, OFTArguments; model/adapter.py, _setup_lora_tuning.
    """
    if quantized:
        why = "OFT over quantized weights is not modeled: half-precision weights are used"
        keys.miss("quantization_bit", 4 if "quant_type" in quantized else 8, why)
    keys.forget(("oft_target",))
    dropout = keys.number("module_dropout", 0.0)
    if dropout:
        keys.miss("module_dropout", dropout, "is not modeled with OFT: 0 is used")
    return {
        "name": "oft",
        "r": keys.integer("oft_rank", 0),
        "oft_block_size": keys.integer("oft_block_size", 32),
        **language_targets(keys, keys.names("lora_target"), model, in_layers=False),
        "modules_to_save": keys.names("additional_target"),
    }


def _quantization(keys: Keys) -> dict[str, Any]:
    """Return the settings of storage in 4 or 8 bits; empty if there is none."""
    bits, library = keys.take("quantization_bit"), keys.take("quantization_method", "bnb")
    if bits == 4 and library in ("bnb", "bitsandbytes"):
        return {
            "quant_type": keys.take("quantization_type", "nf4"),
            "double_quant": keys.flag("double_quantization", default=True),
            "prepare_model_for_kbit_training": False,
        }
    keys.forget(("quantization_type", "double_quantization"))
    if bits == 8 and library in ("bnb", "bitsandbytes"):
        return {"load_in_8bit": True, "prepare_model_for_kbit_training": False}
    if bits == 8 and library == "eetq":
        return {"quantization_config": {"quant_method": "eetq"}, "prepare_model_for_kbit_training": False}
    if bits is not None:
        setting = {"quantization_bit": bits, "quantization_method": library}
        keys.miss(
            "quantization_bit", setting, "only 4 and 8 bits by bnb and 8 by eetq are modeled: 16-bit weights are used"
        )
    return {}


def _dtypes(keys: Keys, *, full: bool) -> tuple[str, str | None]:
    precisions = llama_factory.FULL_PRECISIONS if full else llama_factory.ADAPTER_PRECISIONS
    flags = {name: keys.flag(name) for name in ("pure_bf16", "bf16", "fp16")}
    named = next((name for name, is_set in flags.items() if is_set), None)
    if named is None:
        return ("float32", None) if full else precisions[0].runs
    return next(precision.runs for precision in precisions if precision.keys.get(named))


#: The optimizers that replace `optim`. Source: train/trainer_utils.py, create_custom_optimizer; third_party/muon.
_OWN_OPTIMIZERS = {
    "use_muon": "LLaMA-Factory has a Muon of its own, which keeps one state for each matrix and compiles its update.",
    "use_adam_mini": "Adam-mini keeps one second moment for each block of a matrix.",
}


def _optimizer(keys: Keys, model: Model | None) -> dict[str, Any]:
    """Return the optimizer. Those of GaLore and APOLLO are of LLaMA-Factory's own keys, or of transformers'.

    Source: train/trainer_utils.py, _create_galore_optimizer and _create_apollo_optimizer; hparams/finetuning_args.py.
    """
    for name, scale in (("galore", 2.0), ("apollo", 32.0)):
        if keys.flag(f"use_{name}"):
            given = {
                "rank": keys.integer(f"{name}_rank", 16),
                "update_proj_gap": keys.integer(f"{name}_update_interval", 200),
                "scale": keys.number(f"{name}_scale", scale),
                "proj_type": keys.take(f"{name}_proj_type", "std"),
            }
            if name == "apollo":
                given["proj"] = keys.take("apollo_proj", "random")
                given["scale_type"] = keys.take("apollo_scale_type", "channel")
            return {
                "optimizer": _projecting(keys, name),
                "optim_target_modules": _projected(keys, f"{name}_target", model),
                "optim_args": written(given),
            }
    settings = optimizer(keys, "optim", "adamw_torch_fused")
    for key, effect in _OWN_OPTIMIZERS.items():
        if keys.flag(key):
            keys.warn(f"{key}: true", effect, f"one with {settings['optimizer']}")
    return settings


def _projecting(keys: Keys, name: str) -> str:
    """Return which of GaLore's or APOLLO's optimizers runs. bitsandbytes' is modeled with one for each parameter."""
    given = keys.take("optim", "adamw_torch")
    if keys.flag(f"{name}_layerwise"):
        in_8_bits = name == "galore" and given in ("adamw_8bit", "adamw_bnb_8bit")
        return f"{name}_adamw_8bit_layerwise" if in_8_bits else f"{name}_adamw_layerwise"
    return "galore_adafactor" if given == "adafactor" and name == "galore" else f"{name}_adamw"


def _projected(keys: Keys, key: str, model: Model | None) -> Any:
    """Return the modules whose gradients are projected: by default, every linear layer but the output head."""
    named = keys.names(key) or ["all"]
    if named != ["all"]:
        return named
    if model is None:
        return "all-linear"
    paths = {path for path, module in model.paths if module.kind == "linear" and path != model.head}
    return sorted({path.rpartition(".")[2] for path in paths})


def _training(keys: Keys, model: Model | None) -> dict[str, Any]:
    return {
        "micro_batch_size": keys.integer("per_device_train_batch_size", 8),
        "gradient_accumulation_steps": keys.integer("gradient_accumulation_steps", 1),
        **_checkpointing(keys),
        "attention": _attention(keys, model),
        **_optimizer(keys, model),
        "max_grad_norm": keys.number("max_grad_norm", 1.0) or None,
        **empty_cache_settings(keys),
    }


def _attention(keys: Keys, model: Model | None) -> str:
    """Return the attention. Source: model/model_utils/attention.py, configure_attn_implementation."""
    if model is not None and model.model_type == "gemma2" and keys.left.get("flash_attn") in (None, "auto"):
        why = "is fa2 for Gemma 2 if flash-attn is installed, and eager attention, which is used, without it"
        keys.miss("flash_attn", keys.take("flash_attn", "auto"), why)
        return "eager"
    return keys.choice("flash_attn", ATTENTION, "sdpa", "sdpa")


def _checkpointing(keys: Keys) -> dict[str, Any]:
    """Return what is checkpointed. With `gradient_checkpointing`, Trainer enables it again, with its own kwargs.

    Source: model/model_utils/checkpointing.py, _gradient_checkpointing_enable; transformers 5.8, trainer.py, train.
    """
    disabled, reentrant = keys.flag("disable_gradient_checkpointing"), keys.flag("use_reentrant_gc", default=True)
    if keys.left.get("gradient_checkpointing") is True:
        settings = checkpointing(keys, default=False)
        return settings if disabled else {"gradient_checkpointing_kwargs": {"use_reentrant": True}, **settings}
    keys.forget(("gradient_checkpointing", "gradient_checkpointing_kwargs"))
    options = {} if disabled else {"gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    return {"gradient_checkpointing": not disabled, **options}


def _without_checkpointing(keys: Keys, training: dict[str, Any]) -> dict[str, Any]:
    """Return that nothing is checkpointed, as LLaMA-Factory does but for BAdam's block."""
    if not training["gradient_checkpointing"]:
        return {}
    keys.miss("disable_gradient_checkpointing", False, active_layers.UNCHECKPOINTED)
    return {"gradient_checkpointing": False, "gradient_checkpointing_kwargs": None}


def _lengths(keys: Keys, stage: Any) -> dict[str, Any]:
    """Return tokens and padding. Pre-training packs by default.

    A file that sets packing shortens cutoff_len by one token, which supervised fine-tuning adds again. Source:
    hparams/parser.py, get_train_args; hparams/data_args.py; data/processor.
    """
    states = keys.left.get("packing") is not None
    packed = keys.flag("packing", default=stage == "pt")
    if packed and stage != "pt":
        effect = "Packing puts several examples into one row, and pads the end of the row."
        keys.warn("packing: true", effect, "one with full sequences of cutoff_len tokens")
    shortened = packed and states and stage == "pt"
    return {"sequence_length": keys.integer("cutoff_len", 2048) - shortened, "padding": not packed}
