"""The update of LoHa, one function with a backward pass of its own (peft.tuners.loha.layer.HadaWeight)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.autograd import Node

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tape, Tensor

#: The names of the factors within a module, in the function's order.
FACTORS = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


def hada_weight(factors: Sequence[Tensor], shape: Shape) -> Tensor:
    """Return ((w1a @ w1b) * (w2a @ w2b)) * scale: (out_features, in_features)."""
    first = factors[0]
    tape = first.tape
    node = None
    if first.edge:
        context = (shape, first.dtype, [factor.shape for factor in factors])
        node = Node(tape, _back, tuple(factor.edge for factor in factors), context)
        for factor in factors:
            node.save(factor)
    casts, dtype = _cast(factors)
    product = _hadamard(tape, shape, dtype)
    del casts
    return tape.new(shape, product.dtype, "update", node)


def _cast(factors: Sequence[Tensor]) -> tuple[list[Tensor], DType]:
    """Return the factors for torch.matmul. Under autocast they are copies, which it saves."""
    autocast = factors[0].tape.autocast
    if autocast is None:
        return [*factors], factors[0].dtype
    return [autocast.cached_cast(factor, "factor", grad_enabled=False) for factor in factors], autocast.dtype


def _hadamard(tape: Tape, shape: Shape, dtype: DType) -> Tensor:
    first = tape.new(shape, dtype, "w1a · w1b")
    second = tape.new(shape, dtype, "w2a · w2b")
    product = tape.new(shape, dtype, "elementwise product")
    del first, second
    return product


def _back(node: Node, grad: Tensor) -> list[Tensor]:
    shape, dtype, factors = node.context
    tape = grad.tape
    scaled = tape.new(shape, grad.dtype, "scaled gradient")
    gradients: list[Tensor] = []
    temporary: Tensor | None = None
    for first, second in ((0, 1), (2, 3)):
        temporary = _times_other(tape, shape, dtype)
        gradients += [tape.new(factors[index], dtype, "factor: gradient") for index in (first, second)]
    del temporary, scaled
    return gradients


def _times_other(tape: Tape, shape: Shape, dtype: DType) -> Tensor:
    product = tape.new(shape, dtype, "product of the other factors")
    temporary = tape.new(shape, dtype, "gradient · product of the other factors")
    del product
    return temporary
