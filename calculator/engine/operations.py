"""PyTorch's operations: what each allocates, what it saves for the backward pass, and what that allocates.

Source: tools/autograd/derivatives.yaml for what is saved and computed; ATen's kernels for what is allocated.
"""

from __future__ import annotations

from functools import reduce
from operator import attrgetter
from typing import TYPE_CHECKING

from calculator.engine.autocast import cast_to, is_expanded, reduction_dtype
from calculator.engine.autograd import Node, NodeWithOutputs, saves_factors
from calculator.engine.result_types import broadcast_shapes, result_type
from calculator.engine.softmax import softmax_gradient
from calculator.engine.tape import SlicedTensor, Tensor, TransposedTensor, transposed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType

_EDGE, _SHAPE, _DTYPE = map(attrgetter, ("edge", "shape", "dtype"))

# ----------------------------------------------------------------------------------------------------------------------
# Views


def view(x: Tensor, shape: Shape) -> Tensor:
    """Return a view in another shape (view, transpose, unsqueeze)."""
    node = Node(x.tape, _view_back, (x.edge,), x.shape) if x.edge else None
    out = Tensor(x.tape, x.storage, shape, x.dtype, node)
    out.merged = x.merged
    return out


def _view_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    """Return a view of the gradient, or a copy if heads come before positions in its memory and not in that of x.

    Source: tools/autograd/derivatives.yaml, view (grad.reshape_symint).
    """
    if grad.merged and len(grad.shape) == 4 and len(node.context) == 3 and 1 not in grad.shape[1:3]:
        return (grad.tape.new(node.context, grad.dtype, "view: gradient, by positions"),)
    out = Tensor(grad.tape, grad.storage, node.context, grad.dtype, None)
    out.viewed = True
    return (out,)


def permute(x: Tensor, shape: Shape) -> Tensor:
    """Return a view in another shape and another order of dimensions.

    The gradient is copied to undo the order.
    """
    node = Node(x.tape, _permute_back, (x.edge,), x.shape) if x.edge else None
    return Tensor(x.tape, x.storage, shape, x.dtype, node)


def _permute_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(node.context, grad.dtype, "permute: gradient"),)


def expand(x: Tensor, shape: Shape) -> Tensor:
    """Return an expanded view. The autograd engine sums its gradient."""
    node = Node(x.tape, _pass_on, (x.edge,)) if x.edge else None
    return Tensor(x.tape, x.storage, shape, x.dtype, node)


def _pass_on(_: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad,)


def split(x: Tensor, shapes: Sequence[Shape], *, stacks: bool = False) -> list[Tensor]:
    """Return views of the parts of x: torch.split, or torch.unbind if `stacks` is true.

    The backward pass concatenates or stacks their gradients.
    """
    node = None
    if x.edge:
        node = NodeWithOutputs(x.tape, _split_back, (x.edge,), (x.shape, x.dtype, x.tape, stacks), outputs=len(shapes))
    return [Tensor(x.tape, x.storage, shape, x.dtype, node, index) for index, shape in enumerate(shapes)]


def _split_back(node: Node, grads: list[Tensor | None]) -> tuple[Tensor]:  # noqa: ARG001  the caller frees them
    shape, dtype, tape, stacks = node.context
    out = tape.new(shape, dtype, f"{'unbind' if stacks else 'split'}: gradient")
    out.merged = True
    return (out,)


def repeat(x: Tensor, times: int, name: str, shape: Shape | None = None) -> Tensor:
    """Return x.repeat(times, 1, ...) for a batch of one, viewed in a shape. The backward pass sums over the copies."""
    node = Node(x.tape, _repeat_back, (x.edge,), x.shape) if x.edge else None
    return x.tape.new(shape or (times, *x.shape[1:]), x.dtype, name, node)


def _repeat_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(node.context, grad.dtype, "repeat: gradient"),)


def narrow(x: Tensor, shape: Shape, *, merged: bool = True, part: int = 0) -> Tensor:
    """Return a slice. The backward pass writes the gradient into zeros of the whole shape, in the layout of x.

    A slice of everything is a plain view (torch/csrc/autograd/python_variable_indexing.cpp). `part` is the number of
    the slice among those of x. That of number 0 begins where x does.
    """
    return view(x, shape) if shape == x.shape else slice_from_end(x, shape, merged=merged, part=part)


def slice_from_end(x: Tensor, shape: Shape, *, merged: bool = True, part: int = 0) -> Tensor:
    """Return a slice with negative indices. It is recorded as a slice even if it is the whole tensor."""
    node = Node(x.tape, _narrow_back, (x.edge,), (x.shape, merged, part)) if x.edge else None
    return Tensor(x.tape, x.storage, shape, x.dtype, node)


def sliced_rows(x: Tensor, shape: Shape) -> Tensor:
    """Return a slice of each row of a batch, as `narrow` does. The slice of a single row is contiguous."""
    out = narrow(x, shape)
    if shape[0] == 1:
        return out
    sliced = SlicedTensor(x.tape, x.storage, shape, x.dtype, None)
    sliced.edge = out.edge
    return sliced


def _narrow_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    shape, merged, _ = node.context
    out = grad.tape.new(shape, grad.dtype, "slice: gradient")
    out.merged = merged
    return (out,)


# ----------------------------------------------------------------------------------------------------------------------
# Copies


def clone(x: Tensor, name: str) -> Tensor:
    """Return a copy of a tensor. The tensor's gradient is that of the copy."""
    return x.tape.new(x.shape, x.dtype, name, Node(x.tape, _pass_on, (x.edge,)) if x.edge else None)


def contiguous(x: Tensor, name: str) -> Tensor:
    """Return a contiguous copy of a transposed or expanded view."""
    node = Node(x.tape, _pass_on, (x.edge,)) if x.edge else None
    out = x.tape.new(x.shape, x.dtype, name, node)
    out.merged = True
    return out


def cast(x: Tensor, dtype: DType, name: str) -> Tensor:
    """Return `x.to(dtype)`, which is x itself if it already has that dtype."""
    if x.dtype == dtype:
        return x
    node = Node(x.tape, _cast_back, (x.edge,), x.dtype) if x.edge else None
    out = x.tape.new(x.shape, dtype, name, node)
    out.merged = x.merged or is_expanded(x)
    return transposed(out) if isinstance(x, TransposedTensor) else out


def _cast_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(grad.shape, node.context, "cast: gradient"),)


def pad(x: Tensor, shape: Shape, name: str) -> Tensor:
    """Return a larger copy (torch.nn.functional.pad). The backward pass copies the inner part of the gradient."""
    node = Node(x.tape, _pad_back, (x.edge,), x.shape) if x.edge else None
    return x.tape.new(shape, x.dtype, name, node)


def _pad_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(node.context, grad.dtype, "padding: gradient"),)


def cat(parts: Sequence[Tensor], shape: Shape, name: str) -> Tensor:
    """Return the concatenated parts (torch.cat). The gradients of the parts are views of the output's gradient."""
    first = parts[0]
    edges = tuple(map(_EDGE, parts))
    node = Node(first.tape, _cat_back, edges, [*map(_SHAPE, parts)]) if any(edges) else None
    out = first.tape.new(shape, reduce(result_type, map(_DTYPE, parts)), name, node)
    out.merged = True
    return out


def _cat_back(node: Node, grad: Tensor) -> list[Tensor]:
    parts = [Tensor(grad.tape, grad.storage, shape, grad.dtype, None) for shape in node.context]
    for part in parts:
        part.merged = grad.merged
    return parts


# ----------------------------------------------------------------------------------------------------------------------
# Elementwise


def add(a: Tensor, b: Tensor, name: str) -> Tensor:
    """Return a + b. Nothing is saved, and both inputs get the same gradient."""
    node = Node(a.tape, _add_back, (a.edge, b.edge)) if a.edge or b.edge else None
    return a.tape.new(broadcast_shapes(a.shape, b.shape), result_type(a.dtype, b.dtype), name, node)


def _add_back(_: Node, grad: Tensor) -> tuple[Tensor, Tensor]:
    return grad, grad


def subtract(a: Tensor, b: Tensor, name: str) -> Tensor:
    """Return a - b. Nothing is saved. The gradient of b is a negated copy."""
    node = Node(a.tape, _subtract_back, (a.edge, b.edge)) if a.edge or b.edge else None
    return a.tape.new(broadcast_shapes(a.shape, b.shape), result_type(a.dtype, b.dtype), name, node)


def _subtract_back(node: Node, grad: Tensor) -> tuple[Tensor, Tensor | None]:
    return grad, grad.tape.new(grad.shape, grad.dtype, "subtract: gradient") if node.edges[1] else None


def mul(a: Tensor, b: Tensor, name: str) -> Tensor:
    """Return a * b. Each factor is saved if the other one needs a gradient."""
    node = None
    if a.edge is not None and b.edge is not None:
        node = Node(a.tape, _mul_back, (a.edge, b.edge))
        node.save(b)
        node.save(a)
    elif a.edge is not None or b.edge is not None:
        node = Node(a.tape, _frozen_mul_back, (a.edge or b.edge,))
        node.save(a if a.edge is None else b)
    return a.tape.new(broadcast_shapes(a.shape, b.shape), result_type(a.dtype, b.dtype), name, node)


@saves_factors(0, 1)
def _mul_back(node: Node, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    product = result_type(grad.dtype, node.saved[0].dtype)
    return _elementwise(grad, product, "mul: gradient"), _elementwise(grad, product, "mul: gradient")


def _elementwise(grad: Tensor, dtype: DType, name: str) -> Tensor:
    """Return a result of the shape and the layout of a gradient."""
    out = grad.tape.new(grad.shape, dtype, name)
    out.merged = grad.merged
    return out


def _frozen_mul_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    """Return the gradient of the only factor that needs one. Saves the other."""
    return (_elementwise(grad, result_type(grad.dtype, node.saved[0].dtype), "mul: gradient"),)


def scale(x: Tensor, name: str) -> Tensor:
    """Return x times, plus or divided by a number. Nothing is saved."""
    node = Node(x.tape, _scale_back, (x.edge,)) if x.edge else None
    out = x.tape.new(x.shape, x.dtype, name, node)
    out.merged = x.merged
    return out


def _scale_back(_: Node, grad: Tensor) -> tuple[Tensor]:
    return (_elementwise(grad, grad.dtype, "scale: gradient"),)


def divide(x: Tensor, divisor: Tensor, name: str) -> Tensor:
    """Return x / divisor for a divisor without a gradient. The divisor is saved."""
    node = Node(x.tape, _divide_back, (x.edge,)) if x.edge else None
    if node is not None:
        node.save(divisor)
    return x.tape.new(broadcast_shapes(x.shape, divisor.shape), result_type(x.dtype, divisor.dtype), name, node)


def _divide_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(grad.shape, result_type(grad.dtype, node.saved[0].dtype), "division: gradient"),)


def shift(x: Tensor, name: str) -> Tensor:
    """Return x plus a number. The gradient of x is that of the output."""
    node = Node(x.tape, _pass_on, (x.edge,)) if x.edge else None
    return x.tape.new(x.shape, x.dtype, name, node)


def where(mask: Tensor, x: Tensor, shape: Shape, name: str) -> Tensor:
    """Return torch.where(mask, x, number), in the shape that both broadcast to. The mask is saved."""
    node = Node(x.tape, _where_back, (x.edge,)) if x.edge else None
    if node is not None:
        node.save(mask)
    return x.tape.new(shape, x.dtype, name, node)


def _where_back(_: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(grad.shape, grad.dtype, "where: gradient"),)


def unary(x: Tensor, name: str, *, saves: str, temporaries: int = 0, fp32_in_autocast: bool = False) -> Tensor:
    """Return an elementwise function that saves its `input` or its `result` (silu, tanh, pow, rsqrt, ...).

    `temporaries` is the number of tensors of x's shape that the backward formula allocates in addition to its result.
    `fp32_in_autocast`: autocast runs the operation in float32.
    """
    if fp32_in_autocast and x.tape.autocast is not None:
        x = cast_to(x, "float32", "input")
    node = Node(x.tape, _unary_back, (x.edge,), temporaries) if x.edge else None
    if node is not None and saves == "input":
        node.save(x)
    out = x.tape.new(x.shape, x.dtype, name, node)
    if node is not None and saves == "result":
        node.save(out)
    return out


def _unary_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    like = node.saved[0]
    dtype = result_type(grad.dtype, like.dtype)
    temporaries = [grad.tape.scratch(like.shape, dtype, "gradient's temporary") for _ in range(node.context)]
    out = grad.tape.new(like.shape, dtype, "gradient")
    del temporaries
    return (out,)


def softmax(x: Tensor, dtype: DType | None = None) -> Tensor:
    """Return the softmax over the last dimension, which is saved.

    With another dtype, x is cast first, unless the kernel casts. Without a dtype, it is computed in the dtype of x, or
    in float32 under autocast. The caller keeps x until the result exists.

    Source: aten/src/ATen/native/SoftMax.cpp, softmax (float16 to float32 in one kernel on CUDA).
    """
    if dtype is None:
        dtype = reduction_dtype(x)
    in_kernel = (x.dtype, dtype) == ("float16", "float32")
    scores = x if in_kernel else cast(x, dtype, f"scores in {dtype}")
    node = Node(x.tape, _softmax_back, (scores.edge,), scores.dtype) if scores.edge else None
    out = x.tape.new(x.shape, dtype, "softmax", node)
    if node is not None:
        node.save(out)
    return out


def _softmax_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (softmax_gradient(grad, node.context),)


def mean(x: Tensor, name: str) -> Tensor:
    """Return x.mean(-1, keepdim=True)."""
    node = Node(x.tape, _mean_back, (x.edge,), x.shape) if x.edge else None
    return x.tape.new((*x.shape[:-1], 1), x.dtype, name, node)


def _mean_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(node.context, grad.dtype, "mean: gradient"),)


def sum_over(x: Tensor, shape: Shape, name: str) -> Tensor:
    """Return x.sum over some dimensions, in float32 under autocast. The gradient is an expanded view."""
    node = Node(x.tape, _sum_over_back, (x.edge,), x.shape) if x.edge else None
    return x.tape.new(shape, reduction_dtype(x), name, node)


def _sum_over_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (Tensor(grad.tape, grad.storage, node.context, grad.dtype, None),)


def dropout(x: Tensor, probability: float, name: str) -> Tensor:
    """Return the output of the fused native_dropout, which also saves a boolean mask.

    Without dropout, return x itself.
    """
    if probability == 0 or not x.tape.trains:
        return x
    node = Node(x.tape, _dropout_back, (x.edge,)) if x.edge else None
    out = x.tape.new(x.shape, x.dtype, name, node)
    mask = x.tape.new(x.shape, "bool", f"{name}, mask")
    if node is not None:
        node.save(mask)
    return transposed(out) if isinstance(x, TransposedTensor) else out


def _dropout_back(_: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(grad.shape, grad.dtype, "dropout: gradient"),)


#: Backward formulas, by which the layout of a tensor is found: of views of everything, of views in another order, of
#: parts and slices, and of elementwise operations, which keep the layout.
VIEW, PERMUTED, SPLIT, SLICED = _view_back, _permute_back, _split_back, _narrow_back
ELEMENTWISE = (_add_back, _cast_back, _mul_back, _frozen_mul_back, _scale_back, _unary_back)
