"""CUDA's autocast: matrix products run in a lower precision, sums and powers in float32, the rest in its input's dtype.

An operation that casts its arguments keeps the copies while it runs, and saves the copies for the backward pass.
Arguments are cast from the last to the first, which decides the order of their gradients.

Sources: torch/include/ATen/autocast_mode.h (which operations); ATen/autocast_mode.cpp, `cached_cast`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.engine.autograd import AccumulateGrad, Mark, Node
from calculator.engine.tape import LeafTensor, TransposedTensor, transposed

if TYPE_CHECKING:
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tape, Tensor

#: The suffix of a copy's name.
COPY = ", cast by autocast"


class Autocast:
    """An autocast region: its lower precision, and its cache of cast copies of trained float32 tensors."""

    __slots__ = ("copied", "copies", "dtype")

    def __init__(self, dtype: DType, outer: Autocast | None = None) -> None:
        self.dtype = dtype
        self.copies: dict[object, Tensor] = {} if outer is None else outer.copies
        #: The tensors that were copied. The copy's node refers to them, also under torch.no_grad.
        self.copied: list[Tensor] = [] if outer is None else outer.copied

    def cached_cast(self, x: Tensor, name: str, *, grad_enabled: bool = True) -> Tensor:
        """Return a tensor in the region's dtype.

        The copy of a trained float32 tensor stays in the cache until the region ends, and so does the tensor. With
        `grad_enabled=False`, a copy that is not cached records no node, as under torch.no_grad.
        """
        if x.dtype == self.dtype:
            return x
        leaf = leaf_of(x)
        if leaf is None or x.dtype != "float32":
            return cast_to(x if grad_enabled else x.detach(), self.dtype, name)
        copy = self.copies.get(leaf)
        if copy is None:
            copy = self.copies[leaf] = cast_to(x, self.dtype, name)
            if x.storage is not None:
                self.copied.append(x.detach())
        return copy

    def cast_factors(self, a: Tensor, b: Tensor, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
        """Return both factors of a product in the region's dtype."""
        b = self.cached_cast(b, names[1])
        return self.cached_cast(a, names[0]), b


def state(tape: Tape) -> tuple[DType | None, int]:
    """Return the state that operations under autocast depend on: the region's dtype and the number of cached copies."""
    return (None, 0) if tape.autocast is None else (tape.autocast.dtype, len(tape.autocast.copies))


def has_copy(tape: Tape, leaf: object) -> bool:
    """Return whether the current autocast region caches a copy of a leaf tensor."""
    return tape.autocast is not None and leaf in tape.autocast.copies


def leaf_of(x: Tensor) -> object:
    """Return the key of a leaf tensor among cached copies: its AccumulateGrad node, if it is in a graph.

    A leaf is a trained parameter, or the embeddings after enable_input_require_grads.
    """
    if isinstance(x, LeafTensor):
        return x.leaf
    edge = x.edge
    while edge is not None and isinstance(edge[0], Mark):
        edge = edge[0].edges[0]
    return edge[0] if edge is not None and isinstance(edge[0], AccumulateGrad) else None


def reduction_dtype(x: Tensor) -> DType:
    """Return the dtype of a sum, an exponential or a softmax without a dtype argument."""
    return x.dtype if x.tape.autocast is None else "float32"


def cast_to(x: Tensor, dtype: DType, name: str) -> Tensor:
    """Return a copy in another dtype, or the tensor itself if it already has that dtype."""
    if x.dtype == dtype:
        return x
    node = Node(x.tape, _cast_back, (x.edge,), x.dtype) if x.edge else None
    out = x.tape.new(x.shape, dtype, name + COPY, node)
    out.merged = x.merged or is_expanded(x)
    return transposed(out) if isinstance(x, TransposedTensor) else out


def is_expanded(x: Tensor) -> bool:
    """Return whether a tensor is an expanded view. A copy of it is not one."""
    if x.storage is None:
        return False
    whole = x.tape.rows[x.storage.row][1]
    return whole is not x.shape and elements(x.shape) > elements(whole)


def _cast_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(grad.shape, node.context, "cast: gradient"),)


class region:  # noqa: N801  used as a function
    """Runs a block under autocast to a dtype, or with autocast off.

    The cached copies are freed when the region ends. A nested region in another dtype keeps its copies until the outer
    region ends.
    """

    __slots__ = ("_dtype", "_outer", "_tape")

    def __init__(self, tape: Tape, dtype: DType | None) -> None:
        self._tape, self._dtype = tape, dtype
        self._outer = tape.autocast

    def __enter__(self) -> None:
        self._tape.autocast = None if self._dtype is None else Autocast(self._dtype, self._outer)

    def __exit__(self, *_: object) -> None:
        self._tape.autocast = self._outer
