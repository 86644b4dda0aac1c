"""A forward pass of an evaluation under FSDP2.

Units that are not resharded after their forward pass stay gathered until the next backward pass. So the first batch of
an evaluation gathers them, and later batches find them gathered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.sharding.fsdp.micro_batch import MicroBatch
from calculator.sharding.fsdp.units import layer_unit, outer_units

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.layers.bound_module import Parameters
    from calculator.methods.prepared_model import PreparedModel
    from calculator.sharding.fsdp.unit import FSDPUnit
    from calculator.sharding.fsdp.units import UnitParameters


class EvaluationBatch(MicroBatch):
    """The hooks of a batch of an evaluation.

    `found`: the names of the units outside the layers that the previous batch left gathered. None in the first batch,
    and after `generate`.
    """

    __slots__ = ("_gathered", "follows_generation")

    def __init__(
        self, prepared: PreparedModel, gathered: frozenset[str] | None, *, follows_generation: bool = False
    ) -> None:
        super().__init__(prepared)
        self.has_gradients = self.interprets_all = False
        self._gathered, self.finds_gathered = gathered, gathered is not None or follows_generation
        #: Whether `generate` runs before each batch.
        self.follows_generation = follows_generation

    def start(self, parameters: Parameters) -> None:
        """Restore, in its first pass, the units that the previous batch left gathered."""
        self.parameters = parameters
        if not self.finds_gathered:
            return
        self.finds_gathered = False
        for unit in self.left_by_generation if self.follows_generation else self._found_units:
            unit.gathered = self.gathered(unit.param_group)
        self.find_gathered_layers()

    @property
    def _found_units(self) -> Iterator[FSDPUnit]:
        """The units outside the layers that are gathered before the pass.

        After `generate`, they are all units that are not freed.
        """
        for unit in self._outer_units:
            if not unit.reshards if self._gathered is None else unit.param_group.name in self._gathered:
                yield unit

    @property
    def _outer_units(self) -> Iterable[FSDPUnit]:
        return dict.fromkeys((self.root, *self.roles.values()))

    @property
    def left_gathered(self) -> frozenset[str]:
        """The units outside the layers that a pass left gathered.

        A head whose weight is only read is not among them.
        """
        return frozenset(unit.param_group.name for unit in self._outer_units if unit.gathered)


def left_gathered(prepared: PreparedModel, outside: frozenset[str]) -> Iterator[tuple[UnitParameters, int]]:
    """Yield the units that a batch of an evaluation leaves gathered, with their number.

    `outside` are the names of those outside the layers. Every layer that is not freed after its forward pass is
    included.
    """
    yield from ((unit, 1) for unit in outer_units(prepared).all if unit.name in outside)
    if not EvaluationBatch(prepared, None).reshards:
        yield from ((layer_unit(prepared, layer), count) for layer, count in prepared.model.decoder.distinct)
