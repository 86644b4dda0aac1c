"""axolotl's YAML as a request. The export module names the sources of keys, defaults and effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.interop.exports import axolotl
from app.interop.imports import active_layers, base_storage, other_runs, preferences
from app.interop.imports.distribution import distributed
from app.interop.imports.lora_layers import lora_layers
from app.interop.imports.model_quantization import kept_base
from app.interop.imports.reference import model_or_none, reference
from app.interop.imports.target_patterns import listed_of_quantized, targets
from app.interop.imports.trainer_keys import empty_cache_settings, optimizer, unpadded, with_liger
from app.interop.imports.without_effect import WITHOUT_EFFECT
from calculator.common.errors import refusal
from calculator.methods import METHODS
from calculator.trainers import cut_cross_entropy

if TYPE_CHECKING:
    from app.interop.imports.distribution import Distribution
    from app.interop.imports.imported import Imported
    from app.interop.imports.keys import Keys
    from calculator.architecture.model import Model
    from calculator.common.names import TrainerName

#: The part of the plugin's name.
LIGER_PLUGIN = "integrations.liger"

#: The part of the plugin's name, and the keys of its loss and of another one without all logits.
CUT_PLUGIN = "integrations.cut_cross_entropy"
LOSS_KEYS = ("cut_cross_entropy", "chunked_cross_entropy")

#: PEFT's names of settings of single modules and layers.
LAYER_KEYS = {
    "lora_rank_pattern": "rank_pattern",
    "lora_alpha_pattern": "alpha_pattern",
    "peft_layers_to_transform": "layers_to_transform",
    "peft_layers_pattern": "layers_pattern",
    "peft_layer_replication": "layer_replication",
    "lora_target_parameters": "target_parameters",
    "peft_init_lora_weights": "init_lora_weights",
    "peft_trainable_token_indices": "trainable_token_indices",
}

#: The model types, by their beginning, that axolotl never checkpoints re-entrantly. Source: utils/config.
UNREENTRANT = "gemma4"

ATTENTION = {name: name for name in ("eager", "sdpa", "flash_attention_2")}
#: Flags of older configurations. Source: schemas/enums.py, LEGACY_ATTN_FLAG_TO_IMPL.
FLAGS = {"flash_attention": "flash_attention_2", "sdp_attention": "sdpa", "eager_attention": "eager"}


def imported(keys: Keys, given: Any) -> Imported:
    """Return the request of a configuration; `given` replaces the model that the file names."""
    model = reference(keys, "base_model", given)
    keys.forget(WITHOUT_EFFECT["axolotl"])
    name = _method_name(keys)
    dtype, autocast = _dtypes(keys)
    rl = keys.take("rl") or preferences.reward_of_axolotl(keys)
    training = {
        "trainer": preferences.axolotl_trainer(keys, rl),
        "dtype": dtype,
        "autocast": autocast,
        **_training(keys, model_or_none(model)),
    }
    training |= _lengths(keys, training) | _liger(keys, model_or_none(model))
    training |= preferences.axolotl_settings(keys, rl, training)
    training = unpadded(keys, "pad_to_sequence_len", training)
    spread = distributed(keys, "axolotl", training)
    training = spread.training | _cut_cross_entropy(keys, model_or_none(model), spread)
    method: dict[str, Any] = {"name": name}
    if name in ("lora", "qlora"):
        adapter, training["adapter_dtype"] = _low_rank(keys, model_or_none(model))
        method |= adapter | listed_of_quantized(adapter, model, model_or_none(model))
    else:
        keys.forget([key for key in keys.left if key.startswith(("lora_", "peft_"))])
    unfrozen = _unfrozen(keys, model_or_none(model))
    if unfrozen and name == "full":
        method["unfrozen_parameters"] = unfrozen
    elif unfrozen:
        keys.miss("unfrozen_parameters", unfrozen, "with an adapter is not modeled: only the adapter is trained")
    kept = kept_base(keys, name)
    method |= active_layers.lisa(keys, name, model_or_none(model))
    if name == "qlora":
        method |= _quantization(keys, model_or_none(model), training["trainer"])
    elif kept:
        method |= kept
    elif _is_gptq(keys, name):
        method |= base_storage.but_for_stated({"quantization_config": {"quant_method": "gptq"}}, model)
    elif _is_8_bit(keys, name):
        method |= {"load_in_8bit": True, "prepare_model_for_kbit_training": _prepared(keys, model_or_none(model), name)}
    else:
        _keep_float32(keys, model_or_none(model), method, training)
    request = {"model": model, "method": method, "training": training, **spread.request}
    return keys.close("axolotl", request, tool="axolotl" if training["trainer"] == "transformers" else "")


def _unfrozen(keys: Keys, model: Model | None) -> list[str] | None:
    """Return the patterns of trained parameters. A text model lacks the part `language_model` of their names."""
    given = keys.names("unfrozen_parameters")
    if given is None or model is None or model.towers:
        return given
    return [pattern.replace("model.language_model.", "model.") for pattern in given]


def _method_name(keys: Keys) -> str:
    adapter = keys.take("adapter")
    if adapter not in (None, "", "lora", "qlora"):
        raise refusal(
            "content.adapter", "is not a supported method: use lora, qlora, or none for full fine-tuning", adapter
        )
    if keys.flag("load_in_4bit") and adapter != "qlora":
        keys.miss("load_in_4bit", True, "axolotl quantizes only with adapter qlora: the weights are not quantized")
    return adapter or "full"


def _low_rank(keys: Keys, model: Model | None) -> tuple[dict[str, Any], str]:
    """Return the settings of an adapter, and its dtype."""
    method = {
        "r": keys.integer("lora_r", 8),
        "lora_alpha": keys.number("lora_alpha", 8),
        "lora_dropout": keys.number("lora_dropout", 0.0),
        **_targets(keys, model),
        "use_dora": keys.flag("peft_use_dora"),
        "use_rslora": keys.flag("peft_use_rslora"),
        "modules_to_save": keys.names("lora_modules_to_save"),
    }
    for key, newer in LAYER_KEYS.items():
        keys.rename(key, newer)
    method |= lora_layers(keys)
    fused = {name: keys.take(name) for name in axolotl.KERNELS}
    if any(fused.values()) or (_fuses_adapters(keys) and all(value is None for value in fused.values())):
        why = "fused LoRA kernels, which are on by default, are not modeled: PEFT's own layers are used"
        keys.miss("lora_*_kernel", fused, why)
    dtype = "float32" if keys.flag("peft_autocast_adapter_dtype", default=True) else "model"
    return method, dtype


def _fuses_adapters(keys: Keys) -> bool:
    """Return whether fused LoRA kernels are on by default. Source: check_auto_enable_lora_kernels."""
    in_8_bits = keys.given("adapter") == "lora" and keys.given("load_in_8bit")
    by_fsdp1 = keys.given("fsdp_config") is not None and str(keys.given("fsdp_version")) != "2"
    return not (keys.given("rl") or in_8_bits or keys.given("trust_remote_code") or by_fsdp1)


def _targets(keys: Keys, model: Model | None) -> dict[str, Any]:
    is_named = bool(keys.left.get("lora_target_modules"))
    settings, all_linear = targets(keys, "lora_target_modules", model), keys.flag("lora_target_linear")
    names = settings["target_modules"]
    if all_linear and names:
        keys.miss("lora_target_modules", names, "is set together with lora_target_linear: all linear layers are used")
    if not all_linear and not is_named:
        keys.miss("lora_target_modules", None, "names no module: PEFT's default for the family is used")
    return {"target_modules": "all-linear"} if all_linear else settings


def _quantization(keys: Keys, model: Model | None, trainer: TrainerName) -> dict[str, Any]:
    value = keys.take("bnb_config_kwargs", {})
    kwargs = dict(value) if isinstance(value, dict) else {}
    method = {
        "quant_type": kwargs.pop("bnb_4bit_quant_type", "nf4"),
        "double_quant": kwargs.pop("bnb_4bit_use_double_quant", True),
    }
    if kwargs or not isinstance(value, dict):
        keys.miss(
            "bnb_config_kwargs", kwargs or value, "only bnb_4bit_quant_type and bnb_4bit_use_double_quant are read"
        )
    prepared = _prepared(keys, model, "qlora")
    if trainer == "trl-orpo" and not prepared:
        keys.miss("adapter", "qlora", "axolotl prepares the model only in part: TRL's ORPOTrainer prepares all of it")
    return {**method, "prepare_model_for_kbit_training": prepared or trainer == "trl-orpo"}


def _is_gptq(keys: Keys, name: str) -> bool:
    """Return whether the checkpoint is in GPTQ, whose config.json states how. Source: loaders/model.py."""
    requested = keys.flag("gptq")
    if requested and name != "lora":
        keys.miss("gptq", True, "a base in GPTQ is modeled with adapter lora: half-precision weights are used")
    return requested and name == "lora"


def _is_8_bit(keys: Keys, name: str) -> bool:
    """Return whether the base is loaded in 8 bits. Source: loaders/model.py, _set_quantization_config."""
    requested = keys.flag("load_in_8bit")
    if requested and name != "lora":
        keys.miss("load_in_8bit", True, "axolotl loads 8 bits only with adapter lora: half-precision weights are used")
    return requested and name == "lora"


def _prepared(keys: Keys, model: Model | None, adapter: str) -> bool:
    """Return whether every module that is not quantized is in float32."""
    runs = axolotl.prepared(model) if model is not None else False
    if runs is None:
        keys.miss(
            "adapter", adapter, f"{axolotl.PREPARED}: here only some, and a model that is not prepared is assumed"
        )
    return bool(runs)


def _keep_float32(keys: Keys, model: Model | None, method: dict[str, Any], training: dict[str, Any]) -> None:
    if model is None:
        return
    kind = METHODS[method["name"]]()
    for why in axolotl.kept_in_float32(model, kind, training["dtype"], training["attention"]):
        keys.miss(
            "adapter", None if method["name"] == "full" else method["name"], f"{why}: {training['dtype']} is used"
        )


def _dtypes(keys: Keys) -> tuple[str, str | None]:
    """Return the dtypes of the weights and of autocast. Source: utils/config, resolve_dtype."""
    values: dict[Any, Any] = {True: True, False: False, "auto": "auto", "full": True}
    default = False if "bf16" in keys.left else "auto"  # axolotl reads an empty value as no bf16
    bf16, fp16 = keys.choice("bf16", values, default, str(default)), keys.flag("fp16")
    bfloat16, float16 = keys.flag("bfloat16"), keys.flag("float16")
    keys.flag("float32")
    if (bf16 == "auto" and not fp16) or bf16 is True or bfloat16:
        return "bfloat16", "bfloat16"
    if fp16:
        return "float16", "float16"
    return ("float16", None) if float16 else ("float32", None)


def _training(keys: Keys, model: Model | None) -> dict[str, Any]:
    micro = keys.integer("micro_batch_size", 1)
    total = keys.integer("batch_size", 0)
    default = max(1, total // max(1, micro))
    return {
        "micro_batch_size": micro,
        "gradient_accumulation_steps": keys.integer("gradient_accumulation_steps", default),
        **_checkpointing(keys, model),
        "attention": _attention(keys),
        **optimizer(keys, "optimizer", "adamw_torch_fused"),
        "max_grad_norm": keys.number("max_grad_norm", 1.0) or None,
        **empty_cache_settings(keys),
    }


def _checkpointing(keys: Keys, model: Model | None) -> dict[str, Any]:
    """Return checkpointing. Source: utils/config, normalize_config; core/builders/base.py."""
    checkpointing = keys.take("gradient_checkpointing", False)
    if not checkpointing:
        keys.forget(("gradient_checkpointing_kwargs",))
        return {"gradient_checkpointing": False}
    if checkpointing is not True:
        why = "offloading is not modeled: checkpointing on the GPU is used"
        keys.miss("gradient_checkpointing", checkpointing, why)
    kwargs = keys.take("gradient_checkpointing_kwargs", {"use_reentrant": _is_reentrant(keys)})
    reentrant = kwargs.get("use_reentrant", False) if isinstance(kwargs, dict) else True
    if not isinstance(kwargs, dict) or not isinstance(reentrant, bool) or set(kwargs) - {"use_reentrant"}:
        keys.miss("gradient_checkpointing_kwargs", kwargs, "only use_reentrant is read")
    is_overruled = model is not None and model.model_type.startswith(UNREENTRANT)
    options = {"use_reentrant": reentrant is True and not is_overruled}
    return {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": options}


def _is_reentrant(keys: Keys) -> bool:
    """Return whether checkpointing without options is re-entrant: in supervised runs that freeze no parameter."""
    return keys.given("rl") is None and keys.given("unfrozen_parameters") is None


def _liger(keys: Keys, model: Model | None) -> dict[str, Any]:
    """Return whether every kernel of Liger that transformers enables is on; the others stay, and are warned about."""
    plugins = keys.left.get("plugins") or []
    named = [name for name in ([plugins] if isinstance(plugins, str) else plugins) if LIGER_PLUGIN in str(name)]
    if "liger_swiglu" in keys.left:
        keys.left.setdefault("liger_glu_activation", keys.take("liger_swiglu"))
    on = {name for name in keys.left if name.startswith("liger_") and keys.left[name]}
    if not named or on - {"liger_layer_norm"} != set(axolotl.LIGER_KERNELS):
        other_runs.warn_about(keys, "axolotl", "liger")
        return {}
    for name in [name for name in keys.left if name.startswith("liger_")]:
        keys.take(name)
    keys.left["plugins"] = [name for name in plugins if name not in named] if isinstance(plugins, list) else []
    return with_liger(keys, f"plugins: {named[0]}", model)


def _cut_cross_entropy(keys: Keys, model: Model | None, spread: Distribution) -> dict[str, Any]:
    """Return whether the plugin's loss is enabled, which is its default. Source: its args.py.

    Where it is not modeled, its keys are warned about.
    """
    plugins = keys.left.get("plugins") or []
    named = [name for name in ([plugins] if isinstance(plugins, str) else plugins) if CUT_PLUGIN in str(name)]
    switches = {name: keys.left[name] for name in keys.left if name.startswith(LOSS_KEYS)}
    is_on = switches.pop("cut_cross_entropy", True) is not False
    runs = spread.training["trainer"] == "transformers" and not spread.training.get("use_liger_kernel")
    is_alone = spread.request.get("device", {}).get("sharding", "none") == "none"
    known_family = model is None or model.model_type in cut_cross_entropy.FAMILIES
    if not named or any(switches.values()) or (is_on and not (runs and is_alone and known_family)):
        other_runs.warn_about(keys, "axolotl", "cut_cross_entropy")
        return {}
    for name in [name for name in keys.left if name.startswith(LOSS_KEYS)]:
        keys.take(name)
    keys.left["plugins"] = [name for name in plugins if name not in named] if isinstance(plugins, list) else []
    return {"cut_cross_entropy": True} if is_on else {}


def _attention(keys: Keys) -> str:
    flagged = [name for flag, name in FLAGS.items() if keys.flag(flag)]
    default = flagged[0] if flagged else "sdpa"
    return keys.choice("attn_implementation", ATTENTION, default, default)


def _lengths(keys: Keys, training: dict[str, Any]) -> dict[str, Any]:
    """Return tokens and padding. Padded rows are rounded up to a multiple, unless the file sets no padding.

    Source: core/builders/causal.py, build_collator and build.
    """
    length, packed = keys.integer("sequence_len", 512), keys.flag("sample_packing")
    in_multiples = keys.left.get("pad_to_sequence_len") is None and training["attention"] != "flash_attention_2"
    padded = keys.flag("pad_to_sequence_len", default=in_multiples)
    multiple = max(1, keys.integer("pad_to_multiple_of", 64))
    if packed and training["attention"] == "flash_attention_2":
        why = "a micro-batch is one row: the figures are for full sequences, with as many tokens in a micro-batch"
        keys.miss("sample_packing", True, why)
        return {"sequence_length": length, "padding": False}
    if packed:
        effect = "Packing puts several examples into one row, and attention gets their boundaries."
        keys.warn("sample_packing: true", effect, "one with full sequences of sequence_len tokens")
        return {"sequence_length": length, "padding": False}
    return {"sequence_length": -(-length // multiple) * multiple if padded else length, "padding": padded}
