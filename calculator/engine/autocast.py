"""CUDA's autocast: products run in a lower precision, what is delicate in float32, everything else as it comes.

An operation that casts its arguments holds the copies while it runs, and saves them in the arguments' place. Arguments
are cast from the last to the first, which decides the order of their gradients.

Sources: torch/include/ATen/autocast_mode.h (which operations); ATen/autocast_mode.cpp, `cached_cast`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.engine.autograd import AccumulateGrad, Mark, Node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.common.dtype import DType
    from calculator.engine.tape import Tape, Tensor

#: The end of a copy's name.
COPY = ", cast by autocast"


class Autocast:
    """An autocast region: its lower precision, and the copies of trained float32 tensors, which it keeps to its end."""

    __slots__ = ("copies", "dtype")

    def __init__(self, dtype: DType) -> None:
        self.dtype = dtype
        self.copies: dict[AccumulateGrad, Tensor] = {}

    def cached_cast(self, x: Tensor, name: str, *, grad_enabled: bool = True) -> Tensor:
        """A tensor as a product takes it.

        Copies that are kept pass gradients on, those made where nothing is `grad_enabled` for the backward pass too.
        """
        if x.dtype == self.dtype:
            return x
        leaf = _leaf(x)
        if leaf is None or x.dtype != "float32":
            return cast_to(x if grad_enabled else x.detach(), self.dtype, name)
        copy = self.copies.get(leaf)
        if copy is None:
            copy = self.copies[leaf] = cast_to(x, self.dtype, name)
        return copy

    def cast_factors(self, a: Tensor, b: Tensor, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
        """Both factors of a product as it takes them."""
        b = self.cached_cast(b, names[1])
        return self.cached_cast(a, names[0]), b


def _leaf(x: Tensor) -> AccumulateGrad | None:
    """The leaf that a tensor is, if it is one: a trained parameter, or embeddings that were told to get a gradient."""
    edge = x.edge
    while edge is not None and isinstance(edge[0], Mark):
        edge = edge[0].edges[0]
    return edge[0] if edge is not None and isinstance(edge[0], AccumulateGrad) else None


def reduction_dtype(x: Tensor) -> DType:
    """The dtype of a sum or a softmax that is told none."""
    return x.dtype if x.tape.autocast is None else "float32"


def cast_to(x: Tensor, dtype: DType, name: str) -> Tensor:
    """A tensor in another dtype; itself where it is of that dtype already."""
    if x.dtype == dtype:
        return x
    node = Node(x.tape, _cast_back, (x.edge,), x.dtype) if x.edge else None
    out = x.tape.new(x.shape, dtype, name + COPY, node)
    out.merged = x.merged or is_expanded(x)
    return out


def is_expanded(x: Tensor) -> bool:
    """Whether a tensor shows its storage again and again, as its copy does not."""
    if x.storage is None:
        return False
    whole = x.tape.rows[x.storage.row][1]
    return whole is not x.shape and elements(x.shape) > elements(whole)


def _cast_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(grad.shape, node.context, "cast: gradient"),)


@contextmanager
def region(tape: Tape, dtype: DType | None) -> Iterator[None]:
    """What runs inside is cast to a dtype, or to none; the copies go at its end."""
    outer, tape.autocast = tape.autocast, None if dtype is None else Autocast(dtype)
    try:
        yield
    finally:
        tape.autocast = outer
