"""The layers that no-grad passes of one step share: those of a fully trained model and of a second model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from calculator.engine import autocast

if TYPE_CHECKING:
    from collections.abc import Hashable

    from calculator.layers.context import Context
    from calculator.layers.decoder_forward import DecoderForward
    from calculator.methods.prepared_model import PreparedModel

    #: The layers by their key, as `RecordedLayers` has them.
    Layers = dict[Hashable, Any]


class SharedLayers(NamedTuple):
    """Recorded layers, and what they depend on besides their input and the modes that they read."""

    module_specs: object
    forward: DecoderForward
    received: Hashable
    layers: Layers


def layers_of(context: Context) -> Layers:
    """Return the recorded layers of the passes on a tape that give their layers the same.

    Layers are then of the same modules, and receive masks and position tables of the same shapes. Layers that receive
    anything else are those of a single pass.
    """
    tape, prepared = context.tape, context.prepared
    other = context.cache, context.passed, context.padding_mask, context.sample_bounds, context.encoder_states
    if any(value is not None for value in other) or context.position_biases or context.images or context.past:
        return {}
    if context.older:  # some of which depend on whether the training is checkpointed
        return {}
    model: PreparedModel = prepared  # type: ignore[assignment]  # a step's model is prepared
    own = SharedLayers(model.module_specs, context.forward, _received(context), {})
    known: list[SharedLayers] = tape.shared_layers
    for shared in known:
        if (
            shared.module_specs is own.module_specs
            and shared.forward is own.forward
            and shared.received == own.received
        ):
            return shared.layers
    known.append(own)
    return own.layers


def _received(context: Context) -> Hashable:
    """Return the shapes that all layers receive, and the state that their operations depend on."""
    masks = [(kind, None if mask is None else (mask.shape, mask.dtype)) for kind, mask in context.masks.items()]
    tables = [(table.shape, table.dtype) for table in context.position_tables]
    return (
        context.batch,
        context.length,
        context.dtype,
        context.attention,
        context.tape.module_dropout,
        autocast.state(context.tape),
        *context.classes,
        *masks,
        *tables,
    )
