"""Experts in one call: rows sorted by expert, two grouped matrix products, and the sum of each token's experts.

Source: transformers/integrations/moe.py: grouped_mm_experts_forward, and batched_mm_experts_forward, to which
`generate` switches after the prompt. Where PyTorch has no grouped product, grouped_mm_fallback multiplies group by
group. Memory does not depend on which experts the router chose, because there are k rows for every token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import in_place, indexing
from calculator.engine import operations as ops
from calculator.engine.autograd import AccumulateGrad, Node
from calculator.engine.cuda_indexing import sort
from calculator.engine.module_calls import enter_with, leave, transposed
from calculator.engine.tape import Tensor
from calculator.layers.activation import activation

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.dimension import Shape
    from calculator.engine.tape import Tape
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.layers.expert_weights import Weights

    #: Takes gate and up in one tensor and the shape of either half, and returns their product.
    Gate = Callable[[Context, Tensor, Shape], Tensor]
    #: Takes rows, matrices, offsets, the number of output features and a name, and returns the rows' products.
    Product = Callable[[Tensor, Tensor, Tensor, int, str], Tensor]

#: The name of the numbers of the experts by which rows are sorted.
SORTED = "experts, sorted"


def ungated(context: Context, up: Tensor, half: Shape) -> Tensor:  # noqa: ARG001  the signature of gates
    """Return act(up), for experts without a gate."""
    return activation(context.config["hidden_act"])(up)


def gated(context: Context, gate_up: Tensor, half: Shape) -> Tensor:
    """Return act(gate) · up."""
    gate, up = ops.split(gate_up, [half, half])
    return ops.mul(activation(context.config["hidden_act"])(gate), up, "activated gate · up")


def experts(
    context: Context,
    bound: BoundModule,
    hidden_states: Tensor,
    indices: Tensor,
    weights: Tensor,
    gate: Gate = gated,
    *,
    is_transposed: bool = False,
) -> Tensor:
    """Run the chosen experts: (tokens, hidden_size) to the same shape. `indices` and `weights`: (tokens, k).

    `is_transposed` is whether the products read the weights themselves, not a transposed view.
    """
    hidden_states, weights = enter_with(bound.name, hidden_states, weights)
    out = _run(context, bound, hidden_states, (indices, weights), gate, is_transposed=is_transposed)
    return leave(bound.name, out)


def _run(
    context: Context,
    bound: BoundModule,
    hidden_states: Tensor,
    chosen: tuple[Tensor, Tensor],
    gate: Gate,
    *,
    is_transposed: bool,
) -> Tensor:
    indices, weights = chosen
    context.set_scope(f"{bound.name}: ")
    named, first = context.method.expert_weights(context, bound), _first_projection(bound)
    tape, count = hidden_states.tape, indices.shape[0] * indices.shape[1]
    # A method computes a weight when it is first read, so the width is that of the module's own parameter.
    half = (count, _other_dimension(bound.own["down_proj"], hidden_states.shape[1]))
    if context.length == 1:
        return _batched_mm_experts_forward(context, (named, first, half), hidden_states, weights, gate)
    expert_ids_g, perm = _sorted(tape, count)
    proj_in = indexing.index(hidden_states, tape.new((count,), "int64", "tokens in that order"), "tokens, selected")
    sample_weights_g = indexing.index(ops.view(weights, (count,)), perm, "weights, selected")
    counts = _counted(tape, bound.module.parameters[0].shape[0], count)
    unassigned = _mask_without_expert(context, count)
    weight = named[first]
    biases = _biases(named, first, expert_ids_g)
    proj_in = proj_in if unassigned is None else in_place.masked_fill_(proj_in, unassigned)
    view = _untransposed if is_transposed else _transposed
    product = indexing.grouped_mm if context.kernels.grouped_mm else indexing.grouped_mm_by_group
    proj_out = _product(product, view(weight, proj_in), first, proj_in, counts[-1], biases)
    proj_out = gate(context, proj_out, half)
    weight = named["down_proj"]
    biases = _biases(named, "down_proj", expert_ids_g)
    proj_out = _product(product, view(weight, proj_out), "down_proj", proj_out, counts[-1], biases)
    weighted_out = ops.mul(proj_out, ops.view(sample_weights_g, (count, 1)), "weighted")
    weighted_out = weighted_out if unassigned is None else in_place.masked_fill_(weighted_out, unassigned)
    inv_perm = tape.new((count,), "int64", "order, inverted")
    tape.new((count,), "int64", "counted")
    weighted_out = indexing.index(weighted_out, inv_perm, "weighted, in the tokens' order")
    final_hidden_states = indexing.sum_groups(weighted_out, hidden_states.shape, "sum of each token's experts")
    return ops.cast(final_hidden_states, hidden_states.dtype, "output")


def _batched_mm_experts_forward(
    context: Context, named_weights: tuple[Weights, str, Shape], hidden_states: Tensor, weights: Tensor, gate: Gate
) -> Tensor:
    """Run the experts with a copy of the matrices of its expert for every row.

    The first copy is freed after the second is made.
    """
    named, first, half = named_weights
    count, k = weights.shape[0] * weights.shape[1], weights.shape[1]
    x = hidden_states.tape.new((count, hidden_states.shape[1]), hidden_states.dtype, "tokens, repeated")
    selected = _selected(named, first, count)
    biases = _selected(named, f"{first}_bias", count)
    proj_out = _own_product(x, selected, named, first, biases)
    proj_out = gate(context, proj_out, half)
    selected = _selected(named, "down_proj", count)
    biases = _selected(named, "down_proj_bias", count)
    proj_out = _own_product(proj_out, selected, named, "down_proj", biases)
    weighted_out = ops.mul(proj_out, ops.view(weights, (count, 1)), "weighted")
    final_hidden_states = indexing.sum_groups(
        weighted_out, hidden_states.shape, f"sum of each token's {int(k)} experts"
    )
    del selected
    return ops.cast(final_hidden_states, hidden_states.dtype, "output")


def _first_projection(bound: BoundModule) -> str:
    """Return the name of the first projection."""
    return "gate_up_proj" if "gate_up_proj" in bound.own else "up_proj"


def _selected(weights: Weights, name: str, count: int) -> Tensor | None:
    """Select every row's matrix or biases. Return None if the experts have none."""
    stacked = weights.get(name)
    if stacked is None:
        return None
    return stacked.tape.scratch((count, *stacked.shape[1:]), stacked.dtype, f"{name}, selected")


def _own_product(x: Tensor, selected: Tensor | None, weights: Weights, name: str, biases: Tensor | None) -> Tensor:
    """Multiply every row with its own copy of a matrix (torch.bmm), and add its biases in place."""
    if x.tape.autocast is not None and selected is not None:
        x, selected = x.tape.autocast.cast_factors(x, selected, ("tokens", f"{name}, selected"))
    out = x.tape.new((x.shape[0], _other_dimension(weights[name], x.shape[1])), x.dtype, name)
    return out if biases is None else in_place.add_(out, biases)


def _sorted(tape: Tape, count: int) -> tuple[Tensor, Tensor]:
    """Return the expert of each row, sorted, and the order of the rows."""
    sorted_ids = tape.new((count,), "int64", SORTED), tape.new((count,), "int64", "order")
    if tape.cuda:
        sort(tape, count)
    return sorted_ids


def _counted(tape: Tape, among: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the experts' numbers as int32, the number of rows of each expert, and where its rows end."""
    return (
        tape.new((count,), "int32", "experts as int32"),
        tape.new((among,), "int32", "rows of each expert"),
        tape.new((among,), "int32", "offsets"),
    )


def _mask_without_expert(context: Context, count: int) -> Tensor | None:
    """Return the mask of the rows of no expert, which older releases fill with zeros."""
    if "rows_of_no_expert" not in context.older:
        return None
    return context.tape.new((count, 1), "bool", "rows of no expert")


def _biases(weights: Weights, name: str, expert_ids: Tensor) -> Tensor | None:
    """Select each row's bias. Return None if the experts have none."""
    biases = weights.get(f"{name}_bias")
    return None if biases is None else indexing.index(biases, expert_ids, f"{name}: biases, selected")


def _untransposed(weight: Tensor, x: Tensor) -> Tensor:  # noqa: ARG001  the signature of views
    return weight


def _transposed(weight: Tensor, x: Tensor) -> Tensor:
    """Return the transposed view of a weight that is multiplied with x.

    The view is a node of its own. If x is cast after it, the cast's gradient is computed before the weight's gradient
    is accumulated. Otherwise the node runs at once and is left out.
    """
    view = transposed(weight)
    if view.edge is None or x.edge is None or x.dtype == view.dtype or not isinstance(view.edge[0], AccumulateGrad):
        return view
    if view is weight:
        view = Tensor(weight.tape, weight.storage, weight.shape, weight.dtype, None)
    view.edge = (Node(weight.tape, _transpose_back, (weight.edge,)), 0, weight.shape, weight.dtype)
    return view


def _transpose_back(_: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad,)


def _product(product: Product, weight: Tensor, name: str, x: Tensor, offsets: Tensor, biases: Tensor | None) -> Tensor:
    """Multiply every row with its expert's matrix, and add the expert's bias in place."""
    x = ops.cast(x, weight.dtype, f"{name}: input in the weight's dtype")
    out = product(x, weight, offsets, _other_dimension(weight, x.shape[1]), name)
    return out if biases is None else in_place.add_(out, biases)


def _other_dimension(weight: Tensor, side: int) -> int:
    """Return the size of the other dimension of every expert's matrix."""
    rows, columns = weight.shape[1:]
    return rows if columns == side else columns
