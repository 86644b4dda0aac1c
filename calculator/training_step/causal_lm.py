"""A causal language model's training step: embeddings, layers, head, loss, and back.

One layer is interpreted that stands for all, or the first and one for all the others: see `interpretation`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import autocast
from calculator.engine.autograd import Mark
from calculator.engine.backward import backward
from calculator.engine.checkpoint import checkpoint
from calculator.engine.tape import Tensor
from calculator.layers import masks
from calculator.layers.cache import Cache
from calculator.layers.loss import causal_lm_loss
from calculator.training_step.first_layer import FirstLayer, can_skip_first_layer
from calculator.training_step.router_loss import add_router_loss

if TYPE_CHECKING:
    from calculator.architecture.layer_kind import AttentionType
    from calculator.engine.autograd import Node
    from calculator.layers.context import Context


def micro_batch(context: Context) -> None:
    """One forward and backward pass, with the marks that the folds need."""
    tape = context.tape
    ids = tape.new((context.batch, context.length), "int64", "input_ids")
    given = [ids]
    if context.training.padding:
        given.append(tape.new((context.batch, context.length), "int64", "attention_mask"))
    tape.mark("forward")
    with autocast.region(tape, context.training.autocast):
        loss = _forward(context, ids)
    tape.mark("backward")
    first = context.skipped_layer
    backward(tape, loss, seen=None if first is None else partial(first.read_graph, tape))
    context.release()
    tape.mark("end")
    context.caller_tensors = [*given, loss]


def _forward(context: Context, ids: Tensor) -> Tensor:
    if context.config["use_cache"] and not context.training.gradient_checkpointing:
        context.cache = Cache(windowed=True, given=masks.window_tensors(context))
    context.method.begin(context)
    hidden_states = decoder(context, ids)
    context.release()
    context.tape.component = "logits_and_loss"
    logits = context.bind(context.model.output)(hidden_states)
    logits = context.forward.logits(context, logits)
    loss = causal_lm_loss(context, logits)
    loss = add_router_loss(context, loss)
    context.tape.component = "activations"
    if context.skipped_layer is not None and context.cache is not None:
        context.skipped_layer.note_cache([tensor for pair in context.cache.kept for tensor in pair])
    context.cache, context.router_logits, context.forward_locals = None, None, []
    return loss


def decoder(context: Context, ids: Tensor) -> Tensor:
    """Embeddings, layers, and what follows them: (batch, sequence) to (batch, sequence, hidden_size)."""
    forward = context.forward
    inputs_embeds = forward.embeddings(context, ids)
    if context.training.gradient_checkpointing and not inputs_embeds.edge:
        inputs_embeds = context.input_requiring_grad(inputs_embeds)
    inputs_embeds = context.method.embedded(context, inputs_embeds)
    hidden_states = forward.before_layers(context, inputs_embeds)
    kept = {"words": inputs_embeds, "input": hidden_states}.get(forward.retained)
    del inputs_embeds
    context.position_tables = forward.tables(context, hidden_states)
    context.masks = masks.by_attention_type(context)
    if can_skip_first_layer(context, hidden_states):
        context.repetition = context.repetition.from_first_period()
        context.skipped_layer = first = FirstLayer(hidden_states, f"layer {context.repetition.end}")
        hidden_states = first.output(hidden_states)
        del first
    for place in range(len(context.repetition.numbers)):
        if place == context.repetition.start:
            context.skipped_layer_tensors = []
        hidden_states = marked(hidden_states, f"layer {place}")
        hidden_states = _layer(context, place, _keeping(context, place, hidden_states))
    hidden_states = marked(hidden_states, f"layer {len(context.repetition.numbers)}")
    hidden_states = forward.final_norm(context, hidden_states)
    del kept
    return hidden_states


def marked(x: Tensor, label: str) -> Tensor:
    """A point between layers, marked when the forward pass and when the gradient comes by."""
    x.tape.mark(f"{label} forward", x)
    node = Mark(x.tape, _mark_back, (x.edge,), label) if x.edge else None
    return Tensor(x.tape, x.storage, x.shape, x.dtype, node)


def _mark_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    """Mark the point, and give the gradient one name between any two layers, so that copies can be counted."""
    grad.tape.mark(f"{node.context} backward")
    grad.rename("layers: gradient of the hidden states")
    return (grad,)


def _layer(context: Context, place: int, hidden_states: Tensor) -> Tensor:
    layers = context.model.decoder
    layer = layers.layers[context.repetition.numbers[place]]
    modules = context.layer(layer, f"{layers.name}.*.")
    position, mask = _shared(context, layer.kind.attention)

    def run(x: Tensor) -> Tensor:
        outer = context.position_tables, context.mask
        context.position_tables, context.mask = position, mask
        context.attends_to_window = layer.kind.attention == "sliding_attention"
        try:
            return context.forward.layer(context, modules, x)
        finally:
            context.exit_layer(*outer)

    if context.training.gradient_checkpointing:
        return checkpoint(run, hidden_states, captured=[_shared(context, kind) for kind in _types(context, place)])
    return run(hidden_states)


def _keeping(context: Context, place: int, x: Tensor) -> Tensor:
    """A layer's input, with which the tables stay that only layers save for which it stands."""
    tables = [] if context.training.gradient_checkpointing else _others_tables(context, place)
    if not tables or x.edge is None:
        return x
    node = Mark(x.tape, _kept_back, (x.edge,))
    for table in tables:
        node.save(table)
    return Tensor(x.tape, x.storage, x.shape, x.dtype, node)


def _others_tables(context: Context, place: int) -> list[Tensor]:
    """Tables of attention types that the layers have for which the one at a place stands, and itself has not."""
    repetition, tables_for = context.repetition, context.forward.tables_for
    layer, *others = context.layers[repetition.numbers[place] : repetition.last_represented(place) + 1]
    own = layer.kind.attention
    types = masks.attention_types(others) - {own}
    known = {id(table) for table in tables_for(context.position_tables, own)}
    tables = [table for attention in types for table in tables_for(context.position_tables, attention)[:2]]
    return [table for table in tables if id(table) not in known]


def _kept_back(_: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad,)


def _types(context: Context, place: int) -> set[AttentionType]:
    """The attention types of the layers up to the last that the one at a place stands for."""
    return masks.attention_types(context.layers[: context.repetition.last_represented(place) + 1])


def _shared(context: Context, attention: AttentionType) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """The tables of positions and the mask that layers of an attention type are given."""
    return context.forward.tables_for(context.position_tables, attention), context.masks[attention]
