"""Liger's gated MLPs. One kernel computes act(gate) · up, saves gate and up, and writes their gradients over them.

Source: liger_kernel/ops/swiglu.py and geglu.py of Liger 0.8.5; liger_kernel/transformers/swiglu.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.engine.module_calls import enter, leave
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def gated(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    """Return down(act(gate(x)) · up(x))."""
    product = _gated(context, modules, modules["mlp.gate_proj"](x), modules["mlp.up_proj"](x))
    return modules["mlp.down_proj"](product)


def fused_gated(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    """Return down(act(gate(x)) · up(x)), where gate and up are the halves of one projection.

    The halves are copied to be contiguous.
    """
    whole = modules["mlp.gate_up_proj"](x)
    context.set_scope(f"{modules.prefix}mlp: ")
    half = (*whole.shape[:-1], modules["mlp.down_proj"].module.in_features)
    gate, up = ops.split(whole, [half, half])
    product = _gated(context, modules, ops.contiguous(gate, "gate, contiguous"), ops.contiguous(up, "up, contiguous"))
    return modules["mlp.down_proj"](product)


def relu_squared(context: Context, modules: LayerModules, x: Tensor) -> Tensor:  # noqa: ARG001  the signature of such hooks
    """Return relu(x)², which saves its input.

    Source: liger_kernel/ops/relu_squared.py of Liger 0.8.5.
    """
    path = f"{x.tape.scope}act_fn"
    return leave(path, ops.unary(enter(path, x), "relu(x)²", saves="input"))


def _gated(context: Context, modules: LayerModules, gate: Tensor, up: Tensor) -> Tensor:
    context.set_scope(f"{modules.prefix}mlp: ")
    node = None
    if gate.edge or up.edge:
        node = Node(gate.tape, _gated_back, (gate.edge, up.edge))
        node.save(gate)
        node.save(up)
    return gate.tape.new(gate.shape, gate.dtype, "activated gate · up", node)


def _gated_back(node: Node, grad: Tensor) -> list[Tensor | None]:  # noqa: ARG001  the gradients overwrite what was saved
    return [_overwriting(saved) if edge else None for saved, edge in zip(node.saved, node.edges, strict=True)]


def _overwriting(saved: Tensor) -> Tensor:
    """Return a gradient that overwrites a saved tensor."""
    out = Tensor(saved.tape, saved.storage, saved.shape, saved.dtype, None)
    out.viewed = True
    return out
