"""Checks for runs under stage 3 that are not modeled.

Each refusal gives a reason and an alternative.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.families import forward_of
from calculator.inputs.stack import DEFAULT_STACK
from calculator.methods.targeted.refusals import listed
from calculator.sharding.precision import is_built_partitioned
from calculator.trainers import trainer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.methods.prepared_model import PreparedModel

#: The families whose modules are known to be called in the order of the real model.
FAMILIES = frozenset(
    {
        "apertus",
        "arcee",
        "bamba",
        "bloom",
        "cohere",
        "cohere2",
        "cwm",
        "deepseek_v2",
        "deepseek_v3",
        "ernie4_5",
        "ernie4_5_moe",
        "exaone",
        "exaone4",
        "falcon",
        "falcon_h1",
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "gemma4_text",
        "gemma4_unified_text",
        "glm",
        "glm4",
        "glm4_moe",
        "glm4_moe_lite",
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "gpt_neox",
        "gpt_oss",
        "gptj",
        "granite",
        "granitemoe",
        "granitemoehybrid",
        "hunyuan_v1_dense",
        "idefics3",
        "internlm3",
        "internvl",
        "iquestcoder",
        "jais2",
        "jamba",
        "lfm2",
        "llama",
        "llama4_text",
        "llava",
        "llava_next",
        "mamba2",
        "minimax_m2",
        "ministral",
        "ministral3",
        "mistral",
        "mistral3",
        "mixtral",
        "nemotron",
        "nemotron_h",
        "olmo",
        "olmo2",
        "olmo3",
        "olmoe",
        "opt",
        "paligemma",
        "phi",
        "phi3",
        "phimoe",
        "qwen2",
        "qwen2_5_vl",
        "qwen2_moe",
        "qwen2_vl",
        "qwen3",
        "qwen3_5",
        "qwen3_5_moe",
        "qwen3_5_moe_text",
        "qwen3_5_text",
        "qwen3_moe",
        "qwen3_next",
        "qwen3_vl",
        "qwen3_vl_moe",
        "seed_oss",
        "smollm3",
        "smolvlm",
        "stablelm",
        "starcoder2",
        "youtu",
    }
)

#: The methods whose modules are known to be called in the order of the real model.
METHODS = (
    "full",
    "adapter",
    "lora",
    "qlora",
    "ia3",
    "ln_tuning",
    "lokr",
    "loha",
    "deft",
    "vera",
    "trainable_tokens",
    "bitfit",
    "oft",
    "miss",
    "hra",
    "pvera",
    "gralora",
    "beft",
    "road",
    "fourierft",
    "waveft",
    "prompt",
    "prefix",
    "p_tuning",
)

_INSTEAD = "set device.sharding to fsdp or zero2"


def problems(prepared: PreparedModel) -> Iterator[Problem]:
    """Yield the problems of a run under stage 3."""
    model = prepared.model
    if model.model_type not in FAMILIES:
        message = f"the order in which {model.model_type} calls its modules is not modeled under zero3: {_INSTEAD}"
        yield Problem(loc="model", msg=message, input=model.model_type)
    elif model.task.name != "causal_lm":
        message = f"{model.task.name} is not modeled under zero3: {_INSTEAD}"
        yield Problem(loc="task", msg=message, input=model.task.name)
    yield from _trl_problems(prepared)
    if replace(prepared.stack, torch=DEFAULT_STACK.torch) != DEFAULT_STACK:
        message = "other releases than those of PyTorch are not modeled under zero3: set only stack.torch"
        yield Problem(loc="stack", msg=message, input=None)
    yield from _method_problems(prepared)


def _trl_problems(prepared: PreparedModel) -> Iterator[Problem]:
    training = prepared.training
    if trainer_of(training).facts.generates:
        yield from _generation_problems(prepared)
    given = training.gradient_checkpointing_kwargs
    is_trl = training.trainer in ("trl-sft", "trl-dpo", "trl-kto", "trl-grpo", "trl-rloo")
    sets_true = is_trl and prepared.method.name != "full" and training.gradient_checkpointing
    if sets_true and given is not None and not given.use_reentrant:
        message = "TRL sets it to true with adapters under zero3: set it true, or leave the options out"
        yield Problem(loc="training.gradient_checkpointing_kwargs.use_reentrant", msg=message, input=False)
    if sets_true and forward_of(prepared.model).couples_layers(prepared.model.config):
        message = (
            "with adapters under zero3, TRL sets use_reentrant, which drops gradients of tensors that layers of "
            f"{prepared.model.model_type} share: use false, the method full, or {_INSTEAD}"
        )
        yield Problem(loc="training.gradient_checkpointing", msg=message, input=True)
    if training.trainer == "trl-orpo" and training.gradient_checkpointing and given is not None:
        message = "checkpointing options of ORPOTrainer are not modeled under zero3: leave them out"
        yield Problem(loc="training.gradient_checkpointing_kwargs", msg=message, input=None)


def _generation_problems(prepared: PreparedModel) -> Iterator[Problem]:
    training = prepared.training
    if training.use_vllm and prepared.method.quantizes_base:
        message = (
            "for vLLM, TRL merges adapters into the base's weights, which PEFT replaces by new ones where they have 4 "
            f"bits, and stage 3 does not partition these: use false, the method lora, or {_INSTEAD}"
        )
        yield Problem(loc="training.use_vllm", msg=message, input=True)


def _transposed_weight_problems(prepared: PreparedModel) -> Iterator[Problem]:
    """Yield DoRA with dropout over a Conv1D, whose weight PEFT transposes into a parameter that the loss keeps."""
    method = prepared.method
    if not getattr(method, "use_dora", False) or not getattr(method, "lora_dropout", 0.0):
        return
    for path, module in prepared.model.paths:
        if module.kind == "conv1d" and prepared.module_spec(path, module).added:
            message = (
                f"with dropout, DoRA trains a transposed copy of the weight of {path}, whose gradient stays as long as"
                " the loss, which is not modeled under zero3: use 0"
            )
            yield Problem(loc="method.lora_dropout", msg=message, input=getattr(method, "lora_dropout", None))
            return


def _dtype_problems(prepared: PreparedModel) -> Iterator[Problem]:
    """Yield trained biases and copies whose dtype differs from that of adapters, which stay in float32.

    DeepSpeed flattens the trained parameters into one tensor (deepspeed/runtime/zero/utils.py, defragment).
    """
    if prepared.training.adapter_dtype != "float32" or prepared.cast_to is None:
        return
    specs = [spec for _, _, spec in prepared.distinct_modules]
    if not any(added.trained for spec in specs for added in spec.added):
        return
    method, trained = prepared.method, [spec for spec in specs if spec.trained]
    instead = "use training.adapter_dtype model, or training.deepspeed.zero3_init_flag false"
    if any(spec.copied is None for spec in trained):
        message = f"DeepSpeed cannot flatten biases in bfloat16 and adapters in float32 into one tensor: {instead}"
        yield Problem(loc="method.bias", msg=message, input=getattr(method, "bias", None))
    if any(spec.copied is not None for spec in trained):
        message = f"DeepSpeed cannot flatten copies in bfloat16 and adapters in float32 into one tensor: {instead}"
        yield Problem(loc="method.modules_to_save", msg=message, input=listed(getattr(method, "modules_to_save", None)))


def _virtual_token_problems(prepared: PreparedModel) -> Iterator[Problem]:
    """Yield a trained head next to virtual tokens, which stay in float32 if the model is built partitioned.

    DeepSpeed flattens the trained parameters into one tensor (deepspeed/runtime/zero/utils.py, defragment).
    """
    if not prepared.method.virtual_tokens or prepared.cast_added_to == prepared.cast_to:
        return
    if any(spec.trained for _, _, spec in prepared.distinct_modules):
        message = (
            f"DeepSpeed cannot flatten a head in {prepared.cast_to} and virtual tokens in float32 into one tensor: set"
            " it false"
        )
        yield Problem(loc="training.deepspeed.zero3_init_flag", msg=message, input=True)


def _copy_problems(prepared: PreparedModel) -> Iterator[Problem]:
    """Yield copies that are cast to float32, and copies of modules that hold others, whose calls are not modeled.

    Source: LLaMA-Factory, model/adapter.py, init_adapter, which casts nothing under stage 3.
    """
    method = prepared.method
    if method.facts.config_class is not None and getattr(method, "unfrozen_dtype", "model") != "model":
        message = f"LLaMA-Factory casts no copies under zero3: use model, or {_INSTEAD}"
        yield Problem(loc="method.unfrozen_dtype", msg=message, input=getattr(method, "unfrozen_dtype", None))
    for path, _, spec in prepared.distinct_modules:
        owner = path.rpartition(".")[0]
        if spec.copied is not None and method.copy_name(owner) is not None:
            message = f"the copy of {owner}, which holds modules, is not modeled under zero3: name them, or {_INSTEAD}"
            names = listed(getattr(method, "modules_to_save", None))
            yield Problem(loc="method.modules_to_save", msg=message, input=names)
            return


def _empty_copy_problems(prepared: PreparedModel) -> Iterator[Problem]:
    """Yield LN Tuning of a model that is built partitioned.

    PEFT copies its norms without gathering them (LNTuningLayer.update_layer).
    """
    if prepared.method.name == "ln_tuning" and is_built_partitioned(prepared.given, prepared.device, prepared.method):
        message = "PEFT copies the partitioned norms without gathering them, so the copies are empty: set it false"
        yield Problem(loc="training.deepspeed.zero3_init_flag", msg=message, input=True)


def _empty_shape_problems(prepared: PreparedModel) -> Iterator[Problem]:
    """Yield LoHa of a model that is built partitioned.

    PEFT reads the shape of a weight without gathering it (LoHaLayer.update_layer).
    """
    if prepared.method.name == "loha" and is_built_partitioned(prepared.given, prepared.device, prepared.method):
        message = "PEFT reads the shapes of the partitioned weights, which have no dimensions, and fails: set it false"
        yield Problem(loc="training.deepspeed.zero3_init_flag", msg=message, input=True)


def _released_bias_problems(prepared: PreparedModel) -> Iterator[Problem]:
    """Yield DEFT of a layer with a bias, which stage 3 releases after the layer's call in the first pass.

    PEFT subtracts it afterwards (DeftLinear.forward).
    """
    method = prepared.method
    for path, module, spec in prepared.distinct_modules if method.name == "deft" else ():
        if spec.added and module.bias is not None and not prepared.model.is_idle(path):
            message = (
                f"PEFT subtracts the bias of {path} after stage 3 has released it, and fails: leave {path} out, or"
                f" {_INSTEAD}"
            )
            names = listed(getattr(method, "target_modules", None))
            yield Problem(loc="method.target_modules", msg=message, input=names)
            return


def _method_problems(prepared: PreparedModel) -> Iterator[Problem]:
    method = prepared.method
    if method.name not in METHODS:
        message = f"is not modeled under zero3: use {' or '.join(METHODS)}, or {_INSTEAD}"
        yield Problem(loc="method.name", msg=f"{method.name} {message}", input=method.name)
        return
    yield from _transposed_weight_problems(prepared)
    yield from _dtype_problems(prepared)
    yield from _virtual_token_problems(prepared)
    yield from _copy_problems(prepared)
    yield from _empty_copy_problems(prepared)
    yield from _empty_shape_problems(prepared)
    yield from _released_bias_problems(prepared)
