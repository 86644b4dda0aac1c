"""SDPA's math kernel, which PyTorch before 2.14 takes for float32 inputs with grouped heads and no mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.step import operations as ops
from calculator.step.autograd import Node

if TYPE_CHECKING:
    from calculator.step.tape import Tensor


def math_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention written out in C++, with a causal mask, grouped heads repeated, and a softmax safe for masked rows.

    Source: aten/src/ATen/native/transformers/attention.cpp, _scaled_dot_product_attention_math and _safe_softmax.
    """
    tape, (batch, heads, length, _) = query.tape, query.shape
    width = key.shape[2]
    query = ops.scale(query, "query, scaled")
    ones = tape.new((length, width), "bool", "causal mask, ones")
    lower = tape.new((length, width), "bool", "causal mask")
    del ones
    mask = tape.new((length, width), query.dtype, "causal mask, additive")
    del lower
    key, value = _repeated(key, heads, "key, repeated"), _repeated(value, heads, "value, repeated")
    scores = (batch, heads, length, width)
    query_rows = _mergeable(query, "query, contiguous")
    attn = ops.batched(query_rows, ops.scale(key, "key, scaled"), scores, "scores")
    del query_rows
    attn = _safe_softmax(attn)
    del mask
    return ops.batched(attn, value, (*query.shape[:-1], value.shape[-1]), "attention output")


def _repeated(x: Tensor, heads: int, name: str) -> Tensor:
    batch, count, length, head_dim = x.shape
    grouped = ops.view(x, (batch, count, 1, length, head_dim))
    wide = ops.expand(grouped, (batch, count, heads // count, length, head_dim))
    return ops.view(ops.contiguous(wide, name), (batch, heads, length, head_dim))


def _mergeable(x: Tensor, name: str) -> Tensor:
    return x if x.merged or x.shape[0] == 1 else ops.contiguous(x, name)


def _safe_softmax(x: Tensor) -> Tensor:
    """A softmax whose fully masked rows are zero; it saves its result (derivatives.yaml, _safe_softmax)."""
    tape = x.tape
    node = Node(tape, _softmax_back, (x,)) if x.node else None
    plain = tape.new(x.shape, x.dtype, "softmax")
    masked = tape.new(x.shape, "bool", "masked scores")
    rows = tape.new((*x.shape[:-1], 1), "bool", "masked rows")
    zero = tape.new((), x.dtype, "zero")
    out = tape.new(x.shape, x.dtype, "probabilities", node=node)
    del plain, masked, rows, zero
    if node is not None:
        node.save(out)
    return out


def _softmax_back(_: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(grad.shape, grad.dtype, "softmax: gradient"),)
