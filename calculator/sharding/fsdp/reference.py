"""The forward pass of a trainer's reference model under FSDP2.

The reference is the model without its adapters, or a second model.

Source: torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py, _record_post_forward, and trl/models/utils.py,
prepare_fsdp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.layers.sharding_hooks import Hooks, Unit
from calculator.resident.tensors import layer_parameters, outer_parameters
from calculator.sharding.fsdp.parameters import is_sharded
from calculator.sharding.fsdp.unit import FSDPUnit, Part
from calculator.sharding.fsdp.units import UnitParameters, tower_stacks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.model import Layer
    from calculator.engine.repetition import Repetition
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import Parameters
    from calculator.layers.sharding_hooks import Role
    from calculator.methods.prepared_model import PreparedModel
    from calculator.sharding.fsdp.micro_batch import MicroBatch


class SameUnits(Hooks):
    """A no-grad pass through the trained model, after the pass with a graph. Its units are gathered again."""

    __slots__ = ("order", "param_dtype", "trained")

    couples_layers = True
    runs_in_checkpoints = True

    def __init__(self, trained: MicroBatch) -> None:
        self.trained = trained
        self.param_dtype = trained.param_dtype
        #: The units in the order in which the pass with a graph ran them.
        self.order = [*trained.order]

    def batch(self, x: Tensor) -> Tensor:
        """Cast a tensor of the batch as the root of the trained model does."""
        return self.trained.batch(x)

    def begin(self, parameters: Parameters) -> None:  # noqa: ARG002  a hook's signature
        """Do nothing, because the root's parameters are already gathered."""
        if self.trained.root.param_group.parameters:
            self.trained.root.enter()

    def module(self, role: Role) -> Unit:
        """Return a module outside the layers."""
        return self.trained.module(role)

    def layer(self, layer: Layer) -> Unit:
        """Return a layer, which has no backward pass of its own here."""
        unit = FSDPUnit(self.trained, self.trained.parameters_of(layer), reshards=self.trained.reshards)
        unit.is_entered = True
        if not unit.reshards:
            unit.gathered = self.trained.units[-1].gathered  # every layer's weights are already gathered
        return Part(unit, len(self.trained.parameters.leaves), is_last=True)

    def tower_layer(self, layer: Layer, stack: str) -> Unit:
        """Return a layer of a vision tower, which is gathered again if it was freed after the pass with a graph."""
        trained = self.trained
        if not trained.reshards:
            return super().tower_layer(layer, stack)
        unit = FSDPUnit(trained, trained.parameters_of(layer, stack), reshards=True)
        unit.is_entered = True
        return trained.part_of_tower(unit)

    def end(self, loss: Tensor, outputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Record that the unit that ran last precedes the first unit. So the first unit's backward pass gathers it."""
        trained = self.trained
        trained.kept_buffer, trained.order = None, self.order
        for position, unit in enumerate(self.order):
            unit.position = position
        self.order[0].position = len(self.order)
        return trained.returned(loss, outputs)


class EarlierPass(SameUnits):
    """A no-grad pass before the pass with a graph. The later pass finds units gathered that are not freed."""

    __slots__ = ("_layers",)

    def __init__(self, trained: MicroBatch) -> None:
        super().__init__(trained)
        #: The units of its layers.
        self._layers: list[FSDPUnit] = []

    def repetition(self, classes: Sequence[int]) -> Repetition:
        """Interpret every layer if the pass with a graph does."""
        return self.trained.repetition(classes) if self.trained.interprets_all else super().repetition(classes)

    def begin(self, parameters: Parameters) -> None:
        """Gather the parameters that belong to the root."""
        self.trained.start(parameters)
        SameUnits.begin(self, parameters)

    def layer(self, layer: Layer) -> Unit:
        """Return a layer. If it is not freed, the pass with a graph finds it gathered."""
        trained = self.trained
        unit = FSDPUnit(trained, trained.parameters_of(layer), reshards=trained.reshards)
        unit.is_entered = True
        if trained.left_of_layers:
            unit.gathered = trained.left_of_layers.popleft()
        self._layers.append(unit)
        return Part(unit, len(trained.parameters.leaves), is_last=True)

    def end(self, loss: Tensor, outputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Restore the state of the units for the pass with a graph, except their weights.

        The unit that ran last here precedes the first unit there. So the first unit's backward pass gathers it.
        """
        trained = self.trained
        trained.ran_before = [*trained.order, *trained.incomplete][-1]
        for unit in (trained.root, *trained.roles.values()):
            unit.is_entered = False
        trained.left_of_layers.extend(unit.gathered for unit in self._layers if unit.gathered)
        self._layers = []
        trained.kept_buffer, trained.order = None, []
        return trained.returned(loss, outputs)


class SecondModel(Hooks):
    """The hooks of a second model, which TRL shards as one unit.

    Its whole weights are gathered for its forward pass.
    """

    __slots__ = ("param_dtype", "trained", "unit")

    def __init__(self, trained: MicroBatch, prepared: PreparedModel) -> None:
        self.trained = trained
        self.param_dtype = trained.param_dtype
        stacks = (*tower_stacks(prepared.model), prepared.model.decoder)
        layers = [
            parameter
            for of in stacks
            for layer in of.layers
            for parameter in layer_parameters(prepared, layer, of.name)
        ]
        of = UnitParameters(
            name="ref_model",
            parameters=tuple(
                parameter for parameter in (*outer_parameters(prepared), *layers) if is_sharded(parameter)
            ),
            count=trained.prepared.device.count,
            param_dtype=trained.param_dtype,
        )
        self.unit = FSDPUnit(trained, of, reshards=trained.reshards)
        self.unit.is_entered = True

    def batch(self, x: Tensor) -> Tensor:
        """Cast a tensor of the batch as the root of the trained model does."""
        return self.trained.batch(x)

    def begin(self, parameters: Parameters) -> None:
        """Gather the model."""
        if not self.trained.is_begun:
            self.trained.start(parameters)
        self.unit.enter()

    def end(self, loss: Tensor, outputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Free the model, and cast its outputs."""
        self.unit.gathered = []
        self.trained.kept_buffer = None
        return self.trained.returned(loss, outputs)
