"""Views of parameters in other shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.module_calls import NamedParameter, Pinned

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.engine.tape import Tensor


def viewed(x: Tensor, shape: Shape) -> Tensor:
    """Return a view in another shape. A view of a parameter that stage 3 gathers keeps its values alive."""
    out = ops.view(x, shape)
    if not isinstance(x, NamedParameter):
        return out
    view = Pinned(x)
    view.shape, view.edge = shape, out.edge
    return view
