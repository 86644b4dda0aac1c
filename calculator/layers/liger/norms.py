"""Liger's RMSNorm: one kernel each way. It saves its input and the reciprocal root mean square of each row.

Source: liger_kernel/ops/rms_norm.py of Liger 0.8.5, LigerRMSNormFunction.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.architecture.dimension import Dim, named
from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.engine.tape import Tensor
from calculator.layers.norms import as_module

if TYPE_CHECKING:
    from calculator.layers.bound_module import BoundModule


def _rms_norm(norm: BoundModule, x: Tensor, *, in_place: bool) -> Tensor:
    """Return weight · (x normalized), in the dtype of x.

    `in_place`: the input's gradient overwrites the output's.
    """
    tape, weight = x.tape, norm.own["weight"]
    tape.scope = f"{norm.name}: "
    node = None
    if x.edge or weight.edge:
        node = Node(tape, _rms_norm_back, (x.edge, weight.edge), in_place)
    out = tape.new(x.shape, x.dtype, "output", node)
    rows = 1
    for size in x.shape[:-1]:
        rows = size * rows
    rstd = tape.new((named(rows, "rows"),), "float32", "reciprocal RMS")
    if node is not None:
        for tensor in (x, weight, rstd):
            node.save(tensor)
    return out


def _rms_norm_back(node: Node, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of the input and of the weight.

    The latter is a row per multiprocessor, then their sum, then its cast.
    """
    tape, (x_edge, weight_edge) = grad.tape, node.edges
    per_block = None
    if weight_edge:
        width = weight_edge[2]
        rows = Dim(tape.multiprocessors.count, "SMs")
        per_block = tape.scratch((rows, *width), "float32", "weight: gradient by multiprocessor")
    x_grad = Tensor(tape, grad.storage, grad.shape, grad.dtype, None) if node.context else None
    if x_grad is None:
        x_grad = tape.new(grad.shape, grad.dtype, "gradient")
    x_grad.viewed = True
    if weight_edge is None:
        return x_grad, None
    weight_grad = ops.cast(
        tape.new(weight_edge[2], "float32", "weight: gradient in float32"), weight_edge[3], "weight: gradient"
    )
    del per_block
    return (x_grad if x_edge else None), weight_grad


#: The norm of most families.
rms_norm = as_module(partial(_rms_norm, in_place=True))


@as_module
def rms_norm_of_copy(norm: BoundModule, x: Tensor) -> Tensor:
    """Run the norm of queries or keys by heads. It copies them first, because their heads are not first in memory."""
    x.tape.scope = f"{norm.name}: "
    return _rms_norm(norm, ops.contiguous(x, "input, contiguous"), in_place=False)


#: The norm that is not in place, for norms whose output's gradient is also the residual's (Gemma 2 and 3, OLMo 2, GLM
#: 4).
out_of_place_rms_norm = as_module(partial(_rms_norm, in_place=False))
