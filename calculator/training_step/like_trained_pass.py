"""Whether passes of `generate` are like the forward pass of the trained model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.per_model import per_model
from calculator.families import forward_of
from calculator.layers.masks import attention_types

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.methods.prepared_model import PreparedModel


def is_bounded(prepared: PreparedModel) -> bool:
    """Return whether a pass allocates nothing but what the trained forward pass or a part of the bound has.

    Masks are of every sequence, experts get copies of their matrices, and kernels of some bases depend on the number of
    tokens.
    """
    training, method, model, forward = prepared.training, prepared.method, prepared.model, forward_of(prepared.model)
    if prepared.device.sharding not in ("none", "ddp") or prepared.older or training.use_liger_kernel:
        return False
    if training.autocast or training.padding or training.has_images:
        return False
    if prepared.offloads_inputs or prepared.offloads_activations or training.attention == "eager":
        return False
    if method.virtual_tokens or method.couples_layers or method.runs_no_grad_first or method.needs_no_cache:
        return False
    if method.quantizes_base != method.facts.quantizes_base or model.has_experts or model.encoder_layers:
        return False
    if forward.sdpa == "eager" or forward.own_masks or forward.always_masked or forward.masks_of_batch is not None:
        return False
    return not (forward.changes_positions or forward.bidirectional_masks) and "head_dim" in model.config


@per_model
def _attends_to_all_tokens(model: Model) -> bool:
    """Return whether each layer attends to all tokens before it, with its own keys and values."""
    layers = model.decoder.layers
    return attention_types(layers) == {"full_attention"} and all(layer.kind.shares != "reuse" for layer in {*layers})


def may_derive_generation(prepared: PreparedModel) -> bool:
    """Return whether the passes of `generate` may run the layers of the trained pass on other sizes."""
    training, method, model = prepared.training, prepared.method, prepared.model
    if not prepared.trainer.facts.generates or training.use_vllm or training.attention != "sdpa":
        return False
    if method.quantizes_base or prepared.sequences_per_row != 1 or len(model.stacks) != 1:
        return False
    if not _attends_to_all_tokens(model):
        return False
    output = prepared.module_spec(model.output.name, model.output)
    return not (output.added or output.copied) and is_bounded(prepared)
