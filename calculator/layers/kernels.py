"""Fused attention kernels, with the allocations of their sources."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import elements
from calculator.engine.autograd import Node
from calculator.engine.layout import by_heads
from calculator.engine.offloading import OffloadedActivations
from calculator.engine.tape import StridedTensor, Tensor
from calculator.layers.efficient_kernels import (
    Kernel,
    accumulates_output,
    backward_kernel,
    computes_delta,
    workspace_bytes,
)
from calculator.layers.split_kv import accumulators

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.engine.tape import Edge, Tape


def _multiple(size: int, factor: int) -> int:
    return -(-size // factor) * factor


class Samples(NamedTuple):
    """The samples of a flattened batch: their number, and the tensor with the position of each one's first token."""

    number: int
    bounds: Tensor


#: The shapes and names of flash's state.
_FLASH_STATE: tuple[tuple[Shape, str], ...] = (((2,), "attention: rng state"), ((1,), "attention: rng offset"))


def flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    samples: Samples | None = None,
    *,
    as_queries: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Run FlashAttention 2. Grouped key/value heads are not repeated. It attends within each of `samples`.

    `as_queries`: whether the queries are contiguous by heads, and the output is too. Its backward pass copies it then.
    On CUDA, few blocks of queries split the keys too.

    Source: aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp, mha_fwd and mha_bwd; of Dao-AILab's
    flash-attention, csrc/flash_attn/flash_api.cpp, mha_varlen_bwd, and flash_attn_interface.py, FlashAttnVarlenFunc.
    """
    tape = query.tape
    edges = (query.edge, key.edge, value.edge)
    back = _flash_back_by_heads if as_queries else _flash_back
    node = Node(tape, back, edges, samples and samples.number) if any(edges) else None
    if node is not None:
        _save_inputs(node, key, query, value)
    out = tape.new(query.shape, query.dtype, "attention output", node)
    kept = [tape.new(query.shape[:3], "float32", "attention: logsumexp"), out if node is None else by_heads(out)]
    drops = tape.cuda and _drops(tape, dropout)
    splits = accumulators(query, key, _padded_width(query)) if tape.cuda and not drops and samples is None else []
    kept += [_state(tape, shape, name, on_gpu=tape.flash_state_on_gpu) for shape, name in _FLASH_STATE]
    if drops:
        kept[-2] = _state(tape, *_FLASH_STATE[0], on_gpu=tape.flash_state_on_gpu)
    del splits
    if node is not None:
        for tensor in (*kept, *((samples.bounds,) if samples is not None else ())):
            node.save(tensor)
    return out


def _drops(tape: Tape, dropout: float) -> bool:
    return bool(dropout) and tape.trains


def _state(tape: Tape, shape: Shape, name: str, *, on_gpu: bool) -> Tensor:
    """Return a part of the state of a kernel's dropout, on the GPU or on the CPU."""
    return tape.new(shape, "int64", name) if on_gpu else Tensor(tape, None, shape, "int64", None)


def _save_inputs(node: Node, *inputs: Tensor) -> None:
    """Save the inputs in the order of their names (tools/autograd/gen_variable_type.py)."""
    for tensor in inputs:
        node.save(by_heads(tensor))


def _padded_width(query: Tensor) -> int:
    """Return the size of a head in a kernel's float32 results. Figures on CUDA count that of PyTorch before 2.7."""
    tape, head_dim = query.tape, query.shape[-1]
    is_older = tape.cuda and not tape.flash_state_on_gpu
    return _multiple(head_dim, 32 if head_dim <= 128 or is_older else 64)


def _flash_back_by_heads(node: Node, grad: Tensor) -> list[Tensor | None]:
    """Run the backward pass of an output that is contiguous by heads.

    Source: aten/src/ATen/native/transformers/cuda/attention_backward.cu, _flash_attention_backward (contiguous_out).
    """
    return _flash_back(node, grad, output_by_heads=True)


def _flash_back(node: Node, grad: Tensor, *, output_by_heads: bool = False) -> list[Tensor | None]:
    key, query, value = node.saved[:3]
    tape = grad.tape
    batch, heads, length, head_dim = query.shape
    rows = _multiple(length, 128) if node.context is None else length + 128 * node.context
    width = _padded_width(query)
    grads = [_empty_like(query, "query"), _empty_like(key, "key"), _empty_like(value, "value")]
    grad_by_heads = grad.merged and heads > 1
    scratch = [tape.scratch(grad.shape, grad.dtype, "flash attention: gradient by rows")] if grad_by_heads else []
    if (output_by_heads or isinstance(node.hooks, OffloadedActivations)) and heads > 1:
        # A copy of the output to the host is contiguous by heads.
        scratch.append(tape.scratch(query.shape, query.dtype, "flash attention: output by rows"))
    scratch += [
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


def _empty_like(tensor: Tensor, name: str) -> Tensor | None:
    out = tensor.tape.new(tensor.shape, tensor.dtype, f"{name}: gradient")
    out.merged = tensor.merged
    return out


def efficient(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *, dropout: float = 0.0) -> Tensor:
    """Run the memory-efficient kernel. A mask is an additive bias.

    The random seed and offset are saved, on the CPU if the kernel drops weights. The logsumexp is only allocated if
    there is a backward pass. A bias that needs a gradient has an edge.

    Source: aten/src/ATen/native/transformers/cuda/attention.cu and attention_backward.cu,
    mem_eff_attention/kernel_forward.h (kAlignLSE).
    """
    tape = query.tape
    trained = () if bias is None or bias.edge is None else (bias,)
    edges = tuple([argument.edge for argument in (query, key, value, *trained)])
    node = Node(tape, _efficient_back, edges, tape.cuda and _drops(tape, dropout)) if any(edges) else None
    if node is not None:
        tape.reads_graph = True
        if bias is not None:
            node.save(_for_every_head(bias, query))
        _save_inputs(node, key, query, value)
    batch, heads, length, _ = query.shape
    on_gpu = tape.efficient_state_on_gpu and not (dropout and tape.trains)
    state = [_state(tape, (), name, on_gpu=on_gpu) for name in ("attention: rng seed", "attention: rng offset")]
    out = tape.new((*query.shape[:-1], value.shape[-1]), query.dtype, "attention output", node)
    summed = _multiple(length, 32) if node is not None else 0
    kept = [tape.new((batch, heads, summed), "float32", "attention: logsumexp"), by_heads(out), *state]
    if accumulates_output(value):
        tape.scratch(out.shape, "float32", "memory-efficient attention: output in float32")
    if node is not None:
        for tensor in kept:
            node.save(tensor)
    return out


def _for_every_head(bias: Tensor, query: Tensor) -> Tensor:
    """Return the bias as the kernel saves it: expanded to every head. That of a single head can be a slice."""
    shape = (*query.shape[:3], bias.shape[-1])
    assert bias.storage is not None
    is_slice = shape[1] == 1 and elements(query.tape.rows[bias.storage.row][1]) > elements(shape)
    return (StridedTensor if is_slice else Tensor)(bias.tape, bias.storage, shape, bias.dtype, None)


def _efficient_back(node: Node, grad: Tensor) -> list[Tensor | None]:
    key, query, value = node.saved[-7:-4]
    tape = grad.tape
    batch, heads, *_ = query.shape
    grouped, kernel = key.shape[1] != heads, backward_kernel(query, value, drops=node.context)
    query_grad = _empty_like(query, "query")
    if grouped and tape.cuda:
        narrow = [_empty_like(key, "key"), _empty_like(value, "value")]
    wide = [
        tape.new((batch, heads, *t.shape[2:]), t.dtype, f"{name}: gradient")
        for t, name in ((key, "key"), (value, "value"))
    ]
    trained_bias = [_gradient_of_bias(node.edges[3], query, key)] if len(node.edges) > 3 else []
    delta = _delta(query, value, kernel)
    size = workspace_bytes(query, key, value, kernel)
    workspace = tape.scratch((size,), "uint8", "memory-efficient attention: workspace")
    del delta, workspace
    if not grouped:
        return [query_grad, *wide, *trained_bias]
    if tape.cuda:
        return [query_grad, *narrow, *trained_bias]
    key_grad = _empty_like(key, "key")
    wide[0] = value
    value_grad = _empty_like(value, "value")
    return [query_grad, key_grad, value_grad, *trained_bias]


def _delta(query: Tensor, value: Tensor, kernel: Kernel) -> Tensor:
    """Return the sums of the output times its gradient: the kernel's, or those of operations before it."""
    tape, (batch, heads, length, _) = query.tape, query.shape
    if not computes_delta(query, kernel):
        return _summed_delta(query, value)
    return tape.scratch((batch, heads, length), "float32", "memory-efficient attention: delta")


def _summed_delta(query: Tensor, value: Tensor) -> Tensor:
    """Compute delta before the kernel. On CUDA, the expression's temporary tensors are freed at its end."""
    tape, (batch, heads, length, _) = query.tape, query.shape
    whole = (batch, heads, length, value.shape[-1])
    casts = [
        tape.scratch(whole, "float32", f"memory-efficient attention: {name} in float32")
        for name in ("gradient", "output")
        if query.dtype != "float32"
    ]
    product = [tape.scratch(whole, "float32", "memory-efficient attention: output · gradient")]
    delta = tape.scratch((batch, length, heads), "float32", "memory-efficient attention: delta, summed")
    if not tape.cuda:
        product.clear()
    delta = tape.scratch((batch, heads, length), "float32", "memory-efficient attention: delta")
    del product, casts
    return delta


def _gradient_of_bias(edge: Edge | None, query: Tensor, key: Tensor) -> Tensor:
    """Return the gradient of a bias for every sequence and head.

    It is a slice of rows whose lengths are a multiple of 16.
    """
    assert edge is not None
    shape, width = (*query.shape[:3], key.shape[2]), _multiple(key.shape[2], 16)
    whole = query.tape.new((*shape[:3], width), edge[3], "attention bias: gradient")
    grad = Tensor(query.tape, whole.storage, shape, edge[3], None)
    grad.viewed = width != shape[3]
    return grad
