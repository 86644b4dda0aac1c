"""Indexing operations: rows by index, top-k, gather, masks, and grouped matrix products.

Source: tools/autograd/derivatives.yaml; torch/csrc/autograd/FunctionsManual.cpp, index_backward and
value_selecting_reduction_backward. These write the gradient into zeros, out of place on the meta device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE
from calculator.engine.autocast import reduction_dtype
from calculator.engine.autograd import Node, saves_factors
from calculator.engine.cuda_indexing import add_rows_of_equal_indices
from calculator.engine.tape import StridedTensor, Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.dimension import Dim, Shape

#: The name of a gradient that is scattered into zeros.
SCATTERED = "gradient, scattered"


def index(x: Tensor, indices: Tensor, name: str) -> Tensor:
    """Return x[indices], one row of x for each index. The indices are saved."""
    node = Node(x.tape, _index_back, (x.edge,), (x.shape, elements(indices.shape))) if x.edge else None
    if node is not None:
        node.save(indices)
    return x.tape.new((*indices.shape, *x.shape[1:]), x.dtype, name, node)


def index_pairs(x: Tensor, first: Tensor, second: Tensor, name: str) -> Tensor:
    """Return x[first, second], one vector of x for each pair of indices. The indices are saved."""
    node = Node(x.tape, _index_back, (x.edge,), (x.shape, elements(first.shape))) if x.edge else None
    if node is not None:
        node.save(first)
        node.save(second)
    return x.tape.new((*first.shape, *x.shape[2:]), x.dtype, name, node)


def masked_rows(x: Tensor, mask: Tensor, count: int, name: str) -> Tensor:
    """Return x[mask], the `count` rows of x where the mask is true. The mask is saved."""
    node = Node(x.tape, _index_back, (x.edge,), (x.shape, count)) if x.edge else None
    if node is not None:
        node.save(mask)
    return x.tape.new((count, *x.shape[len(mask.shape) :]), x.dtype, name, node)


def masked_elements(x: Tensor, count: Dim, name: str) -> Tensor:
    """Return x[mask] with a mask of x's shape: the `count` elements where the mask is true.

    Their indices are allocated first. No graph is recorded.
    """
    places = x.tape.new((count, len(x.shape)), "int64", f"{name}: places")
    out = x.tape.new((count,), x.dtype, name)
    del places
    return out


def masked_scatter(x: Tensor, mask: Tensor, name: str) -> Tensor:
    """Return zeros.masked_scatter(mask, x): zeros with the elements of x where the mask is true. The mask is saved.

    Source: ATen/native/cuda/IndexKernel.cpp, masked_scatter__cuda.
    """
    node = Node(x.tape, _masked_scatter_back, (x.edge,), x.shape) if x.edge else None
    if node is not None:
        node.save(mask)
    zeros = x.tape.new(mask.shape, x.dtype, f"{name}: zeros")
    out = x.tape.new(mask.shape, x.dtype, name, node)
    sums = x.tape.scratch(mask.shape, "int64", f"{name}: sums of the mask")
    del sums, zeros
    return out


def fill_masked(x: Tensor, mask: Tensor, source: Tensor, name: str) -> Tensor:
    """Return x.masked_scatter(mask[..., None], source): x with the rows of source where the mask is true.

    The mask is saved.

    Source: ATen/native/cuda/IndexKernel.cpp, masked_scatter__cuda; IndexKernel.cu, launch_masked_scatter_kernel.
    """
    node = Node(x.tape, _fill_masked_back, (x.edge, source.edge)) if x.edge or source.edge else None
    if node is not None:
        node.save(mask)
    out = x.tape.new(x.shape, x.dtype, name, node)
    sums = x.tape.scratch(x.shape, "int64", f"{name}: sums of the mask")
    mask = x.tape.scratch(x.shape, "bool", f"{name}: mask, contiguous")
    del sums, mask
    return out


def _fill_masked_back(node: Node, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of x and of source.

    The gradient of x is zero where the mask is true. That of source is the part under the mask.

    Source: FunctionsManual.cpp, masked_scatter_backward; IndexKernel.cpp, masked_select_out_cuda_impl; Nonzero.cu.
    """
    tape, (x_edge, source_edge) = grad.tape, node.edges
    rest = tape.new(grad.shape, grad.dtype, "filled: gradient") if x_edge else None
    if source_edge is None:
        return rest, None
    mask = tape.scratch(grad.shape, "bool", "filled: mask, contiguous")
    numbers = tape.scratch((len(grad.shape), *source_edge[2]), "int64", "filled: indices")
    del mask
    filled = tape.new(source_edge[2], grad.dtype, "filled: gradient of the source")
    del numbers
    return rest, filled


def _masked_scatter_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    tape, (mask,) = grad.tape, node.saved
    indices = tape.scratch((len(mask.shape), *node.context), "int64", "indices of the mask")
    selected = tape.new(node.context, grad.dtype, "gradient, selected")
    del indices
    return (selected,)


def _scatter_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (_scattered(grad, node.context),)


def _index_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    shape, indices = node.context
    out = _scattered(grad, shape)
    if grad.tape.cuda:
        add_rows_of_equal_indices(grad.tape, indices, shape[0])
    return (out,)


def _scattered(grad: Tensor, shape: Shape) -> Tensor:
    """Return zeros into which a gradient is scattered: in place on CUDA."""
    zeros = None if grad.tape.cuda else grad.tape.new(shape, grad.dtype, "zeros")
    out = grad.tape.new(shape, grad.dtype, SCATTERED)
    del zeros
    return out


def reorder(x: Tensor, name: str) -> Tensor:
    """Return x[order], the rows of x in another order. The order is not allocated here."""
    node = Node(x.tape, _index_back, (x.edge,), (x.shape, x.shape[0])) if x.edge else None
    return x.tape.new(x.shape, x.dtype, name, node)


def index_list(x: Tensor, shape: Shape, numbers: int, name: str) -> Tensor:
    """Return x[..., [index]], a copy of the parts that a Python list of `numbers` indices selects.

    PyTorch copies the list to the device of x. The copy is saved.

    Source: torch/csrc/autograd/python_variable_indexing.cpp, sequenceToVariable.
    """
    indices = x.tape.new((numbers,), "int64", f"{name}: indices")
    node = Node(x.tape, _index_back, (x.edge,), (x.shape, numbers)) if x.edge else None
    if node is not None:
        node.save(indices)
    return x.tape.new(shape, x.dtype, name, node)


def top_k(x: Tensor, k: int, name: str) -> tuple[Tensor, Tensor]:
    """Return x.topk(k), the k largest elements of each row and their indices. The indices are saved."""
    node = Node(x.tape, _scatter_back, (x.edge,), x.shape) if x.edge else None
    shape = (*x.shape[:-1], k)
    values = x.tape.new(shape, x.dtype, name, node)
    indices = x.tape.new(shape, "int64", f"{name}: indices")
    if node is not None:
        node.save(indices)
    return values, indices


def gather(x: Tensor, indices: Tensor, name: str) -> Tensor:
    """Return x.gather(-1, indices). Both inputs are saved. The gradient is added to zeros in place.

    Source: aten/src/ATen/native/TensorAdvancedIndexing.cpp, gather_backward.
    """
    node = Node(x.tape, _add_to_zeros, (x.edge,), x.shape) if x.edge else None
    if node is not None:
        node.save(indices)
        node.save(x)
    return x.tape.new(indices.shape, x.dtype, name, node)


def _add_to_zeros(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(node.context, grad.dtype, "gather: gradient"),)


def scatter_(x: Tensor, indices: Tensor, source: Tensor) -> Tensor:
    """Compute x.scatter_(-1, indices, source), where x needs no gradient. The indices are saved."""
    node = Node(x.tape, _gather_back, (source.edge,), source.shape) if source.edge else None
    if node is not None:
        node.save(indices)
    return Tensor(x.tape, x.storage, x.shape, x.dtype, node)


def _gather_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(node.context, grad.dtype, "gradient, gathered"),)


def grouped_mm(x: Tensor, weight: Tensor, offsets: Tensor, out_features: int, name: str) -> Tensor:
    """Multiply each group of rows by its own matrix (torch.nn.functional.grouped_mm): (rows, in) to (rows, out)."""
    node = None
    if x.edge or weight.edge:
        node = Node(x.tape, _grouped_mm_back, (x.edge, weight.edge))
        if x.edge:
            node.save(weight)
        node.save(offsets)
        if weight.edge:
            node.save(x)
    return _row_aligned(x, (x.shape[0], out_features), name, node)


@saves_factors(0, None, 1)
def _grouped_mm_back(node: Node, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients. The weight's gradient is dense: it has a matrix for every group, even one without rows."""
    left, right = node.edges
    weight_grad = _row_aligned(grad, right[2], "grouped product: weight's gradient") if right else None
    x_grad = _row_aligned(grad, left[2], "grouped product: gradient") if left else None
    return x_grad, weight_grad


def grouped_mm_by_group(x: Tensor, weight: Tensor, offsets: Tensor, out_features: int, name: str) -> Tensor:
    """Multiply each group of rows by its own matrix, one after the other: (rows, in) to (rows, out).

    x and the weight are saved whichever of them needs a gradient. The node keeps the offsets.

    Source: transformers/integrations/moe.py, grouped_mm_fallback.
    """
    node = None
    if x.edge or weight.edge:
        node = Node(x.tape, _grouped_mm_by_group_back, (x.edge, weight.edge), (x.shape, weight.shape, offsets))
        node.save(x)
        node.save(weight)
    return x.tape.new((x.shape[0], out_features), x.dtype, name, node)


def _grouped_mm_by_group_back(node: Node, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients. Both are computed, even that of a frozen weight."""
    (left, right), (shape, weight_edge, _) = node.edges, node.context
    x_grad = grad.tape.new(shape, grad.dtype, "grouped product: gradient")
    weight_grad = grad.tape.new(weight_edge, grad.dtype, "grouped product: weight's gradient")
    return (x_grad if left else None), (weight_grad if right else None)


def _row_aligned(like: Tensor, shape: Shape, name: str, node: Node | None = None) -> Tensor:
    """Allocate the output of a grouped product. Its rows are padded to 16 bytes.

    A padded output is never added to in place.

    Source: ATen/native/GroupedMMUtils.h, create_grouped_gemm_output_tensor.
    """
    short = -shape[-1] % (16 // ITEMSIZE[like.dtype])
    if not short:
        return like.tape.new(shape, like.dtype, name, node)
    whole = like.tape.new((*shape[:-1], shape[-1] + short), like.dtype, name)
    out = StridedTensor(like.tape, whole.storage, shape, like.dtype, node)
    out.viewed = True
    return out


def sum_groups(x: Tensor, shape: Shape, name: str) -> Tensor:
    """Sum each group of rows, in float32 under autocast: (tokens · k, width) to (tokens, width)."""
    node = Node(x.tape, _sum_groups_back, (x.edge,), (x.shape, x.dtype)) if x.edge else None
    return x.tape.new(shape, reduction_dtype(x), name, node)


def _sum_groups_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    """Repeat the gradient of each group for its rows. It is a view if each group is one row."""
    shape, dtype = node.context
    if shape[0] == grad.shape[0] and dtype == grad.dtype:
        return (Tensor(grad.tape, grad.storage, shape, dtype, None),)
    return (grad.tape.new(shape, dtype, "sum: gradient"),)


def masked_fill(x: Tensor, mask: Tensor, name: str) -> Tensor:
    """Return x.masked_fill(mask, number). The mask is saved."""
    node = Node(x.tape, _masked_fill_back, (x.edge,)) if x.edge else None
    if node is not None:
        node.save(mask)
    return x.tape.new(x.shape, x.dtype, name, node)


def _masked_fill_back(_: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(grad.shape, grad.dtype, "filled: gradient"),)


def fill_slices(parts: Sequence[Tensor], shape: Shape, name: str) -> Tensor:
    """Allocate torch.empty(shape), then copy each part to its slice (`out[...] = part`)."""
    whole = parts[0].tape.new(shape, parts[0].dtype, name)
    for part in parts:
        whole = copy_slice(whole, part)
    whole.merged = True
    return whole


def copy_slice(whole: Tensor, part: Tensor) -> Tensor:
    """Compute `whole[...] = part`. Nothing is allocated."""
    node = Node(part.tape, _fill_slices_back, (whole.edge, part.edge), part.shape) if part.edge or whole.edge else None
    return Tensor(part.tape, whole.storage, whole.shape, whole.dtype, node)


def _fill_slices_back(node: Node, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Copy the whole gradient and the slice (CopySlices). The slice is zeroed if the whole needs a gradient."""
    tape, (rest, part) = grad.tape, node.edges
    whole = tape.new(grad.shape, grad.dtype, "slices: gradient")
    cut = tape.new(node.context, grad.dtype, "slice: gradient")
    if rest:
        tape.new(node.context, grad.dtype, "slice: zeros")
    return (whole if rest else None), (cut if part else None)


def clamp(x: Tensor, name: str, *, two_bounds: bool = True) -> Tensor:
    """Return x.clamp(max=...), or x.clamp(min=..., max=...) if `two_bounds` is true. x is saved."""
    node = Node(x.tape, _clamp_back, (x.edge,), two_bounds) if x.edge else None
    if node is not None:
        node.save(x)
    return x.tape.new(x.shape, x.dtype, name, node)


def _clamp_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    tape, sides = grad.tape, ("x ≥ min", "x ≤ max") if node.context else ("x ≤ max",)
    zero = tape.scratch((), grad.dtype, "clamp: zero")
    within = [tape.scratch(grad.shape, "bool", f"clamp: {side}") for side in sides]
    out = tape.new(grad.shape, grad.dtype, "clamp: gradient")
    del zero, within
    return (out,)
