"""The base class of methods whose targets share frozen random matrices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.checkpoint.safetensors_file import SavedTensor
from calculator.common.dtype import ITEMSIZE
from calculator.methods.targeted.adapted_linear import AdaptedLinear
from calculator.resident.tensor import ResidentTensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.inputs.training import Training


class SharedMatrices(AdaptedLinear, ABC):
    """A method with buffers of the whole model. They are saved with the adapter if `save_projection` is set."""

    __slots__ = ()

    @property
    @abstractmethod
    def save_projection(self) -> bool:
        """Whether the matrices are saved."""

    @abstractmethod
    def shared_shapes(self, rows: int, columns: int) -> dict[str, Shape]:
        """Return the matrices by name, for the largest sides of the targets."""

    def _shapes(self, model: Model) -> dict[str, Shape]:
        targets = [module for path, module in model.paths if self.is_target(path, module, model)]
        # Without targets, the run is refused.
        rows = max((module.out_features for module in targets), default=0)
        return self.shared_shapes(rows, max((module.in_features for module in targets), default=0))

    def added(self, model: Model, training: Training) -> tuple[ResidentTensor, ...]:
        """Return the shared matrices, which are buffers."""
        dtype = training.added_dtype
        return tuple(
            ResidentTensor(name=name, shape=shape, dtype=dtype, component="adapter_weights", base=False)
            for name, shape in self._shapes(model).items()
        )

    def saved_tensors(self, parameters: Sequence[tuple[str, ResidentTensor]], model: Model) -> Sequence[SavedTensor]:
        """Return the trained vectors, and the matrices if they are saved."""
        saved = AdaptedLinear.saved_tensors(self, parameters, model)
        shared = self._shapes(model).items() if self.save_projection else ()
        return [*saved, *(SavedTensor(f"base_model.{name}", shape, saved[0].dtype) for name, shape in shared)]

    def saved_bytes(self, state: tuple[ResidentTensor, ...], model: Model) -> int:
        """Return the bytes of the trained vectors, and of the matrices if they are saved."""
        names = self._shapes(model).keys() if self.save_projection else ()
        shared = sum(elements(tensor.shape) * ITEMSIZE[tensor.dtype] for tensor in state if tensor.name in names)
        return AdaptedLinear.saved_bytes(self, state, model) + shared
