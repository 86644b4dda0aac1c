"""In-place operations: they allocate only what the backward pass needs of the value they overwrite."""

from __future__ import annotations

from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.engine.result_types import result_type
from calculator.engine.tape import Tensor


def add_(x: Tensor, other: Tensor) -> Tensor:
    """Compute `x += other`, where `other` broadcasts to x. Nothing is saved, and both inputs get the same gradient."""
    node = Node(x.tape, _to_both, (x.edge, other.edge)) if x.edge or other.edge else None
    return Tensor(x.tape, x.storage, x.shape, x.dtype, node)


def _to_both(_: Node, grad: Tensor) -> tuple[Tensor, Tensor]:
    return grad, grad


def add_view_(x: Tensor, other: Tensor) -> Tensor:
    """Compute `x += other`, where x is a view. The base of x gets a CopySlices node, and x an AsStridedBackward node.

    Source: torch/csrc/autograd/functions/tensor.cpp, CopySlices::apply_impl.
    """
    return view_of_base(add_to_base_(x, other)) if x.edge or other.edge else x


def add_to_base_(base: Tensor, other: Tensor) -> Tensor:
    """Compute `x += other`, where x is a view of `base`. Return the base, which gets a CopySlices node."""
    node = Node(base.tape, _add_view_back, (base.edge, other.edge)) if base.edge or other.edge else None
    return Tensor(base.tape, base.storage, base.shape, base.dtype, node)


def view_of_base(base: Tensor) -> Tensor:
    """Return the view of a base that changed in place, which gets an AsStridedBackward node."""
    node = Node(base.tape, _strided_back, (base.edge,)) if base.edge else None
    return Tensor(base.tape, base.storage, base.shape, base.dtype, node)


def _add_view_back(_: Node, grad: Tensor) -> tuple[Tensor, Tensor]:
    whole = grad.tape.new(grad.shape, grad.dtype, "slices: gradient")
    return whole, grad.tape.new(grad.shape, grad.dtype, "slice: gradient")


def put_rows_(x: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
    """Compute `x[mask] = rows`. The mask is saved. The gradient of x is zero in the replaced rows."""
    node = Node(x.tape, _put_rows_back, (x.edge, rows.edge)) if x.edge or rows.edge else None
    if node is not None:
        node.save(mask)
    return Tensor(x.tape, x.storage, x.shape, x.dtype, node)


def _put_rows_back(node: Node, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    rest, rows = node.edges
    rest_grad = grad.tape.new(grad.shape, grad.dtype, "rows: gradient of the rest") if rest else None
    return rest_grad, grad.tape.new(rows[2], grad.dtype, "rows: gradient") if rows else None


def masked_fill_(x: Tensor, mask: Tensor) -> Tensor:
    """Compute `x.masked_fill_(mask, 0)`. The mask is saved. The gradient of x is a filled copy."""
    if x.edge is None:
        return x
    node = Node(x.tape, _masked_fill_back, (x.edge,))
    node.save(mask)
    return Tensor(x.tape, x.storage, x.shape, x.dtype, node)


def _masked_fill_back(_: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(grad.shape, grad.dtype, "filled: gradient"),)


def mul_(x: Tensor) -> Tensor:
    """Compute `x *= number` or `x /= number`. Nothing is saved."""
    node = Node(x.tape, _mul_back, (x.edge,)) if x.edge else None
    return Tensor(x.tape, x.storage, x.shape, x.dtype, node)


def mul_by_buffer_(x: Tensor) -> Tensor:
    """Compute `x *= buffer`. The buffer is saved, so a checkpoint recomputes before the gradient is multiplied."""
    node = Node(x.tape, _mul_back, (x.edge,)) if x.edge else None
    if node is not None:
        node.save(Tensor(x.tape, None, (), x.dtype, None))
    return Tensor(x.tape, x.storage, x.shape, x.dtype, node)


def _mul_back(_: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(grad.shape, grad.dtype, "scale: gradient"),)


def clamp_(x: Tensor, name: str) -> Tensor:
    """Compute `x.clamp_()`. A copy of the old x is saved."""
    if x.edge is None:
        return x
    x.tape.reads_graph = True
    node = Node(x.tape, _clamp_back, (x.edge,))
    node.save(x.tape.new(x.shape, x.dtype, name))
    return Tensor(x.tape, x.storage, x.shape, x.dtype, node)


def _clamp_back(_: Node, grad: Tensor) -> tuple[Tensor]:
    tape = grad.tape
    above = tape.scratch(grad.shape, "bool", "clamp: x ≥ min")
    below = tape.scratch(grad.shape, "bool", "clamp: x ≤ max")
    within = tape.scratch(grad.shape, "bool", "clamp: within")
    del above, below
    out = tape.new(grad.shape, grad.dtype, "clamp: gradient")
    del within
    return (out,)


def normalize_(x: Tensor, name: str, *, adds_eps: bool = False) -> Tensor:
    """Compute `x /= x.sum(-1, keepdim=True)`. A copy of the old x is saved.

    With `adds_eps`, an epsilon is added to the sum.
    """
    total = ops.sum_over(x, (*x.shape[:-1], 1), "sum of a row")
    if adds_eps:
        total = ops.shift(total, "sum of a row + epsilon")
    node = Node(x.tape, _normalize_back, (x.edge, total.edge)) if x.edge else None
    if node is not None:
        x.tape.reads_graph = True
        before = x.tape.new(x.shape, x.dtype, f"{name}: before the division")
        node.save(total)
        node.save(before)
    return Tensor(x.tape, x.storage, x.shape, x.dtype, node)


def _normalize_back(node: Node, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and of the sum.

    The sum's gradient, -grad · ((x / sum) / sum), is computed before that of x, grad / sum.
    """
    tape, (total, divided) = grad.tape, node.saved
    dtype = result_type(grad.dtype, total.dtype)
    temporaries = [tape.new(divided.shape, dtype, "division: temporary") for _ in range(3)]
    total_grad = tape.new(divided.shape, dtype, "division: gradient of the sum")
    del temporaries
    return tape.new(divided.shape, dtype, "division: gradient"), total_grad


def jitter_(x: Tensor) -> Tensor:
    """Compute `x *= noise` with noise of the shape of x. The noise is saved."""
    noise = x.tape.new(x.shape, x.dtype, "noise")
    node = Node(x.tape, _jitter_back, (x.edge,)) if x.edge else None
    if node is not None:
        node.save(noise)
    return Tensor(x.tape, x.storage, x.shape, x.dtype, node)


def _jitter_back(_: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(grad.shape, grad.dtype, "jitter: gradient"),)


def jitter_view_(x: Tensor) -> Tensor:
    """Compute `x.view(...) *= noise`. The base gets a CopySlices node, and the view an AsStridedBackward node."""
    noise = x.tape.new(x.shape, x.dtype, "noise")
    if x.edge is None:
        return Tensor(x.tape, x.storage, x.shape, x.dtype, None)
    node = Node(x.tape, _jitter_view_back, (x.edge,))
    node.save(noise)
    whole = Tensor(x.tape, x.storage, x.shape, x.dtype, node)
    return Tensor(x.tape, x.storage, x.shape, x.dtype, Node(x.tape, _strided_back, (whole.edge,)))


def _strided_back(_: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(grad.shape, grad.dtype, "view: gradient, strided"),)


def _jitter_view_back(_: Node, grad: Tensor) -> tuple[Tensor]:
    whole = grad.tape.new(grad.shape, grad.dtype, "slices: gradient")
    cut = grad.tape.new(grad.shape, grad.dtype, "slice: gradient")
    product = grad.tape.new(grad.shape, grad.dtype, "jitter: gradient")
    del cut, product
    return (whole,)
