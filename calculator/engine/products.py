"""Matrix products, convolutions and embeddings: what each allocates, and what it saves for the backward pass.

Source: tools/autograd/derivatives.yaml of PyTorch, as in `operations`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.architecture.dimension import elements
from calculator.engine.autograd import Node, saves_factors
from calculator.engine.cuda_embedding import add_rows_of_equal_ids
from calculator.engine.cuda_reductions import sum_to
from calculator.engine.layout import strided
from calculator.engine.operations import VIEW, contiguous, permute, view
from calculator.engine.result_types import result_type
from calculator.engine.tape import SlicedTensor, WeightView

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.engine.tape import Edge, Tensor

#: The name of the gradient of an embedding's weight.
EMBEDDING_GRADIENT = "embedding: gradient"


def matmul(
    x: Tensor, weight: Tensor, bias: Tensor | None, out_features: int, name: str, *, turns: bool = True
) -> Tensor:
    """Return x @ weight + bias over the last dimension (F.linear, or the torch.addmm of Conv1D).

    x: (..., in_features); weight: a parameter or a dense copy of one; result: (..., out_features). `turns`: whether the
    weight is transposed first.

    Both factors are saved in the order of their names: mat2 and self of torch.mm, or mat1 and mat2 of torch.addmm.
    """
    tape = x.tape
    if turns and tape.calls_modules:
        return _linear_of_stage_3(x, weight, bias, out_features, name)
    if tape.autocast is not None:
        given = (x, weight)  # as `_sliced`, because a call's arguments stay until it returns
        bias = None if bias is None else tape.autocast.cached_cast(bias, "bias")
        x, weight = tape.autocast.cast_factors(*given, ("input", "weight"))
    weight_edge = weight.edge
    if weight_edge is not None and isinstance(x, SlicedTensor):
        # Source: aten/src/ATen/native/LinearAlgebra.cpp, should_fold.
        tape.reads_graph = True
        _sliced, x = x, contiguous(x, "input, contiguous")
    node = None
    x_edge, bias_edge = x.edge, None if bias is None else bias.edge
    if x_edge is not None and weight_edge is None and bias_edge is None:
        node = Node(tape, _frozen_mm_back, (x_edge,), x_edge[2])
        node.save(_saved_weight(weight, turns=turns))
    elif x_edge is not None or weight_edge is not None or bias_edge is not None:
        edges = (x_edge, weight_edge) if bias_edge is None else (x_edge, weight_edge, bias_edge)
        node = Node(tape, _mm_back if bias is None else _addmm_back, edges)
        if weight_edge is not None and bias is not None:
            node.save(x)
        if x_edge is not None:
            node.save(_saved_weight(weight, turns=turns))
        if weight_edge is not None and bias is None:
            node.save(x)
    out = tape.new((*x.shape[:-1], out_features), result_type(x.dtype, weight.dtype), name, node)
    tape.multiply(adds_bias=bias is not None)
    return out


def _saved_weight(weight: Tensor, *, turns: bool) -> Tensor:
    """Return the tensor that autograd saves for a weight: its parameter, or the view for saved-tensor hooks."""
    if weight.storage is not None:
        return strided(weight) if turns else weight
    if weight.tape.weight_views is None or not (turns or (weight.edge is not None and weight.edge[0].apply is VIEW)):
        return weight
    return WeightView(weight.tape, None, weight.shape, weight.dtype, None)


def addmm(x: Tensor, weight: Tensor, bias: Tensor | None, out_features: int, name: str) -> Tensor:
    """Return x @ weight + bias by torch.addmm, as Conv1D does. DeepSpeed's stage 3 does not replace it."""
    return matmul(x, weight, bias, out_features, name, turns=False)


def _frozen_mm_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    """Saves the weight. Most weights are frozen, and a node with one edge is run faster."""
    x_grad = grad.tape.new(node.context, grad.dtype, "matmul: gradient")
    x_grad.viewed = len(node.context) > 2  # a view of a product of two matrices
    grad.tape.multiply()
    return (x_grad,)


@saves_factors(0, 1)
def _mm_back(node: Node, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Saves mat2, then self. Computes their gradients in this order.

    Source: torch/csrc/autograd/generated/Functions.cpp, MmBackward0::apply.
    """
    left, right = node.edges
    weight_grad = None if right is None else _weight_gradient(grad, right)
    return None if left is None else _input_gradient(grad, left), weight_grad


@saves_factors(1, 0)
def _addmm_back(node: Node, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Saves mat1, then mat2. Computes their gradients in this order. The engine sums that of a trained bias."""
    left, right, *bias = node.edges
    x_grad = None if left is None else _input_gradient(grad, left)
    return x_grad, None if right is None else _weight_gradient(grad, right), *([grad] if bias else [])


def _input_gradient(grad: Tensor, edge: Edge) -> Tensor:
    out = grad.tape.new(edge[2], grad.dtype, "matmul: gradient")
    out.viewed = len(edge[2]) > 2  # a view of a product of two matrices
    grad.tape.multiply()
    return out


def _weight_gradient(grad: Tensor, edge: Edge) -> Tensor:
    out = grad.tape.new(edge[2], grad.dtype, "weight: gradient")
    out.viewed = True  # transposed
    grad.tape.multiply()
    return out


def _linear_of_stage_3(x: Tensor, weight: Tensor, bias: Tensor | None, out_features: int, name: str) -> Tensor:
    """Run F.linear as DeepSpeed's stage 3 replaces it. It always saves its input, weight and bias, after it has run.

    Source: deepspeed/runtime/zero/linear.py, LinearFunctionForZeroStage3.
    """
    shape, dtype = (*x.shape[:-1], out_features), result_type(x.dtype, weight.dtype)
    out = x.tape.new(shape, dtype, name)
    x.tape.multiply(adds_bias=bias is not None)
    edges = (x.edge, weight.edge, None if bias is None else bias.edge)
    if any(edges):
        node = Node(x.tape, _linear_of_stage_3_back, edges)
        for tensor in (x, weight, bias):
            if tensor is not None:
                node.save(tensor)
        out.edge = (node, 0, shape, dtype)
    return out


def _linear_of_stage_3_back(node: Node, grad: Tensor) -> list[Tensor | None]:
    """The bias's gradient is a sum over the rows."""
    grads = [_gradient(grad, edge, "linear: gradient") for edge in node.edges]
    if grads[2] is not None and grad.tape.cuda:
        sum_to(grad.tape, grad.shape, grads[2].shape, grad.dtype)
    return grads


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape, name: str) -> Tensor:
    """Return a convolution. The input and the weight are saved."""
    if x.tape.autocast is not None:
        bias = None if bias is None else x.tape.autocast.cached_cast(bias, "bias")
        x, weight = x.tape.autocast.cast_factors(x, weight, ("input", "weight"))
    node, edges = None, (x.edge, weight.edge, None if bias is None else bias.edge)
    if any(edges):
        node = Node(x.tape, _convolution_back, edges)
        node.save(x)
        node.save(weight)
    return x.tape.new(shape, weight.dtype, name, node)


def _convolution_back(node: Node, grad: Tensor) -> list[Tensor | None]:
    return [grad.tape.new(edge[2], grad.dtype, "convolution: gradient") if edge else None for edge in node.edges]


def bmm(a: Tensor, b: Tensor, shape: Shape, name: str) -> Tensor:
    """Return torch.bmm of two batches of matrices whose layouts need no copy. It saves mat2, then self."""
    if a.tape.autocast is not None:
        a, b = a.tape.autocast.cast_factors(a, b, ("first factor", "second factor"))
    node = None
    if a.edge or b.edge:
        node = Node(a.tape, _bmm_back, (a.edge, b.edge))
        if a.edge:
            node.save(b)
        if b.edge:
            node.save(a)
    out = a.tape.new(shape, a.dtype, name, node)
    a.tape.multiply()
    return out


def _gradient(grad: Tensor, edge: Edge | None, name: str) -> Tensor | None:
    """Return the product that is an argument's gradient, if it needs one."""
    if edge is None:
        return None
    out = grad.tape.new(edge[2], grad.dtype, name)
    grad.tape.multiply()
    return out


@saves_factors(0, 1)
def _bmm_back(node: Node, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Saves mat2, then self. Computes their gradients in this order, as `_mm_back` does."""
    left, right = node.edges
    right_grad = _gradient(grad, right, "bmm: gradient")
    return _gradient(grad, left, "bmm: gradient"), right_grad


def matmul_from_left(weight: Tensor, x: Tensor, name: str) -> Tensor:
    """Return weight @ x of a matrix and (batch, in_features, positions): (batch, out_features, positions).

    A trained matrix is multiplied with the transposed rows. The result is copied to transpose it back.

    Source: aten/src/ATen/native/LinearAlgebra.cpp, should_fold and _matmul_impl.
    """
    batch, _, length = x.shape
    shape = (batch, weight.shape[0], length)
    given = (weight, x)  # a call's arguments stay until it returns
    if x.tape.autocast is not None:
        weight, x = x.tape.autocast.cast_factors(*given, ("weight", "input"))
    if not weight.edge:
        return bmm(x, weight, shape, name)
    x.tape.reads_graph = True
    product = addmm(view(x, (batch, length, x.shape[1])), weight, None, shape[1], name)
    return contiguous(positions_last(product, shape), f"{name}, transposed")


def positions_last(product: Tensor, shape: Shape) -> Tensor:
    """Return the transpose of a product of rows, (batch, positions, features).

    If the batch has several sequences, the gradient is copied.
    """
    return view(product, shape) if shape[0] == 1 else permute(product, shape)


def embedding(ids: Tensor, weight: Tensor, width: int, name: str) -> Tensor:
    """Look embeddings up (torch.nn.functional.embedding).

    The indices are saved. The weight's gradient is dense.
    """
    node = None
    if weight.edge:
        node = Node(weight.tape, _embedding_back, (weight.edge,))
        node.save(ids)
    return ids.tape.new((*ids.shape, width), weight.dtype, name, node)


def _embedding_back(node: Node, grad: Tensor) -> tuple[Any]:
    edge = node.edges[0]
    if edge is None:
        return (None,)
    out = grad.tape.new(edge[2], grad.dtype, EMBEDDING_GRADIENT)
    if grad.tape.cuda:
        add_rows_of_equal_ids(grad.tape, elements(node.saved[0].shape), edge[2])
    return (out,)
