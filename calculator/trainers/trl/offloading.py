"""TRL's `activation_offloading`: with what it is modeled, and what an answer says about it.

Source: trl/models/activation_offloading.py, OffloadActivations, of TRL 1.15 and 1.16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.layer_kind import RECURRENT_TYPES
from calculator.common.errors import Problem
from calculator.stack.releases import release
from calculator.trainers import trainer_of
from calculator.trainers.trl.comparing import ComparingTrainer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.common.names import MethodName
    from calculator.inputs.sharding import ShardingName
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

#: The same with re-entrant checkpoints.
_REENTRANT = (
    "here the inputs of the layers, and what every operation of a layer saves when it is recomputed. These return to "
    "the GPU in the layer's backward pass, and stay there until that of the layer before it has ended"
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


def sentences(prepared: Subject) -> list[str]:
    """Return the sentences of an answer about offloaded activations."""
    if saves_inputs_only(prepared):
        return [_OFFLOADED.format(saved=_CHECKPOINTED), _TIMING]
    saved = _REENTRANT if prepared.training.gradient_checkpointing else _NOT_CHECKPOINTED
    return [_OFFLOADED.format(saved=saved), _ADDRESSES, _TIMING]


def problems(prepared: Subject, sharding: ShardingName) -> Iterator[Problem]:
    """Yield why activations that a trainer of TRL offloads are refused."""
    training = prepared.training
    if not training.activation_offloading:
        return
    checkpointed = training.gradient_checkpointing
    saves_inputs = saves_inputs_only(prepared)
    unknown = None if saves_inputs else _unknown_layouts(prepared)
    viewed = None if saves_inputs or sharding in KEEP_STORAGES else _unknown_views(prepared)
    without, way_out = _without_checkpoints(prepared)
    reasons = {
        f"{without} is not modeled for {unknown}, whose saved tensors have other layouts: {way_out}": (
            unknown is not None
        ),
        f"{without} is not modeled with {sharding} for {viewed}, of whose weights other views are saved, which are "
        f"copied too: {way_out}, or use ddp": viewed is not None,
        f"{without} is not modeled for joined rows, whose positions the last node of a step keeps: {way_out}": (
            checkpointed and not saves_inputs and training.flattened
        ),
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


def saves_inputs_only(prepared: Subject) -> bool:
    """Return whether a layer saves its input alone: its checkpoint does not re-enter.

    A re-entrant one runs the layer with a graph of its own, whose saved tensors are offloaded too.
    """
    training, trainer = prepared.training, trainer_of(prepared.training)
    sets = isinstance(trainer, ComparingTrainer) and trainer.sets_reentrance(prepared)
    return training.gradient_checkpointing and not (sets or training.use_reentrant)


def _without_checkpoints(prepared: Subject) -> tuple[str, str]:
    """Return with which checkpointing every saved tensor is offloaded, and what to set instead."""
    if not prepared.training.gradient_checkpointing:
        return "without gradient checkpointing", "set gradient_checkpointing true"
    if prepared.training.use_reentrant:
        return "with re-entrant checkpoints", "set gradient_checkpointing_kwargs.use_reentrant false"
    return (
        "with the re-entrant checkpoints that TRL sets for adapters under ZeRO-3",
        "set precompute_ref_log_probs true",
    )


def _is_quantized(prepared: Subject) -> bool:
    return prepared.method.base_quantization(prepared.training) is not None


def _trains_head(prepared: Subject) -> bool:
    """Return whether the fused head's weight or bias is trained.

    Source: trl/trainer/utils.py, maybe_gather_lm_head_ctx.
    """
    output = prepared.model.output
    return prepared.training.trainer != "trl-reward" and bool(prepared.module_spec(output.name, output).trained)


def _unknown_views(prepared: Subject) -> str | None:
    """Return, in words, the part of a run that saves views of weights which are not modeled, or None."""
    method = prepared.method
    if "experts" in prepared.model.kinds:
        return "models with experts"
    if method.name not in IN_PRODUCTS:
        return method.facts.label
    return "DoRA" if getattr(method, "use_dora", False) else None


def _unknown_layouts(prepared: Subject) -> str | None:
    """Return, in words, the part of a run that saves tensors in layouts which are not modeled, or None."""
    model, method = prepared.model, prepared.method
    if any(layer.kind.attention in (*RECURRENT_TYPES, "hybrid") for layer in model.decoder.layers):
        return "layers without attention"
    if model.model_type in UNKNOWN_LAYOUTS:
        return model.model_type
    training = prepared.training
    if model.config.get("multi_query") and (training.attention == "eager" or training.padding or training.flattened):
        return "multi-query attention with a mask"
    if method.name not in KNOWN_METHODS:
        return method.facts.label
    stored = method.base_quantization(training)
    return None if stored is None or stored.is_bitsandbytes else "this quantized base"
