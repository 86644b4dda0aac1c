"""A linear layer whose smaller singular values are trained (peft.tuners.osf.layer.Linear)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autograd import Node
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from calculator.layers.bound_module import BoundModule

#: The names of the trained singular vectors and values within a module.
U, S, V = (f"osf_svd_params.{name}_low" for name in "USV")
#: The names of the frozen first values, and of the larger singular vectors that the first values do not span.
U_INIT, S_INIT, V_INIT = (f"_osf_{name}_low_init" for name in "USV")
U_HIGH, V_HIGH = "_osf_U_high", "_osf_V_high"


def forward(bound: BoundModule, x: Tensor, *, projects: bool) -> Tensor:
    """Return the output of the frozen module plus A · B · x. A and B join the trained factors with their first values.

    `projects`: whether hooks make the gradients orthogonal to the larger singular vectors.
    """
    dtype, width = x.dtype, bound.module.out_features
    result = bound.base(x)
    a, b = _factors(bound, projects=projects)
    x_cast = ops.cast(x, a.dtype, "input in the factors' dtype")
    h = products.matmul(x_cast, b, None, b.shape[0], "B · x")
    delta_out = products.matmul(h, a, None, width, "A · B · x")
    return ops.add(result, ops.cast(delta_out, dtype, "update"), "result + update")


def _factors(bound: BoundModule, *, projects: bool) -> tuple[Tensor, Tensor]:
    u, s, v = (bound.added[name] for name in (U, S, V))
    high_u, high_v = bound.added.get(U_HIGH), bound.added.get(V_HIGH)
    if projects:
        u = _hooked(u, (u.shape[1] if high_u is None else high_u.shape[1], u.shape[1]), is_square=high_u is None)
        v = _hooked(v, (v.shape[0], v.shape[0] if high_v is None else high_v.shape[0]), is_square=high_v is None)
    (rows, r), columns = u.shape, v.shape[1]
    trained = ops.mul(u, ops.view(s, (1, r)), "U · S")
    first = ops.mul(bound.added[U_INIT], ops.view(bound.added[S_INIT], (1, r)), "first U · S")
    first = ops.scale(first, "first U · S, negated")
    a = ops.cat((trained, first), (rows, 2 * r), "A")
    del trained, first
    return a, ops.cat((v, bound.added[V_INIT]), (2 * r, columns), "B")


def _hooked(x: Tensor, inner: tuple[int, int], *, is_square: bool) -> Tensor:
    """Return a parameter whose gradient a hook projects, by a product with the shape `inner`."""
    if x.edge is None:
        return x
    return Tensor(x.tape, x.storage, x.shape, x.dtype, Node(x.tape, _project, (x.edge,), (inner, is_square)))


def _project(node: Node, grad: Tensor) -> tuple[Tensor]:
    """Return the projected gradient.

    For square singular vectors, it is the part that the trained ones span. Otherwise it is the gradient without the
    others' part.
    """
    inner, is_square = node.context
    product = grad.tape.new(inner, grad.dtype, "gradient · singular vectors")
    part = grad.tape.new(grad.shape, grad.dtype, "gradient, projected")
    del product
    if is_square:
        return (part,)
    return (grad.tape.new(grad.shape, grad.dtype, "gradient without that part"),)
