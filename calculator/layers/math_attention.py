"""SDPA's math kernel.

It runs for head sizes that the alignment of the other kernels excludes. Before PyTorch 2.14, it also runs for grouped
heads in float32 without a mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autograd import Node
from calculator.engine.in_place import add_
from calculator.engine.layout import by_heads, columns_of, mergeable
from calculator.engine.softmax import softmax_gradient

if TYPE_CHECKING:
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor

#: The names of a tensor that only this kernel allocates, and of one that it allocates on CUDA.
MASKED_SCORES, RETURNED_COPY = "masked scores", "probabilities, cast back"


def math_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    dropout: float = 0.0,
    grouped: bool = True,
    causal: bool = True,
) -> Tensor:
    """Run attention as separate C++ operations in float32: the mask, repeated heads, a safe softmax.

    On CUDA, the inputs in float32 stay alive, a boolean mask is converted to the dtype of the queries, and the
    probabilities are returned too.

    `grouped`: whether it repeats heads (enable_gqa) instead of broadcasting them in its products. `causal`: whether
    queries without a mask attend to no later key.

    Source: aten/src/ATen/native/transformers/attention.cpp, _scaled_dot_product_attention_math and _safe_softmax.
    """
    dtype, (batch, heads, length, _) = query.dtype, query.shape
    width = key.shape[2]
    query, key, value = (ops.cast(t, "float32", "input in float32") for t in (query, key, value))
    inputs = (query, key, value) if query.tape.cuda else ()  # the kernel's variables
    query = ops.scale(query, "query, scaled")
    if mask is not None:
        mask = _converted(mask, query, width, dtype if query.tape.cuda else query.dtype)
    elif causal:
        mask = _causal(query, width)
    if key.shape[1] != heads and grouped:
        key, value = _repeated(key, heads, "key, repeated"), _repeated(value, heads, "value, repeated")
    query_rows = by_heads(mergeable(query, "query, contiguous"))
    key_rows = _for_all(ops.scale(key, "key, scaled"), heads)
    attn = products.bmm(query_rows, columns_of(key_rows), (batch, heads, length, width), "scores")
    del query_rows, key_rows
    if mask is not None and mask.edge:
        attn = add_(attn, mask)
    attn = ops.dropout(_safe_softmax(attn), dropout, "probabilities, dropped")
    returned = attn.tape.scratch(attn.shape, dtype, RETURNED_COPY) if _returns_copy(attn, dtype) else None
    value_rows = by_heads(mergeable(_for_all(value, heads), "value, contiguous"))
    out = products.bmm(attn, value_rows, (*query.shape[:-1], value.shape[-1]), "attention output")
    out = ops.cast(out, dtype, "attention output, cast back")
    del inputs, returned
    return out


def _returns_copy(attn: Tensor, dtype: DType) -> bool:
    """Return whether the kernel returns probabilities in the queries' dtype too, which nothing uses."""
    return attn.tape.cuda and attn.dtype != dtype


def _for_all(x: Tensor, heads: int) -> Tensor:
    return x if x.shape[1] == heads else ops.expand(x, (x.shape[0], heads, *x.shape[2:]))


def _converted(mask: Tensor, query: Tensor, width: int, dtype: DType) -> Tensor:
    """Return the mask for each sequence of a batch, of 0 and minus infinity if it is boolean."""
    if mask.dtype != "bool":
        return mask
    return query.tape.new((query.shape[0], mask.shape[-2], width), dtype, "mask, additive")


def _causal(query: Tensor, width: int) -> Tensor:
    """Return the causal mask of 0 and minus infinity."""
    tape, length = query.tape, query.shape[2]
    ones = tape.new((length, width), "bool", "causal mask, ones")
    lower = tape.new((length, width), "bool", "causal mask")
    del ones
    additive = tape.new((length, width), query.dtype, "causal mask, additive")
    del lower
    return additive


def _repeated(x: Tensor, heads: int, name: str) -> Tensor:
    batch, count, length, head_dim = x.shape
    grouped = ops.view(x, (batch, count, 1, length, head_dim))
    expanded = ops.expand(grouped, (batch, count, heads // count, length, head_dim))
    return ops.view(ops.contiguous(expanded, name), (batch, heads, length, head_dim))


def _safe_softmax(x: Tensor) -> Tensor:
    """Apply a softmax whose fully masked rows are zero. The result is saved (derivatives.yaml, _safe_softmax).

    On CUDA, the zeros are written into the softmax itself.
    """
    tape = x.tape
    node = Node(tape, _softmax_back, (x.edge,)) if x.edge else None
    plain = tape.new(x.shape, x.dtype, "softmax", node)
    masked = tape.new(x.shape, "bool", MASKED_SCORES)
    rows = tape.new((*x.shape[:-1], 1), "bool", "masked rows")
    zero = tape.new((), x.dtype, "zero")
    out = plain if tape.cuda else tape.new(x.shape, x.dtype, "probabilities", node)
    del plain, masked, rows, zero
    if node is not None:
        node.save(out)
    return out


def _softmax_back(_: Node, grad: Tensor) -> tuple[Tensor]:
    return (softmax_gradient(grad, grad.dtype),)
