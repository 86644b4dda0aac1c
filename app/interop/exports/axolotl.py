"""axolotl's YAML.

Source: github.com/axolotl-ai-cloud/axolotl at 067b021 (version 0.18.0, 24 July 2026): the keys in
src/axolotl/utils/schemas (config.py, model.py, peft.py, training.py, datasets.py), what they do in loaders/model.py,
loaders/adapter.py, core/builders and utils/config.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.interop.exports import active_layers, distribution
from app.interop.exports.part import (
    Part,
    Precision,
    assembled,
    differs,
    empty_cache_keys,
    kv_cache_difference,
    lengths_difference,
    loraplus,
    method_part,
    muon_difference,
    named_model,
    offloading_difference,
    precision,
    projection,
    settings_without_key,
    targets,
    trainer_differences,
    whole_alpha,
)
from app.interop.exports.planned import check_language_model
from calculator.methods import Full, LoRA, QLoRA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.interop.exports.exported import Exported, NotExpressed
    from app.interop.exports.part import MethodParts
    from app.interop.exports.planned import Planned
    from calculator.architecture.model import Model
    from calculator.methods import Method
    from calculator.methods.low_rank.method import LowRank

VERSIONS = "axolotl 0.18 installs transformers 5.14, peft 0.19 and bitsandbytes 0.49."

#: Fused LoRA kernels, which axolotl enables by default. Source: schemas/config.py,
#: check_auto_enable_lora_kernels.
KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")

#: The plugin with Liger's kernels, and those that transformers enables. Source: integrations/liger/plugin.py.
LIGER_PLUGIN = "axolotl.integrations.liger.LigerPlugin"
LIGER_KERNELS = ("liger_rope", "liger_rms_norm", "liger_glu_activation", "liger_fused_linear_cross_entropy")

#: The plugin with Apple's Cut Cross-Entropy. Source: integrations/cut_cross_entropy/args.py.
CUT_PLUGIN = "axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"

#: axolotl's names of the embeddings and the head, by family. Source: loaders/utils.py, get_linear_embedding_layers.
EMBEDDINGS = {"gpt_neox": ("embed_in", "embed_out"), "falcon": ("word_embeddings", "lm_head")}
DEFAULT_EMBEDDINGS = ("embed_tokens", "lm_head")


PREPARED = "axolotl casts norms and embeddings to float32, then back if it knows their names (norm, embed_tokens)"

#: Combinations of dtypes, and the keys that select them. Source: utils/config, resolve_dtype; core/builders/base.py,
#: _configure_precision_settings: bfloat16 enables autocast, as bf16 does.
PRECISIONS = (
    Precision(
        keys={"bf16": True},
        runs=("bfloat16", "bfloat16"),
        why="axolotl trains bfloat16 weights under autocast (AMP) in bfloat16",
    ),
    Precision(
        keys={"bf16": False, "float16": True},
        runs=("float16", None),
        why="float16 weights run without autocast, or under one in float16",
    ),
    Precision(
        keys={"bf16": False, "fp16": True},
        runs=("float16", "float16"),
        why="float16 weights run without autocast, or under one in float16",
    ),
    Precision(
        keys={"bf16": False, "float32": True},
        runs=("float32", None),
        why="axolotl has no autocast over float32 weights: this runs in float32 throughout",
    ),
)


def exported(planned: Planned) -> Exported:
    """Return the YAML.

    Raises:
        PlanError: if axolotl does not have the method.
    """
    check_language_model(planned.request, "axolotl")
    method = method_part(planned, "axolotl", METHOD_PARTS)
    run = (
        f"Run it with: {distribution.axolotl_command(planned)}",
        'Name your data first: corpus.jsonl is a file with lines of {"text": ...}.',
        VERSIONS,
    )
    parts = (
        named_model(planned, "base_model", ("fp8",)),
        method,
        _precision(planned),
        _training(planned),
        _data(planned),
        *distribution.axolotl(planned),
    )
    return assembled(planned, "axolotl.yaml", run, parts, distribution.files(planned, accelerate=False))


def _full(planned: Planned) -> Part:
    method = planned.request.method
    assert isinstance(method, Full)
    if method.lisa_n_layers is not None:
        keys = {"adapter": None, **active_layers.lisa_keys(planned, method)}
        return Part(heading="Method: some layers at a time, so there is no adapter", keys=keys)
    if method.use_badam:
        absent = (active_layers.missing_setting(method, "axolotl"),)
        return Part(heading="Method: all weights, so there is no adapter", keys={"adapter": None}, not_expressed=absent)
    if method.unfrozen_parameters is None:
        return Part(heading="Method: all weights, so there is no adapter", keys={"adapter": None})
    keys = {"adapter": None, "unfrozen_parameters": [*method.unfrozen_parameters]}
    why = "axolotl does not cast them: they have the dtype of the model"
    cast = (differs("method.unfrozen_dtype", "float32", why),) if method.unfrozen_dtype == "float32" else ()
    return Part(heading="Method: some of the weights, so there is no adapter", keys=keys, not_expressed=cast)


def _lora(planned: Planned) -> Part:
    method = planned.request.method
    assert isinstance(method, LoRA)
    keys, not_expressed = _low_rank(planned, method)
    if method.base is not None and not method.load_in_8bit:
        return _over_checkpoint(method, keys, not_expressed)
    if method.load_in_8bit:
        keys = {"load_in_8bit": True, **keys}
        not_expressed = (*not_expressed, *_prepared(planned, method))
    return Part(heading="Method", keys={"adapter": "lora", **keys}, not_expressed=not_expressed)


def _over_checkpoint(method: LoRA, keys: dict[str, Any], not_expressed: tuple[NotExpressed, ...]) -> Part:
    """Return the keys of LoRA over a quantized checkpoint. Source: loaders/model.py, _set_quantization_config."""
    assert method.quantization_config is not None
    name = method.quantization_config.quant_method
    if name == "fp8":
        return _fp8_part(method, keys, not_expressed)
    entry = {"gptq": True} if name == "gptq" else {}
    why = "axolotl loads the checkpoint with its own settings: set backend auto_trainable in its config.json"
    differing = (differs("method.quantization_config.quant_method", name, why),) if entry else ()
    return Part(heading="Method", keys={**entry, "adapter": "lora", **keys}, not_expressed=(*not_expressed, *differing))


def _fp8_part(method: LoRA, keys: dict[str, Any], not_expressed: tuple[NotExpressed, ...]) -> Part:
    """Return Return the keys of LoRA over a base that stays in FP8, with the arguments of FineGrainedFP8Config."""
    assert method.quantization_config is not None
    size, scheme = method.quantization_config.weight_block_size, method.quantization_config.activation_scheme
    arguments = {"weight_block_size": None if size is None else list(size), "activation_scheme": scheme}
    entries = {"model_quantization_config": "FineGrainedFP8Config", "model_quantization_config_kwargs": arguments}
    if method.prepare_model_for_kbit_training:
        why = "axolotl prepares models in 4 and 8 bits of bitsandbytes only"
        not_expressed = (*not_expressed, differs("method.prepare_model_for_kbit_training", True, why))
    return Part(heading="Method", keys={**entries, "adapter": "lora", **keys}, not_expressed=not_expressed)


def _low_rank(planned: Planned, method: LowRank) -> tuple[dict[str, Any], tuple[NotExpressed, ...]]:
    alpha, rounded = whole_alpha(method)
    names = targets(method, planned.model)
    keys: dict[str, Any] = {
        "lora_r": method.r,
        "lora_alpha": alpha,
        "lora_dropout": method.lora_dropout,
        **({"lora_target_linear": True} if names is None else {"lora_target_modules": list(names)}),
    }
    if method.modules_to_save:
        keys["lora_modules_to_save"] = list(method.modules_to_save)
    if method.use_dora:
        keys["peft_use_dora"] = True
    if method.use_rslora:
        keys["peft_use_rslora"] = True
    keys |= _layers(method)
    keys["peft_autocast_adapter_dtype"] = planned.request.training.adapter_dtype == "float32"
    why = "axolotl does not cast copies: they have the dtype of the model"
    cast = (differs("method.unfrozen_dtype", "float32", why),) if method.unfrozen_dtype == "float32" else ()
    return {**keys, **dict.fromkeys(KERNELS, False)}, (*rounded, *settings_without_key(method), *cast)


def _layers(method: LowRank) -> dict[str, Any]:
    """Return the keys of modules, layers and initialization that differ from PEFT's defaults."""
    keys: dict[str, Any] = {}
    if method.rank_pattern:
        keys["lora_rank_pattern"] = dict(method.rank_pattern)
    if method.alpha_pattern:
        keys["lora_alpha_pattern"] = dict(method.alpha_pattern)
    if method.layers_to_transform is not None:
        keys["peft_layers_to_transform"] = list(method.layers_to_transform)
    if method.target_parameters:
        keys["lora_target_parameters"] = list(method.target_parameters)
    if method.trainable_token_indices:
        keys["peft_trainable_token_indices"] = list(method.trainable_token_indices)
    if method.layers_pattern is not None:
        keys["peft_layers_pattern"] = list(method.layers_pattern)
    if method.layer_replication is not None:
        keys["peft_layer_replication"] = [list(pair) for pair in method.layer_replication]
    if method.init_lora_weights is not True:
        keys["peft_init_lora_weights"] = method.init_lora_weights
    return keys


def _qlora(planned: Planned) -> Part:
    method = planned.request.method
    assert isinstance(method, QLoRA)
    keys, not_expressed = _low_rank(planned, method)
    quantization: dict[str, Any] = {}
    if method.quant_type != "nf4":
        quantization["bnb_4bit_quant_type"] = method.quant_type
    if not method.double_quant:
        quantization["bnb_4bit_use_double_quant"] = False
    if method.quant_storage != "uint8":
        quantization["bnb_4bit_quant_storage"] = method.quant_storage
    kwargs = {"bnb_config_kwargs": quantization} if quantization else {}
    return Part(
        heading="Method",
        keys={"adapter": "qlora", "load_in_4bit": True, **kwargs, **keys},
        not_expressed=(*not_expressed, *_prepared(planned, method)),
    )


def _prepared(planned: Planned, method: LoRA | QLoRA) -> Iterator[NotExpressed]:
    requested = method.prepare_model_for_kbit_training
    if requested is not prepared(planned.model):
        yield differs("method.prepare_model_for_kbit_training", requested, PREPARED)


#: The methods that axolotl has: its own adapters are lora, qlora and llama-adapter. Source: schemas/peft.py,
#: validate_adapter.
METHOD_PARTS: MethodParts = {
    "full": _full,
    "lora": _lora,
    "qlora": _qlora,
}


def prepared(model: Model) -> bool | None:
    """Return whether every module that is not in 4 bits is in float32, as in a prepared model; None if only some are.

    axolotl prepares the model, and then casts the modules back whose names it knows.
    """
    dense = [path for path, module in model.paths if not module.quantizable or path in model.modules_to_not_convert]
    back = {converted(path, model.model_type) for path in dense}
    return None if len(back) > 1 else True not in back


def converted(path: str, model_type: str) -> bool:
    """Return whether axolotl casts a module by its name. Source: loaders/model.py, _convert_embedding_modules_dtype."""
    return "norm" in path or any(name in path for name in EMBEDDINGS.get(model_type, DEFAULT_EMBEDDINGS))


def _precision(planned: Planned) -> Part:
    keys, not_expressed = precision(planned, PRECISIONS)
    not_expressed = (*not_expressed, *_float32(planned))
    return Part(heading="Precision", keys={**keys, "tf32": False}, not_expressed=not_expressed)


def _float32(planned: Planned) -> Iterator[NotExpressed]:
    training = planned.request.training
    for why in kept_in_float32(planned.model, planned.request.method, training.dtype, planned.attention):
        yield differs("training.dtype", training.dtype, why)


def kept_in_float32(model: Model, method: Method, dtype: str, attention: str) -> Iterator[str]:
    """Say what axolotl keeps in float32 in a half-precision run. Source: loaders/model.py."""
    if dtype == "float32" or method.quantizes_base:
        return
    paths = [path for path, _ in model.paths]
    casts = any(converted(path, model.model_type) for path in paths)
    if method.facts.trains_base and attention != "flash_attention_2" and casts:
        yield "without an adapter or flash attention, norms, embed_tokens and lm_head are kept in float32"
    if any(path.endswith(".gate") for path in paths):
        yield "routers (modules named gate) are kept in float32"


def _training(planned: Planned) -> Part:
    training = planned.request.training
    options = {"gradient_checkpointing_kwargs": {"use_reentrant": training.use_reentrant}}
    checkpointing = options if training.gradient_checkpointing else {}
    empties, where = empty_cache_keys(planned)
    keys = {
        "micro_batch_size": training.micro_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "gradient_checkpointing": training.gradient_checkpointing,
        **checkpointing,
        "attn_implementation": planned.attention,
        "optimizer": training.optimizer,
        **projection(training, "all_linear"),
        "max_grad_norm": training.max_grad_norm or 0,
        **loraplus(training),
        "learning_rate": 0.0001,
        "num_epochs": 1,
        "output_dir": "./trained",
        **empties,
        **({"plugins": [LIGER_PLUGIN], **dict.fromkeys(LIGER_KERNELS, True)} if training.use_liger_kernel else {}),
        **({"plugins": [CUT_PLUGIN], "cut_cross_entropy": True} if training.cut_cross_entropy else {}),
    }
    others = (
        *muon_difference(training, "axolotl"),
        *kv_cache_difference(planned),
        *offloading_difference(training, "axolotl's own option of that name is not modeled"),
    )
    not_expressed = (*where, *others, *trainer_differences(planned, "axolotl trains with a subclass of Trainer"))
    return Part(heading="Training", keys=keys, not_expressed=not_expressed)


def _data(planned: Planned) -> Part:
    """Return the keys of rows that are truncated at sequence_len or padded to it. axolotl pads to multiples of 64."""
    training = planned.request.training
    whole = training.padding and training.sequence_lengths is None
    multiples = training.sequence_lengths is not None or (training.padding and training.sequence_length % 64)
    keys = {
        "datasets": [{"path": "corpus.jsonl", "ds_type": "json", "type": "completion", "field": "text"}],
        "val_set_size": 0,
        "sequence_len": training.sequence_length,
        "sample_packing": training.packing,
        "pad_to_sequence_len": whole,
        **({"pad_to_multiple_of": 1} if multiples else {}),
    }
    return Part(heading="Data", keys=keys, not_expressed=lengths_difference(planned))
