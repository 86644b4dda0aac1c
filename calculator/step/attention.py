"""Attention kernels as their sources allocate.

query: (batch, heads, sequence, head_dim); key, value: (batch, key/value heads, sequence, head_dim).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.step import operations as ops
from calculator.step.autograd import Node

if TYPE_CHECKING:
    from calculator.step.context import Context
    from calculator.step.tape import Tensor


def _multiple(size: int, of: int) -> int:
    return (size + of - 1) // of * of


def flash(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """FlashAttention 2; grouped key/value heads are not repeated.

    Source: aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp, mha_fwd and mha_bwd.
    """
    tape = query.tape
    inputs = (query, key, value)
    node = Node(tape, _flash_back, inputs) if any(t.node for t in inputs) else None
    if node is not None:
        for tensor in inputs:
            node.save(tensor)
    out = tape.new(query.shape, query.dtype, "attention output", node=node)
    batch, heads, length, _ = query.shape
    kept = [out, tape.new((batch, heads, length), "float32", "attention: logsumexp")]
    kept += [tape.new((2,), "int64", "attention: rng state"), tape.new((1,), "int64", "attention: rng offset")]
    if node is not None:
        for tensor in kept:
            node.save(tensor)
    return out


def _flash_back(node: Node, grad: Tensor) -> list[Tensor | None]:
    query, key, value = node.saved[:3]
    tape = grad.tape
    batch, heads, length, head_dim = query.shape
    rows = _multiple(length, 128)
    width = _multiple(head_dim, 32 if head_dim <= 128 else 64)
    grads: list[Tensor | None] = [
        tape.new(t.shape, t.dtype, f"{name}: gradient")
        for t, name in ((query, "query"), (key, "key"), (value, "value"))
    ]
    scratch = [
        tape.scratch((batch, heads, rows), "float32", "flash attention: softmax_d"),
        tape.scratch((batch, rows, heads, width), "float32", "flash attention: dq_accum"),
    ]
    if key.shape[1] != heads:
        scratch += [
            tape.scratch((batch, key.shape[2], heads, head_dim), key.dtype, f"flash attention: {name}, expanded")
            for name in ("dk", "dv")
        ]
    del scratch
    return grads


def attend(context: Context, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The attention that the plan chooses, its output as (batch, sequence, heads · head_dim)."""
    out = flash(query, key, value)
    batch, count, length, head_dim = query.shape
    return ops.view(out, (batch, length, count * head_dim))
