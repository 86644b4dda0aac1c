"""Unsloth's autograd functions for LoRA: the MLP, the three input projections of attention, and its output projection.

Each saves its input. The MLP also saves gate and up. From 2026.10 on, a backward pass computes the products of the
outputs' gradients and B once, and keeps them until it ends, and a function also runs the dropout of updates.

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
    dequantized,
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
    """The modules of a function, and whether its backward pass keeps the products of gradients and B.

    `drops`: whether the input of each module's update is dropped out. The masks are saved.
    """

    modules: tuple[BoundModule, ...]
    keeps: bool
    drops: bool


def lora_qkv(x: Tensor, bound: Sequence[BoundModule], *, keeps: bool, drops: bool) -> list[Tensor]:
    """Return queries, keys and values."""
    node = _node(x, _Fused(tuple(bound), keeps, drops), _qkv_back, outputs=len(bound))
    outs, masks = _products(x, bound, drops=drops)
    for saved in (x, *masks):
        node.save(saved)
    return [Tensor(x.tape, out.storage, out.shape, out.dtype, node, index) for index, out in enumerate(outs)]


def lora_w(x: Tensor, bound: BoundModule, *, keeps: bool, drops: bool) -> Tensor:
    """Return the output of one projection."""
    node = _node(x, _Fused((bound,), keeps, drops), _w_back)
    (out,), masks = _products(x, [bound], drops=drops)
    for saved in (x, *masks):
        node.save(saved)
    return Tensor(x.tape, out.storage, out.shape, out.dtype, node)


def lora_mlp(x: Tensor, gate: BoundModule, up: BoundModule, down: BoundModule, *, keeps: bool, drops: bool) -> Tensor:
    """Return down(act(gate(x)) · up(x)). Its gradients overwrite the saved tensors."""
    node = _node(x, _Fused((gate, up, down), keeps, drops), _mlp_back)
    (e, g), masks = _products(x, [gate, up], drops=drops)
    h = x.tape.new(e.shape, x.dtype, "activated gate · up")
    (out,), h_products = _products(h, [down], drops=drops)
    for saved in (x, e, g, *masks, *h_products):
        node.save(saved)
    return Tensor(x.tape, out.storage, out.shape, out.dtype, node)


def _node(x: Tensor, fused: _Fused, rule: Rule, outputs: int = 1) -> Node:
    edges = [x.edge, *(module.added[name].edge for module in fused.modules for name in FACTORS)]
    arguments = x.tape, rule, tuple(edges), fused
    return Node(*arguments) if outputs == 1 else NodeWithOutputs(*arguments, outputs=outputs)


def _products(x: Tensor, bound: Sequence[BoundModule], *, drops: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Return the outputs of modules, and the masks of their dropout."""
    outer, outs, masks = x.tape.scope, [], []
    for module in bound:
        x.tape.scope = f"{module.name}: "
        if drops:
            dropped = x.tape.scratch(x.shape, x.dtype, "input, dropped out")
            masks.append(x.tape.new(x.shape, "bool", "dropout mask"))
        outs.append(product(x, module, in_buffer=not drops))
    x.tape.scope = outer
    if drops:
        del dropped
    return outs, masks


def _qkv_back(node: Node, grads: list[Tensor | None]) -> list[Any]:
    """Compute the gradients. The input's gradient overwrites the saved input."""
    (x, *_), fused = node.saved, node.context
    given = [(module, grad) for module, grad in zip(fused.modules, grads, strict=True) if grad is not None]
    casts = [cast_factors(module, x) for module, _ in given]
    factor_grads = [new_gradients(module, x) for module, _ in given]
    _multiply(given, x, fused)
    del casts
    return [_overwriting(x), *(grad for pair in factor_grads for grad in pair)]


def _w_back(node: Node, grad: Tensor) -> list[Any]:
    (x, *_), ((bound,), keeps, drops) = node.saved, node.context
    casts = cast_factors(bound, x)
    factor_grads = new_gradients(bound, x)
    kept = times_b(bound, x) if keeps else None
    dropped = _dropped_again(x) if drops else None
    fill_gradients(bound, x, kept)
    del dropped
    x_grad = x.tape.new(x.shape, x.dtype, "input: gradient")
    x_grad.viewed = True
    add_input_gradient(bound, grad, kept)
    if drops:
        _add_dropped(x)
    del casts, kept
    return [x_grad, *factor_grads]


def _mlp_back(node: Node, grad: Tensor) -> list[Any]:  # noqa: ARG001  only its shape is read, which is the input's
    """Compute the gradients.

    h, and the gradients of gate and up, overwrite the saved tensors and the gradient of h.
    """
    (x, e, g, *_), fused = node.saved, node.context
    gate, up, down = fused.modules
    casts = [cast_factors(module, x) for module in (gate, up, down)]
    dense = dequantized(x, down) if fused.drops else None
    h = x.tape.new(e.shape, x.dtype, "activated gate · up: gradient")
    del dense
    times_b(down, x)
    if fused.drops:
        _add_dropped(h)
    dropped = _dropped_again(h) if fused.drops else None
    factor_grads = {module.name: new_gradients(module, x) for module in (down, gate, up)}
    fill_gradients(down, h)
    _multiply([(up, g), (gate, e)], x, fused)
    del casts, h, dropped
    return [_overwriting(x), *(grad for module in (gate, up, down) for grad in factor_grads[module.name])]


def _multiply(given: Sequence[tuple[BoundModule, Tensor]], x: Tensor, fused: _Fused) -> None:
    """Compute the gradients of the factors of modules with the gradients of their outputs, and the input's gradient."""
    products = [times_b(module, x) if fused.keeps else None for module, _ in given]
    dropped = None
    for (module, _), kept in zip(given, products, strict=True):
        if fused.drops:
            dropped = _dropped_again(x)
        fill_gradients(module, x, kept)
    del dropped
    for (module, grad), kept in zip(given, products, strict=True):
        add_input_gradient(module, grad, kept)
        if fused.drops:
            _add_dropped(x)


def _dropped_again(x: Tensor) -> Tensor:
    """Return the input of an update, which the saved mask drops out again."""
    return x.tape.scratch(x.shape, x.dtype, "input, dropped out again")


def _add_dropped(x: Tensor) -> None:
    """Add an update's part of a gradient in place, after its mask."""
    parts = [x.tape.scratch(x.shape, x.dtype, f"gradient of an update{name}") for name in ("", ", dropped out")]
    del parts


def _overwriting(saved: Tensor) -> Tensor:
    """Return a gradient that overwrites a saved tensor."""
    out = Tensor(saved.tape, saved.storage, saved.shape, saved.dtype, None)
    out.viewed = True
    return out
