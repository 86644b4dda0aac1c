"""A linear layer with the updates of every adapter (peft.tuners.xlora.layer.XLoraLinearLayer)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import refusal
from calculator.engine import indexing, products
from calculator.engine import operations as ops
from calculator.methods.targeted.adapted_linear import Output, dropped

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.methods.xlora.method import XLoRA


def name_of(which: str, number: int) -> str:
    """Return the name of an adapter's A or B within its module."""
    return f"lora_{which}.{number}.weight"


def forward(method: XLoRA, context: Context, bound: BoundModule, x: Tensor) -> Tensor:
    """Return the output of the frozen module plus each adapter's update of the scaled input."""
    dtype = x.dtype
    scalings = _chosen(method, _layer_scalings(context, bound, x))
    output = Output(bound, bound.base(x))
    x = ops.cast(x, bound.added[name_of("A", 0)].dtype, "input in the adapters' dtype")
    for number in range(len(method.adapters)):
        adapter_scalings = ops.narrow(scalings, scalings.shape[:2])
        x_mod = ops.mul(x, ops.view(adapter_scalings, (*adapter_scalings.shape, 1)), "input, scaled")
        output.add_(ops.scale(ops.scale(_update(method, bound, number, x_mod), "update, scaled"), "update, weighted"))
    return ops.cast(output.tensor, dtype, "output")


def _update(method: XLoRA, bound: BoundModule, number: int, x: Tensor) -> Tensor:
    a, b = bound.added[name_of("A", number)], bound.added[name_of("B", number)]
    inner = products.matmul(dropped(x, method.lora_dropout), a, None, a.shape[0], "A·x")
    return products.matmul(inner, b, None, b.shape[0], "B·A·x")


def _layer_scalings(context: Context, bound: BoundModule, x: Tensor) -> Tensor:
    """Return the scalings of one layer, a slice: (batch, sequence, adapters).

    Raises:
        PlanError: if the input has another shape than (batch, sequence, in_features), which it can't be scaled in.
    """
    assert context.scalings is not None
    batch, length, _, adapters = context.scalings.shape
    if x.shape[:-1] != (batch, length):
        name = bound.name.rpartition(".*.")[2]
        message = (
            f"X-LoRA scales inputs of the shape (batch, sequence, features), and that of {name} is another: name"
            " target_modules without it"
        )
        raise refusal("method.target_modules", message, name)
    return ops.narrow(context.scalings, (batch, length, adapters))


def _chosen(method: XLoRA, scalings: Tensor) -> Tensor:
    """Return the scalings, of which only the largest are kept if `top_k_lora` is set (get_maybe_topk_scalings)."""
    if method.top_k_lora is not None:
        _values, indices = indexing.top_k(scalings, method.top_k_lora, "largest scalings")
        mask = scalings.tape.new(scalings.shape, "bool", "mask of the largest scalings")
        scalings = ops.mul(scalings, ops.cast(mask, scalings.dtype, "mask in the scalings' dtype"), "scalings, masked")
        del indices
    return _normalized(scalings) if method.enable_softmax_topk else scalings


def _normalized(scalings: Tensor) -> Tensor:
    """Return the softmax over the scalings that are not zero."""
    nonzero = scalings.tape.new(scalings.shape, "bool", "scalings ≠ 0")
    full = _filled(scalings, "scalings, zeros filled")
    weights = ops.softmax(full)
    out = _filled(weights, "scalings, normalized")
    del nonzero
    return out


def _filled(x: Tensor, name: str) -> Tensor:
    zeros = x.tape.new(x.shape, "bool", "scalings = 0")
    return ops.where(zeros, x, x.shape, name)
