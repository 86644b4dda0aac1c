"""Checks for runs that Unsloth refuses, and for runs that are not modeled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.methods.lora.method import LoRA
from calculator.resident.quantization import Quantization
from calculator.stack.changes import CHANGES, older_behavior
from calculator.trainers.unsloth.families import UNSLOTH_FAMILIES
from calculator.trainers.unsloth.releases import (
    COMPILES_LAYERS,
    FLOAT32_PRODUCTS,
    PREFERS_SDPA,
    REFUSED_TORCH,
    is_rewritten,
    torch_is,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.trainers.subject import Subject

#: Why other families are not modeled. Source: unsloth/models/loader.py, FastModel; unsloth_zoo/compiler.py.
_COMPILED = "that it compiles, so that torch.compile chooses what is saved"

#: Why attention with soft caps needs flash-attn. Source: unsloth/kernels/flex_attention.py, slow_attention_softcapping.
_NEEDS_FLASH = (
    "without flash-attn 2.6.3 or later, Unsloth compiles attention with soft caps, so that torch.compile chooses which"
    " of its scores are saved: install flash-attn and use flash_attention_2, or use the trainer trl-sft"
)

#: Settings of methods that Unsloth's fused functions do not cover, or that are not modeled, with what to set instead.
OF_METHOD = {
    "use_dora": False,
    "bias": "none",
    "lora_bias": False,
    "trainable_token_indices": None,
    "layer_replication": None,
}

#: The modules that Unsloth trains in full. Source: unsloth/models/llama.py, get_peft_model.
SAVED = ("embed_tokens", "lm_head")

#: The values of settings that Unsloth supports, and why it supports no others.
OF_TRAINING: dict[str, tuple[tuple[object, ...], str]] = {
    "adapter_dtype": (("float32",), "Unsloth keeps adapters in float32: use float32"),
    "attention": (
        ("sdpa", "flash_attention_2"),
        "Unsloth runs flash-attn or xformers: use flash_attention_2 for the first, or sdpa if either may be installed",
    ),
    "use_liger_kernel": ((False,), "Unsloth has kernels of its own: use false"),
    "padding": ((False,), "Unsloth passes no mask to attention while it trains: use false"),
    "sequence_lengths": ((None,), "sample lengths are not modeled for Unsloth: give only sequence_length"),
}


def problems(prepared: Subject) -> Iterator[Problem]:
    """Yield the problems of a run with Unsloth."""
    yield from (_rewritten if is_rewritten(prepared.stack) else _older)(prepared)
    yield from _model(prepared)
    yield from _method(prepared)
    yield from _training(prepared)


def _older(prepared: Subject) -> Iterator[Problem]:
    """Yield settings that releases before 2026.10 do not have."""
    tokens = prepared.training.completion_tokens
    if tokens is not None:
        message = (
            "the loss of Unsloth 2026.8 reads every token, labeled or not: leave it out, or use stack.unsloth 2026.10"
        )
        yield Problem(loc="training.completion_tokens", msg=message, input=tokens)


def _rewritten(prepared: Subject) -> Iterator[Problem]:
    """Yield settings of 2026.10 that are not modeled, and the releases of PyTorch that it refuses.

    Source: unsloth/models/llama.py, _legacy_block_compile; unsloth/utils/attention_dispatch.py, _sdpa_packed_segments.
    """
    training, stack, model = prepared.training, prepared.stack, prepared.model
    family = UNSLOTH_FAMILIES.get(model.model_type)
    if torch_is(stack, REFUSED_TORCH):
        yield Problem(loc="stack.torch", msg="Unsloth 2026.10 requires PyTorch below 2.15: use 2.14", input=stack.torch)
    elif not torch_is(stack, FLOAT32_PRODUCTS):
        message = "the loss of Unsloth 2026.10 is modeled with PyTorch 2.8 and later: use 2.14, or stack.unsloth 2026.8"
        yield Problem(loc="stack.torch", msg=message, input=stack.torch)
    elif family is not None and not family.has_positions and torch_is(stack, COMPILES_LAYERS):
        message = (
            f"with PyTorch 2.11 and later, Unsloth 2026.10 compiles the layers of {model.model_type}, whose rows are"
            " padded, so that torch.compile chooses what is saved: use 2.10, or stack.unsloth 2026.8"
        )
        yield Problem(loc="stack.torch", msg=message, input=stack.torch)
    window = model.config.get("sliding_window") if model.model_type == "mistral" else None
    if window and window < training.sequence_length and training.attention == "sdpa" and torch_is(stack, PREFERS_SDPA):
        message = (
            "without flash-attn, Unsloth 2026.10 makes a mask of each sample that is longer than the sliding window,"
            " which is not modeled: use flash_attention_2"
        )
        yield Problem(loc="training.attention", msg=message, input=training.attention)


def _model(prepared: Subject) -> Iterator[Problem]:
    model_type = prepared.model.model_type
    family = UNSLOTH_FAMILIES.get(model_type)
    if family is None:
        names = ", ".join(UNSLOTH_FAMILIES)
        message = f"Unsloth is modeled for {names}; {model_type} is a family {_COMPILED}: use trl-sft"
        yield Problem(loc="training.trainer", msg=message, input="unsloth")
    elif family.needs_flash_attn and prepared.training.attention != "flash_attention_2":
        yield Problem(loc="training.attention", msg=_NEEDS_FLASH, input=prepared.training.attention)
    older = older_behavior(prepared.stack, model_type)
    if any(CHANGES[name].package == "transformers" for name in older):
        message = "Unsloth replaces the forward pass of transformers, whose release changes nothing: leave it out"
        yield Problem(loc="stack.transformers", msg=message, input=prepared.stack.transformers)


def _method(prepared: Subject) -> Iterator[Problem]:
    method = prepared.method
    if method.name not in ("lora", "qlora"):
        message = f"Unsloth is modeled for lora and qlora; with {method.name} it compiles the model: use one of these"
        yield Problem(loc="method.name", msg=message, input=method.name)
        return
    if isinstance(method, LoRA) and method.base is not None:
        message = f"Unsloth is not modeled with a base in {method.base.in_bits}: use qlora, or LoRA in 16 bits"
        yield Problem(loc=method.base.loc, msg=message, input=method.load_in_8bit or method.base.config.quant_method)
    base = method.base_quantization(prepared.training)
    if isinstance(base, Quantization):
        for name, value, shown in (("quant_type", "nf4", "nf4"), ("double_quant", True, "true")):
            if getattr(base, name) != value:
                message = f"Unsloth's kernels read double-quantized nf4 only: use {shown}"
                yield Problem(loc=f"method.{name}", msg=message, input=getattr(base, name))
    for name, default in OF_METHOD.items():
        given = getattr(method, name, default)
        if given not in (default, ()):
            message = f"{name} with Unsloth is not modeled yet: leave it out, or use the trainer trl-sft"
            yield Problem(loc=f"method.{name}", msg=message, input=given)
    yield from _outer(prepared)


def _outer(prepared: Subject) -> Iterator[Problem]:
    """Yield the problems of the embeddings and the head.

    Source: unsloth/models/llama.py, get_peft_model, which copies embeddings that target_modules names, and
    CausalLM_fast_forward, which reads the head's weight alone.
    """
    model, saved = prepared.model, getattr(prepared.method, "modules_to_save", None) or ()
    for module in model.outer.values():
        if prepared.module_spec(module.name, module).added:
            why = (
                "gets no gradient with Unsloth, whose loss reads the weight alone"
                if module.name == model.output.name
                else "is what Unsloth replaces by modules_to_save"
            )
            message = f"an adapter on {module.name} {why}: leave it out, or name it in method.modules_to_save"
            yield Problem(loc="method.target_modules", msg=message, input=module.name)
    other = [name for name in saved if name not in SAVED]
    if other:
        message = f"Unsloth trains {' and '.join(SAVED)} in full, no other modules: leave {other[0]} out"
        yield Problem(loc="method.modules_to_save", msg=message, input=list(saved))
    elif saved and model.tied:
        message = "one table for embeddings and head is not modeled with modules_to_save and Unsloth: leave it out"
        yield Problem(loc="method.modules_to_save", msg=message, input=list(saved))
    elif saved and prepared.training.dtype != "bfloat16":
        message = "Unsloth casts copies in float16 to float32, which is not modeled: use bfloat16"
        yield Problem(loc="training.dtype", msg=message, input=prepared.training.dtype)


def _training(prepared: Subject) -> Iterator[Problem]:
    training = prepared.training
    if training.dtype == "float32" or training.autocast != training.dtype:
        half = "bfloat16" if training.dtype == "float32" else training.dtype
        loc = "training.dtype" if training.dtype == "float32" else "training.autocast"
        message = f"Unsloth trains half-precision weights with autocast to the same data type: use {half} for both"
        yield Problem(loc=loc, msg=message, input=getattr(training, loc.partition(".")[2]))
    for name, (values, message) in OF_TRAINING.items():
        given = getattr(training, name)
        if given not in values:
            yield Problem(loc=f"training.{name}", msg=message, input=given)
    if training.gradient_checkpointing_kwargs is not None and not training.use_reentrant:
        message = "Unsloth's checkpointing is re-entrant: leave it out"
        yield Problem(loc="training.gradient_checkpointing_kwargs.use_reentrant", msg=message, input=False)
