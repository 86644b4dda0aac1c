"""The base class of methods whose update is computed as a dense matrix (peft.tuners.lycoris_utils)."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from calculator.methods.dense_update import layer
from calculator.methods.targeted.adapted_linear import AdaptedLinear

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.resident.tensor import ResidentTensor


class DenseUpdate(AdaptedLinear):
    """A method that multiplies the input with a matrix computed from its factors.

    A subclass computes that matrix.
    """

    __slots__ = ()
    adaptable = ("linear",)

    @abstractmethod
    def update(self, bound: BoundModule) -> Tensor:
        """Compute the update of a module, of shape (out_features, in_features)."""

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the output of the frozen module plus the product with the update."""
        return layer.forward(bound, x, self.update)

    def is_matmul(self, tensor: ResidentTensor) -> bool:  # noqa: ARG002
        """Return False: a token is multiplied with the update that the factors give."""
        return False
