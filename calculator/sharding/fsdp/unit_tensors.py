"""The tensors that FSDP2 allocates for the units of a micro-batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import operations as ops
from calculator.layers.sharding_hooks import Hooks
from calculator.sharding.fsdp.parameters import RANKS, shard_shape
from calculator.sharding.fsdp.units import CAST_SHARDS, FULL, GATHERED, UPLOADED

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.common.names import ComponentName
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import Parameters
    from calculator.sharding.fsdp.unit import FSDPUnit
    from calculator.sharding.fsdp.units import UnitParameters


class UnitTensors(Hooks):
    """Allocates the tensors of units on the tape of the pass that has begun."""

    __slots__ = ("has_gradients", "parameters")

    parameters: Parameters
    #: Whether earlier micro-batches left whole gradients.
    has_gradients: bool

    def full_tensors(self, unit: UnitParameters) -> dict[str, Tensor]:
        """Gather each frozen parameter of a unit by itself, in its stored dtype."""
        tensors: dict[str, Tensor] = {}
        for parameter in unit.parameters:
            shape = (named(unit.count, RANKS), *shard_shape(parameter.shape, unit.count))
            full = self._new_tensor(shape, parameter.dtype, parameter.name + FULL, parameter.component)
            tensors[parameter.name.rpartition(".")[2]] = ops.view(full, parameter.shape)
        return tensors

    def _cast(self, unit: FSDPUnit) -> list[Tensor]:
        """Copy the shards that mixed precision casts into one tensor."""
        cast = unit.param_group.cast_input
        return [] if cast is None else [self._new_tensor(*cast, unit.param_group.name + CAST_SHARDS)]

    def _uploaded(self, unit: FSDPUnit) -> list[Tensor]:
        """Copy each shard from host memory, and cast it with mixed precision."""
        copies = []
        group = unit.param_group
        for parameter in group.parameters:
            shape, dtype = shard_shape(parameter.shape, group.count), group.gathered_dtype(parameter)
            copy = self._new_tensor(shape, parameter.dtype, parameter.name + UPLOADED)
            if dtype != parameter.dtype:
                copy = self._new_tensor(shape, dtype, parameter.name + CAST_SHARDS)
            copies.append(copy)
        return copies

    def gathered(self, parameters: UnitParameters) -> list[Tensor]:
        """Allocate a unit's whole weights."""
        return [
            self._new_tensor(shape, dtype, parameter.name + GATHERED, parameter.component)
            for parameter, shape, dtype in parameters.gathered
        ]

    def whole_gradients(self, parameters: UnitParameters) -> list[Tensor]:
        """Allocate the gradients of a unit that earlier micro-batches left."""
        weights, dtype_of = parameters.trained if self.has_gradients else (), parameters.gathered_dtype
        return [
            self._new_tensor(weight.shape, dtype_of(weight), f"{weight.name}: gradient", "gradients")
            for weight in weights
        ]

    def _new_tensor(self, shape: Shape, dtype: DType, name: str, component: ComponentName = "workspace") -> Tensor:
        tape = self.parameters.tape
        scope, tape.scope = tape.scope, ""
        tensor = tape.new(shape, dtype, name, component=component)
        tape.scope = scope
        return tensor
