"""A forward pass of an evaluation under FSDP2.

Units that are not resharded after their forward pass stay gathered until the next backward pass, so that the first
batch of an evaluation gathers them and the others find them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.sharding.fsdp.micro_batch import MicroBatch
from calculator.sharding.fsdp.units import layer_unit, outer_units

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.layers.bound_module import Parameters
    from calculator.methods.prepared_model import PreparedModel
    from calculator.sharding.fsdp.units import UnitParameters


class EvaluationBatch(MicroBatch):
    """A batch; `is_first`: whether it is the first one of its evaluation."""

    __slots__ = ("follows_generation",)

    def __init__(self, prepared: PreparedModel, *, is_first: bool, follows_generation: bool = False) -> None:
        super().__init__(prepared)
        self.has_gradients = self.interprets_all = False
        self.finds_gathered = not is_first
        #: Whether `generate` runs before each batch.
        self.follows_generation = follows_generation

    def start(self, parameters: Parameters) -> None:
        """Find, in its first pass, what the batch before left gathered."""
        self.parameters = parameters
        if not self.finds_gathered:
            return
        self.finds_gathered = False
        left = [each for each in dict.fromkeys((self.root, *self.roles.values())) if not each.reshards]
        for unit in self.left_by_generation if self.follows_generation else left:
            unit.gathered = self.gathered(unit.of)
        self.find_gathered_layers()


def left_gathered(prepared: PreparedModel) -> Iterator[tuple[UnitParameters, int]]:
    """The units that a batch of an evaluation leaves gathered, and how many there are of each."""
    batch, outer = EvaluationBatch(prepared, is_first=True), outer_units(prepared)
    yield from ((unit, 1) for unit in outer.all if unit is not outer.embeddings or not batch.reshards)
    if not batch.reshards:
        yield from ((layer_unit(prepared, layer), count) for layer, count in prepared.model.decoder.distinct)
