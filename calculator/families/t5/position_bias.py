"""T5's relative position biases, and the masks that attention makes of them.

Source: transformers/models/t5/modeling_t5.py, T5Attention.compute_bias; integrations/sdpa_attention.py,
create_position_bias_mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context


def compute_bias(context: Context, table: BoundModule, length: int, width: int) -> Tensor:
    """Look up the bias of every pair of positions: (1, heads, length, width), a view of (length, width, heads)."""
    tape = context.tape
    context.set_scope(f"{table.name}: ")
    counted = tape.new((length,), "int64", "positions")
    queries = tape.new((length, 1), "int64", "positions of queries")
    del counted
    keys = tape.new((width,), "int64", "positions of keys")
    relative = tape.new((length, width), "int64", "relative positions")
    buckets = _buckets(context, (length, width))
    heads = table.module.out_features
    values = products.embedding(buckets, table.own["weight"], heads, "position bias")
    del queries, keys, relative
    return ops.view(values, (1, heads, length, width))


def _buckets(context: Context, shape: Shape) -> Tensor:
    """Return the bucket of every relative position."""
    tape = context.tape
    if context.encoder_states is not None:
        zeros = tape.new(shape, "int64", "zeros")
        least = tape.new(shape, "int64", "positions before")
        del zeros
        distance = tape.new(shape, "int64", "distances")
        del least
        buckets = None
    else:
        after = tape.new(shape, "bool", "positions after")
        number = tape.new(shape, "int64", "positions after, as numbers")
        del after
        product = tape.new(shape, "int64", "first bucket")
        del number
        buckets = tape.new(shape, "int64", "buckets")
        del product
        distance = tape.new(shape, "int64", "distances")
    is_small = tape.new(shape, "bool", "small distances")
    large = tape.new(shape, "float32", "distances as float32")
    for name in ("distances, divided", "logarithms", "logarithms, divided", "logarithms, scaled"):
        large = tape.new(shape, "float32", name)
    large = tape.new(shape, "int64", "buckets of large distances")
    large = tape.new(shape, "int64", "buckets of large distances, shifted")
    most = tape.new(shape, "int64", "last bucket")
    large = tape.new(shape, "int64", "buckets of large distances, bounded")
    del most
    chosen = tape.new(shape, "int64", "bucket of each distance")
    if buckets is None:
        buckets = tape.new(shape, "int64", "buckets")
    del distance, is_small, large, chosen
    return buckets


def position_bias_mask(context: Context, bias: Tensor, mask: Tensor | None, *, causal: bool, permuted: bool) -> Tensor:
    """Return the additive mask of one layer: the bias where attention is allowed. A permuted bias is copied.

    The bias of a single head, or of a single pair of positions, has the layout of a bias that is not permuted.
    """
    _, heads, rows, columns = bias.shape
    permuted = permuted and heads > 1 and rows * columns > 1
    if mask is not None:
        masked = ops.where(mask, bias, (mask.shape[0], heads, rows, columns), "position bias, masked")
        return ops.contiguous(masked, "position bias, contiguous") if permuted else masked
    if not causal:
        return ops.contiguous(bias, "position bias, contiguous") if permuted else bias
    allowed = context.tape.new((rows, columns), "bool", "causal")
    masked = ops.where(allowed, bias, bias.shape, "position bias, masked")
    del allowed
    return ops.contiguous(masked, "position bias, contiguous") if permuted else masked
