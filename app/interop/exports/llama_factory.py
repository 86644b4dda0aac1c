"""LLaMA-Factory's YAML.

Source: github.com/hiyouga/LLaMA-Factory at ff6d4d1 (version 0.9.6.dev0, 18 August 2026): the keys in
src/llamafactory/hparams (model_args.py, finetuning_args.py, data_args.py, and TrainingArguments of transformers), as
examples/train_lora, train_qlora and train_full use them; what they do in model/adapter.py, model/loader.py,
model/patcher.py and model/model_utils.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.interop.exports import active_layers, distribution
from app.interop.exports.part import (
    Part,
    Precision,
    assembled,
    cut_cross_entropy_difference,
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
from app.interop.frozen_layers import chosen_layers
from calculator.bases.eetq import EETQ
from calculator.inputs.sharding import STAGES
from calculator.methods import Full, LoRA, QLoRA
from calculator.methods.low_rank.method import LowRank

if TYPE_CHECKING:
    from app.interop.exports.exported import Exported, NotExpressed
    from app.interop.exports.part import MethodParts
    from app.interop.exports.planned import Planned

VERSIONS = "LLaMA-Factory 0.9.6 supports transformers up to 5.8, and peft 0.18."

#: The values of flash_attn, by attention implementation. Source: extras/constants.py, AttentionFunction.
FLASH_ATTN = {"eager": "disabled", "sdpa": "sdpa", "flash_attention_2": "fa2"}

#: pissa_iter, by PiSSA's initialization; -1 decomposes the whole weight. Source: model/adapter.py.
PISSA_ITER: dict[bool | str, int] = {"pissa": -1, "pissa_niter_4": 4, "pissa_niter_16": 16}

_UPCAST = "LLaMA-Factory keeps trained weights in float32, or with pure_bf16 in bfloat16 without autocast"
_LOADED = "LLaMA-Factory loads weights in the checkpoint's dtype: assumed here are bfloat16, or float16 with fp16"

#: Combinations of dtypes and the keys that select them, for trained and for frozen weights. bf16 and fp16 enable
#: autocast and cast trained weights to float32; pure_bf16 does neither. Source: model/adapter.py, init_adapter;
#: hparams/parser.py, get_train_args; model/loader.py, load_model, which reads weights in the checkpoint's dtype.
FULL_PRECISIONS = (
    Precision(keys={"pure_bf16": True}, runs=("bfloat16", None), why=_UPCAST),
    Precision(keys={"fp16": True}, runs=("float32", "float16"), why=_UPCAST),
    Precision(keys={"bf16": True}, runs=("float32", "bfloat16"), why=_UPCAST),
    Precision(keys={"bf16": False, "fp16": False}, runs=("float32", None), why=_UPCAST),
)
ADAPTER_PRECISIONS = (
    Precision(keys={"pure_bf16": True}, runs=("bfloat16", None), why=_LOADED),
    Precision(keys={"bf16": True}, runs=("bfloat16", "bfloat16"), why=_LOADED),
    Precision(keys={"fp16": True}, runs=("float16", "float16"), why=_LOADED),
)


def exported(planned: Planned) -> Exported:
    """Return the YAML.

    Raises:
        PlanError: if LLaMA-Factory does not have the method.
    """
    check_language_model(planned.request, "LLaMA-Factory")
    method = method_part(planned, "LLaMA-Factory", METHOD_PARTS)
    run = (
        f"Run it with: {distribution.llama_factory_command(planned)}",
        "Name your data first: c4_demo is a sample that comes with LLaMA-Factory.",
        VERSIONS,
    )
    parts = (_model(planned), method, _data(planned), _training(planned), *distribution.llama_factory(planned))
    return assembled(planned, "llama_factory.yaml", run, parts, distribution.files(planned, accelerate=True))


def _model(planned: Planned) -> Part:
    named = named_model(planned, "model_name_or_path", ("eetq",))
    not_expressed = [*named.not_expressed]
    method = planned.request.method
    keys: dict[str, Any] = {**named.keys, "flash_attn": FLASH_ATTN[planned.attention]}
    if isinstance(method, QLoRA) or (isinstance(method, LoRA) and (method.load_in_8bit or _is_eetq(method))):
        keys |= _quantization(method)
        if method.prepare_model_for_kbit_training and not _is_eetq(method):
            why = "LLaMA-Factory keeps embeddings, head and norms in the checkpoint's dtype"
            not_expressed.append(differs("method.prepare_model_for_kbit_training", True, why))
    if planned.request.training.gradient_checkpointing:
        keys |= {"disable_gradient_checkpointing": False, "use_reentrant_gc": planned.request.training.use_reentrant}
    else:
        keys["disable_gradient_checkpointing"] = True
    if planned.request.training.use_liger_kernel:
        keys["enable_liger_kernel"] = True
    return Part(heading="Model", keys=keys, not_expressed=tuple(not_expressed))


def _quantization(method: LoRA | QLoRA) -> dict[str, Any]:
    """Return the keys of a base in 4 or 8 bits. Source: model/model_utils/quantization.py, configure_quantization."""
    if isinstance(method, LoRA):
        return {"quantization_method": "eetq" if _is_eetq(method) else "bnb", "quantization_bit": 8}
    return {
        "quantization_method": "bnb",
        "quantization_bit": 4,
        "quantization_type": method.quant_type,
        "double_quantization": method.double_quant,
    }


def _is_eetq(method: LoRA | QLoRA) -> bool:
    return isinstance(method, LoRA) and isinstance(method.base, EETQ)


def _full(planned: Planned) -> Part:
    method = planned.request.method
    assert isinstance(method, Full)
    keys = {**_stage(planned), "finetuning_type": "full"}
    if method.use_badam:
        keys |= active_layers.badam_keys(method)
        return Part(heading="Method", keys=keys, not_expressed=tuple(active_layers.badam_differences(planned, method)))
    if method.trains_active_layers:
        return Part(
            heading="Method", keys=keys, not_expressed=(active_layers.missing_setting(method, "LLaMA-Factory"),)
        )
    if method.unfrozen_parameters is None:
        return Part(heading="Method", keys=keys)
    chosen = chosen_layers(method, planned.model)
    if chosen is None:
        why = "finetuning_type freeze trains only modules of the first or the last layers: every weight is trained"
        missed = differs("method.unfrozen_parameters", [*method.unfrozen_parameters], why)
        return Part(heading="Method", keys=keys, not_expressed=(missed,))
    keys = {**_stage(planned), "finetuning_type": "freeze", **chosen.keys()}
    cast = "model" if planned.request.training.autocast is None else "float32"
    why = f"it trains these parameters in {'the dtype of the model' if cast == 'model' else cast} here"
    others = () if method.unfrozen_dtype == cast else (differs("method.unfrozen_dtype", method.unfrozen_dtype, why),)
    return Part(heading="Method", keys=keys, not_expressed=others)


def _low_rank(planned: Planned) -> Part:
    method = planned.request.method
    assert isinstance(method, LowRank)
    alpha, rounded = whole_alpha(method)
    names = targets(method, planned.model)
    keys = {
        **_stage(planned),
        "finetuning_type": "lora",
        "lora_rank": method.r,
        "lora_alpha": alpha,
        "lora_dropout": method.lora_dropout,
        "lora_target": "all" if names is None else ",".join(names),
        "use_dora": method.use_dora,
        "use_rslora": method.use_rslora,
    }
    if method.modules_to_save:
        keys["additional_target"] = ",".join(method.modules_to_save)
    if method.init_lora_weights in PISSA_ITER:
        keys |= {"pissa_init": True, "pissa_iter": PISSA_ITER[method.init_lora_weights]}
    return Part(
        heading="Method",
        keys=keys,
        not_expressed=(*rounded, *settings_without_key(method, _without_keys(method)), *_adapters(planned)),
    )


def _without_keys(method: LowRank) -> tuple[str, ...]:
    """Return the settings of LoRA that LLaMA-Factory has no key for. Of the initializations, it has PiSSA."""
    initialization_keys = () if method.init_lora_weights in PISSA_ITER else ("init_lora_weights",)
    module_keys = ("rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern", "target_parameters")
    return (
        *module_keys,
        "layer_replication",
        "lora_bias",
        "use_bdlora",
        "trainable_token_indices",
        *initialization_keys,
    )


def _stage(planned: Planned) -> dict[str, Any]:
    keys: dict[str, Any] = {"stage": "pt", "do_train": True}
    if planned.model.idle:
        keys |= {"freeze_vision_tower": False, "freeze_multi_modal_projector": False}
    return keys


#: The methods that are exported to LLaMA-Factory, whose `finetuning_type` is full, freeze, lora or oft. Source:
#: hparams/finetuning_args.py.
METHOD_PARTS: MethodParts = {
    "full": _full,
    "lora": _low_rank,
    "qlora": _low_rank,
}


def _adapters(planned: Planned) -> tuple[NotExpressed, ...]:
    """Added parameters, and copies of modules, are in float32. Source: model/adapter.py, init_adapter."""
    training, method = planned.request.training, planned.request.method
    if training.dtype == "float32":
        return ()
    differences: list[NotExpressed] = []
    if training.adapter_dtype != "float32":
        why = "LLaMA-Factory trains added parameters in float32"
        differences.append(differs("training.adapter_dtype", training.adapter_dtype, why))
    assert isinstance(method, LowRank)
    casts = training.autocast is not None and planned.request.device.sharding not in STAGES
    if method.modules_to_save and casts and method.unfrozen_dtype == "model":
        why = f"LLaMA-Factory trains these copies in float32, not in {training.dtype}"
        differences.append(differs("method.modules_to_save", method.modules_to_save, why))
    return tuple(differences)


def _data(planned: Planned) -> Part:
    training = planned.request.training
    packed = training.packing or (not training.padding and training.sequence_lengths is None)
    # Where a file sets packing, LLaMA-Factory cuts rows one token shorter. Source: hparams/data_args.py.
    keys = {"dataset": "c4_demo", "cutoff_len": training.sequence_length + packed, "packing": packed}
    if training.packing and training.flattened:
        keys["neat_packing"] = True
    heading = "Data: packed into full sequences, or padded up to the longest of a batch"
    return Part(heading=heading, keys=keys, not_expressed=lengths_difference(planned))


def _training(planned: Planned) -> Part:
    training = planned.request.training
    method = planned.request.method
    full = method.facts.trains_base and not method.trains_part
    dtypes, not_expressed = precision(planned, FULL_PRECISIONS if full else ADAPTER_PRECISIONS)
    empties, where = empty_cache_keys(planned)
    keys = {
        "per_device_train_batch_size": training.micro_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        **dtypes,
        **({"use_muon": True} if training.optimizer == "muon" else {"optim": training.optimizer}),
        **projection(training),
        "max_grad_norm": training.max_grad_norm or 0,
        **loraplus(training),
        "learning_rate": 0.0001,
        "num_train_epochs": 1,
        "logging_steps": 10,
        "report_to": "none",
        "output_dir": "trained",
        **empties,
    }
    others = (
        *cut_cross_entropy_difference(planned.request.training, "LLaMA-Factory has no such setting"),
        *offloading_difference(planned.request.training, "LLaMA-Factory has no such setting"),
        *muon_difference(training, "LLaMA-Factory"),
        *kv_cache_difference(planned),
        *trainer_differences(planned, "LLaMA-Factory trains with a subclass of Seq2SeqTrainer"),
    )
    return Part(heading="Training", keys=keys, not_expressed=(*not_expressed, *where, *others))
