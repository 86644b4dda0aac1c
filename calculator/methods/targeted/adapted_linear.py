"""The base class of methods that add parameters to linear layers over a frozen base."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from calculator.engine import in_place
from calculator.engine import operations as ops
from calculator.engine.autograd import AccumulateGrad
from calculator.engine.module_calls import enter, leave
from calculator.engine.tape import LeafTensor, Tensor
from calculator.methods.targeted.method import TargetedMethod
from calculator.resident.module_spec import new_module_spec

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule
    from calculator.resident.module_spec import Added, ModuleSpec


def dropped(x: Tensor, probability: float) -> Tensor:
    """Return the input after a torch.nn.Dropout module, if it drops anything."""
    return ops.dropout(x, probability, "dropout") if x.tape.module_dropout else x


def called_dropout(bound: BoundModule, name: str, x: Tensor, probability: float) -> Tensor:
    """Call the dropout module of PEFT's layer, which has this name in it. It may be torch.nn.Identity."""
    path = f"{bound.name}.{name}"
    return leave(path, dropped(enter(path, x), probability))


def add_to_output_(bound: BoundModule, result: Tensor, update: Tensor) -> Tensor:
    """Compute `result += update`, where `result` is the output of the frozen module.

    A product of sequences with a bias is a view of a product of matrices (ATen/native/Linear.cpp, _flatten_nd_linear).
    """
    return in_place.add_view_(result, update) if _is_view(bound, result) else in_place.add_(result, update)


def _is_view(bound: BoundModule, result: Tensor) -> bool:
    return bound.module.bias is not None and not bound.module.separate_bias and len(result.shape) > 2


class Output:
    """The output of a frozen module, to which several updates are added in place."""

    __slots__ = ("_base", "_is_view")

    def __init__(self, bound: BoundModule, result: Tensor) -> None:
        self._base, self._is_view = result, _is_view(bound, result)

    def add_(self, update: Tensor) -> None:
        """Add an update."""
        self._base = (in_place.add_to_base_ if self._is_view else in_place.add_)(self._base, update)

    @property
    def tensor(self) -> Tensor:
        """The sum."""
        return in_place.view_of_base(self._base) if self._is_view else self._base


class AdaptedLinear(TargetedMethod, ABC):
    """A method that replaces linear layers by PEFT's own, with added parameters.

    A subclass defines the parameters and their forward.
    """

    __slots__ = ()

    @property
    def bias(self) -> str:
        """The biases of the base that are trained too: `none`, `all`, or those of the adapted modules (`..._only`)."""
        return "none"

    @property
    def trains_biases(self) -> bool:
        """Whether `bias` selects any biases."""
        return self.bias != "none"

    @abstractmethod
    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:
        """Return the parameters that are added to a target."""

    @abstractmethod
    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Run PEFT's layer: (..., in_features) to (..., out_features)."""

    def module_spec(self, path: str, module: Module, model: Model, training: Training) -> ModuleSpec:
        """Return the module as frozen, with the method's parameters added to each target."""
        dtype = training.dtype
        if self.is_saved(path):
            trained = tuple(p.name for p in module.parameters)
            return new_module_spec(dtype=dtype, trained=trained, copied="modules_to_save", copy_dtype=self.copy_dtype)
        target = self.is_target(path, module, model)
        biases = self.bias == "all" or (self.trains_biases and target)
        trained = ("bias",) if biases and module.bias is not None else ()
        added = self.parameters(path, module, model, training) if target else ()
        return new_module_spec(dtype=dtype, trained=trained, added=added)


def transposed_weight(bound: BoundModule, weight: Tensor) -> Tensor:
    """Transpose a Conv1D's weight into a parameter of its own, whose gradient is not used.

    A cast weight is not transposed like this. In a pass under no_grad, the new parameter is in no graph.

    Source: peft/utils/other.py, transpose.
    """
    if bound.module.kind != "conv1d" or weight.storage is not None:
        return weight
    shape = (weight.shape[1], weight.shape[0])
    if not bound.tape.grad_enabled:
        return LeafTensor(bound.tape, None, shape, weight.dtype)
    leaf = AccumulateGrad(bound.tape, f"{bound.name}.weight, transposed", "activations")
    return Tensor(bound.tape, None, shape, weight.dtype, leaf)
