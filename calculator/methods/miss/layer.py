"""A linear layer with a MiSS block (peft.tuners.miss.layer.MissLinear)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import ceil_div, named
from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autocast import reduction_dtype
from calculator.engine.autograd import Node
from calculator.methods.targeted.adapted_linear import called_dropout

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.methods.miss.method import MiSS

#: The parameter's name within its module.
BLOCK = "miss_block"


def forward(method: MiSS, bound: BoundModule, x: Tensor) -> Tensor:
    """Run the layer.

    The update is a product with the sum of the input's blocks, or a change of each block of the weight (`bat`).
    """
    dtype = x.dtype
    if method.init_weights == "bat":
        return ops.cast(_changed_weight(bound, x), dtype, "output")
    block, r, width = bound.added[BLOCK], named(method.r, "r"), bound.module.out_features
    result = bound.base_layer(x)
    if method.init_weights == "mini":
        block = _tiled(block, (r, width))
    if x.shape[-1] % r:
        x = ops.pad(x, (*x.shape[:-1], named(ceil_div(x.shape[-1], r) * r, "in_features, padded")), "input, padded")
    x = ops.cast(x, block.dtype, "input in the block's dtype")
    result = ops.add(result, _product(method, bound, x, block), "result + update")
    return ops.cast(result, dtype, "output")


def _product(method: MiSS, bound: BoundModule, x: Tensor, block: Tensor) -> Tensor:
    x = called_dropout(bound, "miss_dropout", x, method.miss_dropout)
    return products.addmm(_sum_of_blocks(x, block.shape[0]), block, None, bound.module.out_features, "update")


def _sum_of_blocks(x: Tensor, r: int) -> Tensor:
    """Return x.reshape(..., in_features / r, r).sum(-2). The expanded gradient is copied when it is reshaped."""
    node = Node(x.tape, _sum_of_blocks_back, (x.edge,), x.shape) if x.edge else None
    return x.tape.new((*x.shape[:-1], r), reduction_dtype(x), "sum of blocks", node)


def _sum_of_blocks_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(node.context, grad.dtype, "sum of blocks: gradient"),)


def _tiled(block: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return block.repeat(1, out_features / mini_r). The gradient of the copies is summed."""
    node = Node(block.tape, _tiled_back, (block.edge,), block.shape) if block.edge else None
    return block.tape.new(shape, block.dtype, "block, repeated", node)


def _tiled_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(node.context, grad.dtype, "repeat: gradient"),)


def _changed_weight(bound: BoundModule, x: Tensor) -> Tensor:
    """Return the product with W + (W · block + block), in the dtype of the block."""
    weight = ops.clone(bound.own["weight"].detach(), "weight, copied")
    weight = ops.add(weight, _change(bound, weight), "changed weight")
    x = ops.cast(x, weight.dtype, "input in the block's dtype")
    bias = bound.own.get("bias")
    if bias is not None:
        bias = ops.cast(bias, weight.dtype, "bias in the block's dtype")
    return products.matmul(x, weight, bias, bound.module.out_features, "output")


def _change(bound: BoundModule, weight: Tensor) -> Tensor:
    block = bound.added[BLOCK]
    weight = ops.cast(weight, block.dtype, "weight in the block's dtype")
    total = ops.add(_blocks_product(weight, block), block, "weight · block + block")
    return ops.contiguous(ops.view(total, weight.shape), "change")


def _blocks_product(weight: Tensor, block: Tensor) -> Tensor:
    """Multiply each r × r block of the weight with the block of its rows. Both are copied for torch.bmm."""
    blocks, r, _ = block.shape
    columns = weight.shape[1] // r
    if weight.tape.autocast is not None:
        weight, block = weight.tape.autocast.cast_factors(weight, block, ("weight", "block"))
    shape = (columns, blocks, r, r)
    left = ops.contiguous(weight, "blocks of the weight")
    right = ops.contiguous(ops.expand(block, shape), "block, expanded")
    return ops.view(products.bmm(left, right, (columns * blocks, r, r), "weight · block"), shape)
