"""The base class of methods that train some coefficients of each matrix's spectrum."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from calculator.architecture.dimension import named
from calculator.common.errors import Problem
from calculator.methods.targeted.adapted_linear import AdaptedLinear
from calculator.resident.module_spec import Added

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.inputs.training import Training


class TrainedSpectrum(AdaptedLinear):
    """A method with `n_frequency` coefficients for each adapted matrix. A subclass transforms them into an update."""

    __slots__ = ()
    #: PEFT's name of the parameter.
    spectrum: ClassVar[str]

    @property
    @abstractmethod
    def n_frequency(self) -> int:
        """The number of trained coefficients of each matrix."""

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:  # noqa: ARG002
        """Yield more coefficients than a matrix has elements."""
        for path, module in targets.items():
            if module.kind in self.adaptable and self.n_frequency > module.weight.elements:
                message = f"{path} has {module.weight.elements:,} elements: use at most that many"
                yield Problem(loc="method.n_frequency", msg=message, input=self.n_frequency)

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return the coefficients."""
        shape = (named(self.n_frequency, "n_frequency"),)
        return (Added(name=self.spectrum, shape=shape, dtype=training.added_dtype),)
