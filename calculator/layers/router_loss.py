"""The auxiliary loss of routers from the logits of every layer: how unevenly tokens are distributed over experts.

Source: load_balancing_loss_func, which is the same in each family's file. transformers/utils/output_capturing.py keeps
the logits while the forward pass runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import in_place, indexing
from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.engine.repetition import NOT_RUN
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Shape
    from calculator.layers.context import Context


def add_router_loss(context: Context, loss: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Add the routers' loss in place, if the model has one and its head has not added it. The model returns it too."""
    aux_loss = router_loss(context)
    if aux_loss is None:
        return loss, []
    return in_place.add_(loss, ops.scale(aux_loss, "times the coefficient")), [aux_loss]


def router_loss(context: Context) -> Tensor | None:
    """Return the routers' loss, which needs no labels, or None if the model computes none."""
    if not context.model.adds_router_loss or context.router_logits is None:
        return None
    context.set_scope("router loss: ")
    return _load_balancing(context)


def _load_balancing(context: Context) -> Tensor:
    """Sum each expert's share of the tokens times its share of the probability, and scale."""
    tape, shape = context.tape, (context.config["num_experts"],)
    tokens_per_expert_sum = tape.new(shape, "float32", "tokens of each expert")
    router_prob_sum = tape.new(shape, "float32", "probability of each expert")
    flat_mask = _flat_mask(context)
    total_rows: Tensor | None = None
    for layer_gate in _logits_by_layer(context):
        routing_weights = ops.softmax(layer_gate)
        _, selected_experts = indexing.top_k(routing_weights, context.config["num_experts_per_tok"], "probabilities")
        tokens_per_expert_sum = _tokens_per_expert(tokens_per_expert_sum, selected_experts, flat_mask)
        in_float32 = ops.cast(routing_weights, "float32", "probabilities in float32")
        if flat_mask is not None:
            in_float32 = ops.mul(in_float32, ops.view(flat_mask, (*flat_mask.shape, 1)), "probabilities of no padding")
        layer_sum = ops.sum_over(in_float32, shape, "probability of each expert in a layer")
        del in_float32
        router_prob_sum = ops.add(router_prob_sum, layer_sum, "probability of each expert")
        del layer_sum
        total_rows = None if flat_mask is None else _rows(total_rows, flat_mask)
    tokens_per_expert = ops.scale(tokens_per_expert_sum, "share of the tokens")
    router_prob_per_expert = _divided(router_prob_sum, total_rows, "share of the probability")
    overall_loss = ops.sum_over(
        ops.mul(tokens_per_expert, ops.view(router_prob_per_expert, (1, *shape)), "product of both shares"),
        (),
        "overall loss",
    )
    return ops.scale(overall_loss, "overall loss, scaled")


def _flat_mask(context: Context) -> Tensor | None:
    """Return the padding mask in float32. With virtual tokens it is a view, since it is float32 already."""
    if not context.training.passes_mask:
        return None
    shape: Shape = (context.batch * context.length,)
    if context.method.virtual_tokens and context.padding_mask is not None:
        return ops.view(context.padding_mask, shape)
    return context.tape.new(shape, "float32", "mask in float32")


def _tokens_per_expert(total_so_far: Tensor, chosen: Tensor, mask: Tensor | None) -> Tensor:
    """Add the tokens of each expert in this layer to those of earlier layers."""
    tape, flat = total_so_far.tape, (chosen.shape[0] * chosen.shape[1],)
    if mask is None:
        as_int32 = tape.new(flat, "int32", "experts as int32")
        layer_tokens = tape.new(total_so_far.shape, "int32", "tokens of each expert in a layer")
        del as_int32
    else:
        layer_tokens = tape.new(total_so_far.shape, "float32", "tokens of each expert in a layer")
        tape.new(flat, "float32", "mask, once for each choice")
    return ops.add(total_so_far, layer_tokens, "tokens of each expert")


def _rows(total_so_far: Tensor | None, mask: Tensor) -> Tensor:
    """Add the tokens of this layer that are not padding to those of earlier layers."""
    layer_tokens = ops.sum_over(mask, (), "tokens of a layer")
    return ops.shift(layer_tokens, "tokens") if total_so_far is None else ops.add(total_so_far, layer_tokens, "tokens")


def _divided(x: Tensor, total: Tensor | None, name: str) -> Tensor:
    """Divide. A divisor that is a tensor is saved for the backward pass."""
    return ops.scale(x, name) if total is None else ops.mul(x, total, name)


def _logits_by_layer(context: Context) -> Iterator[Tensor]:
    """Yield the logits of each layer with a router.

    Those of layers that are not interpreted are like the last one's.
    """
    recorded = context.router_logits or []
    run, logits = set(context.repetition.numbers), iter(recorded)
    for number, layer in enumerate(context.layers):
        if layer.kind.mlp == "sparse":
            yield next(logits) if number in run else _skipped_logits(context, recorded[-1])


def _skipped_logits(context: Context, logits: Tensor) -> Tensor:
    """Return the logits of a layer that is not interpreted. The copies of the interpreted layer count their bytes."""
    node = Node(context.tape, _keep_gradient, (), context) if logits.edge else None
    return Tensor(context.tape, None, logits.shape, logits.dtype, node)


def _keep_gradient(node: Node, grad: Tensor) -> tuple[()]:
    """Keep a gradient alive, because copies of the interpreted layer count its end.

    In an unrolled run, each layer has its own.
    """
    context = node.context
    if context.repetition.copies:
        context.skipped_router_gradients.append(grad)
    elif grad.storage is not None:
        name, shape, dtype, component, size = grad.tape.rows[grad.storage.row]
        grad.tape.rows[grad.storage.row] = (f"{name}, {NOT_RUN}", shape, dtype, component, size)
    return ()
