"""A linear layer with an update from trained frequencies (peft.tuners.fourierft.layer.FourierFTLinear).

Complex tensors have the shape of their real and imaginary parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autograd import Node
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.layers.bound_module import BoundModule

#: The parameter's name within its module.
SPECTRUM = "fourierft_spectrum"


def forward(bound: BoundModule, x: Tensor) -> Tensor:
    """Return the output of the frozen module plus the product with the dense update."""
    dtype = x.dtype
    result = bound.base_layer(x)
    update = _update(bound)
    x = ops.cast(x, update.dtype, "input in the spectrum's dtype")
    product = products.matmul(x, update, None, bound.module.out_features, "update · x")
    result = ops.add(result, product, "result + update")
    del product
    return ops.cast(result, dtype, "output")


def _update(bound: BoundModule) -> Tensor:
    """Return the real part of the inverse transform, scaled: (out_features, in_features)."""
    spectrum = bound.added[SPECTRUM]
    indices = spectrum.tape.new((2, spectrum.shape[0]), "int64", "positions of the frequencies")
    dense = _dense(bound, ops.cast(spectrum, "float32", "spectrum in float32"), indices)
    update = ops.scale(_real(_transformed(dense)), "update, scaled")
    return ops.cast(update, spectrum.dtype, "update in the spectrum's dtype")


def _dense(bound: BoundModule, values: Tensor, indices: Tensor) -> Tensor:
    """Return zeros with the frequencies at their positions."""
    node = None
    if values.edge:
        node = Node(values.tape, _allocated, (values.edge,), (values.shape, "frequencies: gradient"))
        node.save(indices)
    return values.tape.new((bound.module.out_features, bound.module.in_features), "float32", "dense spectrum", node)


def _transformed(x: Tensor) -> Tensor:
    """Return the inverse transform of a complex copy."""
    copy = _complex(x, "dense spectrum, complex", (x.shape, "dense spectrum: gradient"))
    return _complex(copy, "inverse transform", (copy.shape, "inverse transform: gradient"))


def _complex(x: Tensor, name: str, gradient: tuple[Shape, str]) -> Tensor:
    node = Node(x.tape, _allocated, (x.edge,), gradient) if x.edge else None
    return x.tape.new((*x.shape[:2], 2), "float32", name, node)


def _real(x: Tensor) -> Tensor:
    """Return the real part, which is a view. Its gradient is written into complex zeros."""
    node = Node(x.tape, _allocated, (x.edge,), (x.shape, "real part: gradient")) if x.edge else None
    return Tensor(x.tape, x.storage, x.shape[:2], x.dtype, node)


def _allocated(node: Node, grad: Tensor) -> tuple[Tensor]:
    shape, name = node.context
    return (grad.tape.new(shape, "float32", name),)
