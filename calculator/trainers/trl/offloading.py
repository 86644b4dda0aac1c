"""TRL's `activation_offloading`: with what it is modeled, and what an answer says about it.

Source: trl/models/activation_offloading.py, OffloadActivations, of TRL 1.15 and 1.16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.layer_kind import RECURRENT_TYPES
from calculator.common.errors import Problem
from calculator.stack.releases import release

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.common.names import MethodName, TrainerName
    from calculator.inputs.sharding import ShardingName
    from calculator.inputs.training import Training
    from calculator.trainers.subject import Subject

#: The first release whose manager was traced.
FIRST = (1, 15)

#: The shardings under which a view of a saved weight has the storage that the manager knows. With the others, the model
#: is moved to the GPU later, so a view is copied to host memory as any tensor. With checkpointing, none is saved.
KEEP_STORAGES: tuple[ShardingName, ...] = ("none", "ddp")

#: The methods whose weights are saved in products of linear layers alone, so that it is known which of them are views.
IN_PRODUCTS: frozenset[MethodName] = frozenset(
    ("full", "lora", "qlora", "adapter", "prompt", "ia3", "ln_tuning", "bitfit")
)

#: The trainers that compare the model with a reference.
WITH_REFERENCE: tuple[TrainerName, ...] = ("trl-dpo", "trl-kto")

#: Families whose layers save tensors in layouts that are not modeled, so that copies of them on the GPU are not known.
UNKNOWN_LAYOUTS = frozenset({"bloom", "falcon", "gpt_neo"})

#: The methods that save tensors in layouts that are modeled.
KNOWN_METHODS: frozenset[MethodName] = frozenset(
    (
        "full", "lora", "qlora", "adapter", "prefix", "prompt", "p_tuning", "ia3", "ln_tuning", "miss", "lokr", "beft",
        "hira", "road", "trainable_tokens", "deft", "vblora", "adalora", "glora", "c3a", "bitfit",
        "osf",
    )
)  # fmt: skip

#: With which settings TRL's trainers with a reference run the model once.
_RUNS_ONCE = "set precompute_ref_log_probs true, and with trl-kto loss_type apo_zero_unpaired"

#: The sentence of an answer about the tensors that are offloaded.
_OFFLOADED = (
    "TRL's OffloadActivations copies every saved tensor of 1 kB or more to pinned host memory: {saved}. The last five "
    "stay on the GPU until the backward pass begins. A tensor that was copied back stays until the next node that "
    "reads an offloaded one has run."
)

#: What is saved with and without gradient checkpointing.
_CHECKPOINTED = "here the inputs of the layers, and what the norm and the loss after them save"
_NOT_CHECKPOINTED = (
    "here what every operation saves, in the order in which it does. One that is not contiguous is copied on the GPU "
    "first. One that is saved again while it is on the GPU stays there until it is read"
)

#: The sentence on addresses that are used again.
_ADDRESSES = (
    "TRL recognizes a tensor that is saved again by its address. The figures assume that no other tensor has got the "
    "address in the meantime, which can happen to one that was copied on the GPU first."
)

#: The sentence on what depends on the time that the copies take.
_TIMING = (
    "Which tensors are alive does not depend on how long the copies take. Reserved memory can depend on it: a block "
    "for which record_stream was called is used again once its copy has ended. The figures assume that the copy has "
    "ended when the tensor is freed. TRL also empties the allocator's cache before each micro-batch if bitsandbytes is "
    "imported, which PEFT does for LoRA. That is not replayed."
)


def sentences(*, checkpointed: bool) -> list[str]:
    """Return what an answer says about offloaded activations, with or without gradient checkpointing."""
    saved = _CHECKPOINTED if checkpointed else _NOT_CHECKPOINTED
    return [_OFFLOADED.format(saved=saved), *([] if checkpointed else [_ADDRESSES]), _TIMING]


def problems(prepared: Subject, sharding: ShardingName) -> Iterator[Problem]:
    """Yield why activations that a trainer of TRL offloads are refused."""
    training = prepared.training
    if not training.activation_offloading:
        return
    checkpointed = training.gradient_checkpointing
    unknown = None if checkpointed else _of_unknown_layout(prepared)
    viewed = None if checkpointed or sharding in KEEP_STORAGES else _of_unknown_views(prepared)
    reasons = {
        f"without gradient checkpointing is not modeled for {unknown}, whose saved tensors have other layouts: set "
        "gradient_checkpointing true": unknown is not None,
        f"without gradient checkpointing is not modeled with {sharding} for {viewed}, of whose weights other views are "
        "saved, which are copied too: set gradient_checkpointing true, or use ddp": viewed is not None,
        "with images is not modeled: use false, or leave images out": training.has_images,
        f"fails under ZeRO-3 with a trained {prepared.model.output.name}, whose saved weight returns as a plain tensor "
        "that TRL's loss cannot gather: use false, or zero2": sharding == "zero3" and _trains_head(prepared),
        "under ZeRO-3 is not modeled with a 4-bit base, because the last node of a step keeps gathered weights of its "
        "layer until the next backward pass: use lora, or zero2": sharding == "zero3" and _is_quantized(prepared),
        "is not modeled for models whose layers have inputs of their own, such as Gemma 4: use false": bool(
            prepared.model.config.get("hidden_size_per_layer_input")
        ),
        "is not modeled for layers that receive a mask as a positional argument: use false, or sdpa without padding": (
            checkpointed and prepared.model.model_type == "gpt2" and (training.attention == "eager" or training.padding)
        ),
        f"of TRL {prepared.stack.trl} is not modeled: use a stack.trl of 1.15 or later": (
            release(prepared.stack.trl)[:2] < FIRST
        ),
        f"with transformers {prepared.stack.transformers} is not modeled: use a stack.transformers of 5.0 or later": (
            release(prepared.stack.transformers)[:1] < (5,)
        ),
    }
    for reason, applies in reasons.items():
        if applies:
            yield Problem(loc="training.activation_offloading", msg=f"TRL's option {reason}", input=True)
            return


def _re_enters(training: Training) -> str:
    """Return why several passes with checkpoints are not modeled under ZeRO-3."""
    return ", for which TRL makes the checkpoints of adapters re-enter" if training.gradient_checkpointing else ""


def _has_passes(training: Training) -> bool:
    """Return whether a step runs the model more than once: for the reference, or for the KL divergence."""
    if training.trainer not in WITH_REFERENCE:
        return False
    estimates_kl = training.trainer == "trl-kto" and training.loss_type != "apo_zero_unpaired"
    return estimates_kl or not training.precompute_ref_log_probs


def _is_quantized(prepared: Subject) -> bool:
    return prepared.method.base_quantization(prepared.training) is not None


def _trains_head(prepared: Subject) -> bool:
    """Return whether the fused head's weight or bias is trained.

    Source: trl/trainer/utils.py, maybe_gather_lm_head_ctx.
    """
    output = prepared.model.output
    return prepared.training.trainer != "trl-reward" and bool(prepared.module_spec(output.name, output).trained)


def _of_unknown_views(prepared: Subject) -> str | None:
    """Return what saves views of weights that are not modeled, or None."""
    method = prepared.method
    if "experts" in prepared.model.kinds:
        return "models with experts"
    if method.name not in IN_PRODUCTS:
        return method.facts.label
    return "DoRA" if getattr(method, "use_dora", False) else None


def _of_unknown_layout(prepared: Subject) -> str | None:
    """Return what saves tensors in layouts that are not modeled, or None."""
    model, method = prepared.model, prepared.method
    if any(layer.kind.attention in (*RECURRENT_TYPES, "hybrid") for layer in model.decoder.layers):
        return "layers without attention"
    if model.model_type in UNKNOWN_LAYOUTS:
        return model.model_type
    if method.name not in KNOWN_METHODS:
        return method.facts.label
    stored = method.base_quantization(prepared.training)
    return None if stored is None or stored.of_bitsandbytes else "this quantized base"
