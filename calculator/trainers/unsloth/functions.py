"""Unsloth's autograd functions for LoRA: the MLP, the three input projections of attention, and its output projection.

Each saves its input. The MLP also saves gate and up. From 2026.10 on, a backward pass computes the products of the
outputs' gradients and B once, and keeps them until it ends.

Source: unsloth/kernels/fast_lora.py, LoRA_MLP, LoRA_QKV and LoRA_W.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from calculator.engine.autograd import Node, NodeWithOutputs
from calculator.engine.tape import Tensor
from calculator.trainers.unsloth.products import (
    FACTORS,
    add_input_gradient,
    cast_factors,
    fill_gradients,
    new_gradients,
    product,
    times_b,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.engine.autograd import Rule
    from calculator.layers.bound_module import BoundModule


class _Fused(NamedTuple):
    """The modules of a function, and whether its backward pass keeps the products of gradients and B."""

    modules: tuple[BoundModule, ...]
    keeps: bool


def lora_qkv(x: Tensor, bound: Sequence[BoundModule], *, keeps: bool) -> list[Tensor]:
    """Return queries, keys and values."""
    node = _node(x, _Fused(tuple(bound), keeps), _qkv_back, outputs=len(bound))
    node.save(x)
    outs = [_named_product(x, module) for module in bound]
    return [Tensor(x.tape, out.storage, out.shape, out.dtype, node, index) for index, out in enumerate(outs)]


def lora_w(x: Tensor, bound: BoundModule, *, keeps: bool) -> Tensor:
    """Return the output of one projection."""
    node = _node(x, _Fused((bound,), keeps), _w_back)
    node.save(x)
    out = _named_product(x, bound)
    return Tensor(x.tape, out.storage, out.shape, out.dtype, node)


def lora_mlp(x: Tensor, gate: BoundModule, up: BoundModule, down: BoundModule, *, keeps: bool) -> Tensor:
    """Return down(act(gate(x)) · up(x)). Its gradients overwrite the saved tensors."""
    node = _node(x, _Fused((gate, up, down), keeps), _mlp_back)
    e, g = _named_product(x, gate), _named_product(x, up)
    h = x.tape.new(e.shape, x.dtype, "activated gate · up")
    out = _named_product(h, down)
    for saved in (x, e, g):
        node.save(saved)
    return Tensor(x.tape, out.storage, out.shape, out.dtype, node)


def _node(x: Tensor, fused: _Fused, rule: Rule, outputs: int = 1) -> Node:
    edges = [x.edge, *(module.added[name].edge for module in fused.modules for name in FACTORS)]
    arguments = x.tape, rule, tuple(edges), fused
    return Node(*arguments) if outputs == 1 else NodeWithOutputs(*arguments, outputs=outputs)


def _named_product(x: Tensor, bound: BoundModule) -> Tensor:
    outer, x.tape.scope = x.tape.scope, f"{bound.name}: "
    out = product(x, bound)
    x.tape.scope = outer
    return out


def _qkv_back(node: Node, grads: list[Tensor | None]) -> list[Any]:
    """Compute the gradients. The input's gradient overwrites the saved input."""
    (x,), fused = node.saved, node.context
    given = [(module, grad) for module, grad in zip(fused.modules, grads, strict=True) if grad is not None]
    casts = [cast_factors(module, x) for module, _ in given]
    of_factors = [new_gradients(module, x) for module, _ in given]
    _multiply(given, x, keeps=fused.keeps)
    del casts
    return [_overwriting(x), *(grad for pair in of_factors for grad in pair)]


def _w_back(node: Node, grad: Tensor) -> list[Any]:
    (x,), ((bound,), keeps) = node.saved, node.context
    casts = cast_factors(bound, x)
    of_factors = new_gradients(bound, x)
    kept = times_b(bound, x) if keeps else None
    fill_gradients(bound, x, kept)
    x_grad = x.tape.new(x.shape, x.dtype, "input: gradient")
    x_grad.viewed = True
    add_input_gradient(bound, grad, kept)
    del casts, kept
    return [x_grad, *of_factors]


def _mlp_back(node: Node, grad: Tensor) -> list[Any]:  # noqa: ARG001  only its shape is read, which is the input's
    """Compute the gradients.

    h, and the gradients of gate and up, overwrite the saved tensors and the gradient of h.
    """
    (x, e, g), ((gate, up, down), keeps) = node.saved, node.context
    casts = [cast_factors(module, x) for module in (gate, up, down)]
    h = x.tape.new(e.shape, x.dtype, "activated gate · up: gradient")
    times_b(down, x)
    of_factors = {module.name: new_gradients(module, x) for module in (down, gate, up)}
    fill_gradients(down, h)
    _multiply([(up, g), (gate, e)], x, keeps=keeps)
    del casts, h
    return [_overwriting(x), *(grad for module in (gate, up, down) for grad in of_factors[module.name])]


def _multiply(given: Sequence[tuple[BoundModule, Tensor]], x: Tensor, *, keeps: bool) -> None:
    """Compute the gradients of the factors of modules with the gradients of their outputs, and the input's gradient."""
    products = [times_b(module, x) if keeps else None for module, _ in given]
    for (module, _), kept in zip(given, products, strict=True):
        fill_gradients(module, x, kept)
    for (module, grad), kept in zip(given, products, strict=True):
        add_input_gradient(module, grad, kept)


def _overwriting(saved: Tensor) -> Tensor:
    """Return a gradient that overwrites a saved tensor."""
    out = Tensor(saved.tape, saved.storage, saved.shape, saved.dtype, None)
    out.viewed = True
    return out
