"""The training step of a causal language model: embeddings, layers, output head, loss, and backward.

Not every layer is interpreted. One layer of each repeating period represents the others (see `repetition` and
`first_layer`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from calculator.common.budget import check_budget
from calculator.engine.autocast import has_copy, leaf_of
from calculator.engine.autograd import Mark
from calculator.engine.backward import backward
from calculator.engine.checkpoint import checkpoint
from calculator.engine.reentrant import checkpoint_reentrant
from calculator.engine.tape import LeafTensor, Tensor
from calculator.layers import masks, seq2seq
from calculator.layers.cache import RETURNED_IF_USED, Cache
from calculator.layers.decoder_forward import same_tables
from calculator.layers.router_loss import add_router_loss
from calculator.stack.changes import SAVED_ARGUMENTS
from calculator.trainers import trainer_of
from calculator.training_step.checkpointed_layers import CheckpointedLayers
from calculator.training_step.derived_passes import run_observed
from calculator.training_step.first_layer import enter_layers
from calculator.training_step.first_period import FirstPeriod
from calculator.training_step.model_passes import ModelPasses, run_no_grad_first
from calculator.training_step.recorded_layers import RecordedLayers

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from calculator.architecture.layer_kind import MixerType
    from calculator.common.dtype import DType
    from calculator.engine.autograd import Node
    from calculator.layers.context import Context
    from calculator.trainers import Loop


def micro_batch(context: Context) -> None:
    """Run one forward and backward pass, and mark the events between which layers repeat."""
    tape, trainer = context.tape, trainer_of(context.training)
    batch = trainer.batch(context)
    context.kept_by_method = context.method.kept(context)
    offloaded = context.begin_offloading() if context.prepared.offloads_activations else None
    tape.mark("forward")
    loss = trainer.loss(context, ModelPasses(context, partial(forward_pass, trainer=trainer, ids=batch[0])))
    tape.mark("backward")
    first = context.skipped_layer or context.layer_in_place
    roots = [*context.hooks.roots(loss if context.hooks.steps_in_backward else trainer.root(loss))]
    seen = None if first is None else partial(first.read_graph, tape)
    backward(tape, roots[-1], seen=seen, callback=context.hooks.final_callback)
    if offloaded is not None:
        offloaded.end()
    context.hooks.after_backward()
    tape.mark("epilogue")
    del roots
    context.release()
    context.scalings = None
    left = trainer.retained(batch, loss) or ([loss] if context.hooks.steps_in_backward else [])
    del batch, loss
    if offloaded is not None:
        offloaded.label_left()
    tape.mark("end")
    context.caller_tensors = left if context.kept_by_method is None else [*left, context.kept_by_method]


def forward_pass(context: Context, *, trainer: Loop, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Run the model that PEFT wraps. If the model computes a loss, add what PEFT's wrapper adds to it."""
    if context.method.runs_no_grad_first:
        run_no_grad_first(context, lambda inner: _model(inner, trainer, ids))
    loss, outputs = _model(context, trainer, ids)
    if context.model.task.embeds:
        return loss, outputs
    return context.method.after_loss(context, loss), outputs


def _model(context: Context, trainer: Loop, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Run the model up to the loss. Return the loss and the other outputs that the caller receives."""
    if context.num_items is not None:
        context.num_items = context.hooks.number(context.num_items)
    batch, context.images = context.images, [*map(context.hooks.batch, context.images)]
    context.hooks.begin(context.parameters)
    checkpoints = context.training.gradient_checkpointing and "caches_of_checkpointed_layers" not in context.older
    uncached = (
        checkpoints
        or context.unsets_cache
        or context.method.needs_no_cache
        or (context.tape.trains and "no_cache_in_training" in context.older)
    )
    context.caches = (
        bool(context.config.get("use_cache"))
        and trainer.uses_cache(context.model, context.prepared.stack)
        and not uncached
    )
    if context.caches and context.forward.is_causal:
        context.cache = Cache(windowed=True, given=masks.given_windows(context))
    if context.prepared.layer_outputs == "hidden states":
        context.hidden_states = []
    context.method.before_forward(context)
    if not context.method.embeds_inputs:
        context.hooks.begin_base()
    hidden_states = decoder(context, ids)
    if context.skipped is not None and context.tape.grad_enabled:
        context.skipped.compare(hidden_states)
    context.release()
    context.tape.component = "logits_and_loss"
    loss, outputs = trainer.head(context)(context, hidden_states)
    loss, router_outputs = add_router_loss(context, loss)
    outputs += [*router_outputs, *(context.router_logits or [])]
    del router_outputs
    context.tape.component = "activations"
    if context.skipped_layer is not None and context.cache is not None:
        context.skipped_layer.note_cache([*context.cache.kept, context.cache.windows])
    context.router_logits, context.forward_locals, context.passed_labels = None, [], None
    context.encoder_states, context.encoder_mask, context.decoder_ids = None, None, None
    context.past = 0 if context.model.encoder_layers else context.past
    loss, outputs = context.hooks.end(loss, outputs)
    is_returned = context.caches or context.model.model_type not in RETURNED_IF_USED
    context.returned_cache = context.cache if is_returned else None
    context.cache, context.num_items, context.images = None, None, batch
    return loss, outputs


def decoder(context: Context, ids: Tensor) -> Tensor:
    """Run embeddings, layers and the final norm: (batch, sequence) to (batch, sequence, hidden_size)."""
    forward = context.forward
    inputs_embeds = _with_images(context, _embeddings(context, ids))
    context.hooks.begin_decoder()
    inputs_embeds = context.method.prepare_inputs_embeds(context, inputs_embeds)
    if context.method.embeds_inputs:
        context.hooks.begin_base()
    hidden_states = forward.before_layers(context, inputs_embeds)
    retained = {"words": inputs_embeds, "input": hidden_states}.get(forward.retained)
    del inputs_embeds
    context.position_tables = forward.tables(context, hidden_states)
    context.masks = masks.by_attention_type(context)
    hidden_states = context.keep_hidden_states(enter_layers(context, hidden_states))
    layers, known = context.layer_loop, RecordedLayers.from_context(context, _layer)
    run = _runner(context, known, retained)
    if (first := FirstPeriod(hidden_states, known) if context.skips_first_period else None) is not None:
        del hidden_states
        hidden_states = first.output(context)
    may_repeat = context.may_repeat_first_period and hidden_states.edge is not None
    entered = (hidden_states.dtype, leaf_of(hidden_states)) if may_repeat else None
    position = 0
    while position < len(context.repetition.numbers):
        if position == context.repetition.start:
            context.skipped_layer_tensors = []
            if position and entered is not None and _repeats(hidden_states, *entered):
                context.repetition, entered = context.repetition.from_first_period(), None
                continue
        if layers is not None:
            hidden_states = layers.begin(position, hidden_states)
        hidden_states = mark(hidden_states, f"{context.marks}layer {position}")
        if context.keeps_last and context.layers[context.repetition.numbers[position]].kind.shares == "reuse":
            hidden_states = forward.last_position(context, hidden_states)
        if context.repetition.numbers[position] == context.model.encoder_layers > 0 and context.encoder_states is None:
            retained = None
            hidden_states = seq2seq.decode(context, hidden_states)
        hidden_states = run(context, position, _with_saved_tables(context, position, hidden_states))
        if context.image_features or context.hidden_states is not None:
            hidden_states, _replaced = _with_features(context, position, hidden_states)
        if forward.keeps_hidden_states:
            context.decoder_locals.append(hidden_states)
        position += 1
        if first is not None and position == context.repetition.end:
            first.compare(context, hidden_states)
    context.parameters.layer = None
    if layers is not None:
        hidden_states = layers.begin(len(context.repetition.numbers), hidden_states)
    hidden_states = mark(hidden_states, f"{context.marks}layer {len(context.repetition.numbers)}")
    norm = context.hooks.module("final_norm")
    hidden_states = norm.after(forward.final_norm(context, norm.before(hidden_states)))
    del retained
    return context.keep_hidden_states(hidden_states, is_last=True)


def _runner(
    context: Context, known: RecordedLayers | None, retained: Tensor | None
) -> Callable[[Context, int, Tensor], Tensor]:
    """Return the function that runs a layer. `retained` is the tensor that the decoder keeps while layers run."""
    checkpointed = CheckpointedLayers.from_context(context) if context.training.gradient_checkpointing else None
    run = partial(_layer, checkpointed=checkpointed) if known is None else known.run
    if context.skipped is not None and context.skipped.derives and context.tape.grad_enabled:
        kept = None if retained is None or retained.storage is None else retained.storage.row
        return partial(run_observed, context.skipped, run, kept)
    return run


def _with_images(context: Context, inputs_embeds: Tensor) -> Tensor:
    """Run the tower, if the batch has images, and write its tokens over the placeholders.

    The caller may have run the tower before.
    """
    tower = context.forward.tower
    if not context.images or tower is None:
        return inputs_embeds
    if tower.follows_positions:
        context.set_scope("model: ")
        context.positions_before_images = context.position_ids(inputs_embeds.shape[1])
    encoded = context.encoded_images if context.encoded_images is not None else tower.encode(context)
    inputs_embeds = tower.place(context, inputs_embeds, encoded)
    del encoded
    if context.cache is not None and context.cache.given:
        context.cache.windows = masks.window_tensors(context)
    return inputs_embeds


def _repeats(x: Tensor, dtype: DType, leaf: object) -> bool:
    """Return whether the layers after a layer run the same operations as it.

    That is the case if `x`, which it returns, has the data type and the cached copy of what it received.
    """
    return x.dtype == dtype and not has_copy(x.tape, leaf)


def _with_features(context: Context, position: int, hidden_states: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return a layer's output with image features added, and the output that the decoder keeps until the next layer."""
    context.keep_hidden_states(hidden_states)
    number, tower = context.repetition.numbers[position], context.forward.tower
    if number >= len(context.image_features) or tower is None:
        return hidden_states, None
    return tower.after_layer(context, number, hidden_states), hidden_states


def _embeddings(context: Context, ids: Tensor) -> Tensor:
    """Look up the word embeddings.

    Under checkpointing they require a gradient, even if nothing before them is trained.
    """
    module = context.hooks.module("embeddings")
    module.before(ids)
    inputs_embeds = context.forward.embeddings(context, ids)
    if context.grads_inputs and not inputs_embeds.edge:
        inputs_embeds = context.input_requiring_grad(inputs_embeds)
    return module.after(inputs_embeds)


def mark(x: Tensor, label: str) -> Tensor:
    """Mark a point between layers in the forward pass, and in the backward pass when its gradient is computed."""
    x.tape.mark(f"{label} forward", x)
    if isinstance(x, LeafTensor):
        return x
    node = Mark(x.tape, _mark_backward, (x.edge,), label) if x.edge else None
    return Tensor(x.tape, x.storage, x.shape, x.dtype, node)


def _mark_backward(node: Node, grad: Tensor) -> tuple[Tensor]:
    """Mark the point.

    The gradient gets the same name between any two layers, so that copies of layers can be counted.
    """
    grad.tape.mark(f"{node.context} backward")
    grad.rename("layers: gradient of the hidden states")
    return (grad,)


def _layer(
    context: Context, position: int, hidden_states: Tensor, checkpointed: CheckpointedLayers | None = None
) -> Tensor:
    """Run the layer at a position, or record a checkpointed layer again that is like others."""
    check_budget()
    number = context.repetition.numbers[position]
    layer, decodes = context.layers[number], number >= context.model.encoder_layers
    unit = context.hooks.layer(layer)
    context.parameters.layer = number
    first_leaf = len(context.parameters.leaves)
    equal = None if checkpointed is None else checkpointed.equal_to(context, number, hidden_states)
    if equal is not None and equal.is_known(number):
        return unit.after(equal.record_again(context, unit.before(hidden_states)))
    modules = context.layer(layer, f"{context.model.stacks[decodes and len(context.model.stacks) > 1].name}.*.")
    own, given_masks = _shared(context, layer.kind.attention)
    tables = unit.cast(own)
    arguments: list[Any] = [given_masks, tables]
    hidden_states = unit.before(hidden_states)
    encoder = context.encoder_states, context.encoder_mask
    passed, biases = context.passed, context.position_biases

    def run(x: Tensor) -> Tensor:
        outer = context.position_tables, (context.mask, context.recurrent_mask)
        (context.mask, context.recurrent_mask), context.position_tables = arguments
        encoded = context.encoder_states, context.encoder_mask
        context.encoder_states, context.encoder_mask = encoder
        outer_passed, context.passed = context.passed, passed
        outer_biases, context.position_biases = context.position_biases, {**biases}
        context.attends_to_window = layer.kind.attention == "sliding_attention"
        try:
            return context.forward.layer(context, modules, unit.receive(x))
        finally:
            if not context.masks:  # a recomputation
                context.position_biases = outer_biases
            context.exit_layer(*outer)
            context.encoder_states, context.encoder_mask = encoded
            context.passed = outer_passed

    if not context.training.gradient_checkpointing or not context.tape.grad_enabled:
        return unit.after(run(hidden_states))
    types = _types(context, position) if tables is own else ()
    captured = [
        *(_shared(context, kind) for kind in types),
        encoder,
        passed,
        biases,
        context.num_items,
        context.passed_labels,
    ]
    if context.is_reentrant:
        offloads = context.prepared.offloads_inputs and number != len(context.layers) - 1
        weights = partial(getattr, context, "returned_attn_weights")
        saves_positions = bool(context.older & SAVED_ARGUMENTS)
        if context.forward.saves_mask or saves_positions:
            kept = -1 if saves_positions else None
            captured[: len(types)] = [tables[:kept], *(_shared(context, kind)[0][:kept] for kind in types)]
            return unit.after(
                checkpoint_reentrant(run, hidden_states, captured, arguments, unused=weights, offloads=offloads)
            )
        return unit.after(checkpoint_reentrant(run, hidden_states, captured, unused=weights, offloads=offloads))
    with_checkpoint = partial(checkpoint, run, captured=captured)
    if equal is None or tables is not own:
        return unit.after(with_checkpoint(hidden_states))
    return unit.after(equal.run(context, hidden_states, with_checkpoint, first_leaf))


def _with_saved_tables(context: Context, position: int, x: Tensor) -> Tensor:
    """Return a layer's input, with a reference to the tables that only the layers it represents save."""
    differ = context.forward.tables_for is not same_tables
    saves = differ and x.edge is not None and not context.training.gradient_checkpointing
    tables = _tables_of_represented(context, position) if saves else []
    if not tables:
        return x
    node = Mark(x.tape, _pass_through, (x.edge,))
    for table in tables:
        node.save(table)
    return Tensor(x.tape, x.storage, x.shape, x.dtype, node)


def _tables_of_represented(context: Context, position: int) -> list[Tensor]:
    """Return the tables of attention types that occur in the represented layers but not in this layer."""
    repetition, tables_for = context.repetition, context.forward.tables_for
    layer, *others = context.layers[repetition.numbers[position] : repetition.last_represented(position) + 1]
    own = layer.kind.attention
    types = masks.attention_types(others) - {own}
    kept = {id(table) for table in tables_for(context.position_tables, own)}
    tables = [table for attention in types for table in tables_for(context.position_tables, attention)[:2]]
    return [table for table in tables if id(table) not in kept]


def _pass_through(_: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad,)


def _types(context: Context, position: int) -> AbstractSet[MixerType]:
    """Return the attention types of the layers up to the last one that the layer at a position represents."""
    end = context.repetition.last_represented(position) + 1
    if end == len(context.layers):
        return context.model.attention_types
    return masks.attention_types(context.layers[:end])


def _shared(context: Context, attention: MixerType) -> tuple[tuple[Tensor, ...], masks.LayerMasks]:
    """Return the position tables and the masks that the layers of an attention type receive."""
    return context.forward.tables_for(context.position_tables, attention), masks.layer_masks(context, attention)
