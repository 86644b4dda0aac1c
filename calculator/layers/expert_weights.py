"""The parameters of fused experts, as a method computes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor


class Weights(Protocol):
    """The parameters of running experts, by name."""

    def __getitem__(self, name: str, /) -> Tensor:
        """Return a parameter."""

    def get(self, name: str, /) -> Tensor | None:
        """Return a parameter, or None if the experts have none with that name."""
