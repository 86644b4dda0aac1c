"""Resident tensors that are alive together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.common.cached import cached_property
from calculator.common.total import total_bytes
from calculator.resident.per_parameter import ResidentTensors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.common.names import ComponentName


class TensorGroup(tuple[ResidentTensors, ...]):  # noqa: SLOT001  cached properties need a __dict__
    """Resident tensors whose bytes are added up once. Runs that differ in batch or length share a group."""

    #: Groups that have the same tensors together, in any order. Their bytes are added up.
    parts: tuple[TensorGroup, ...] = ()

    @classmethod
    def joined(cls, tensors: Iterable[ResidentTensors], *parts: TensorGroup) -> TensorGroup:
        """Return a group of tensors, which are those of `parts`."""
        group = cls(tensors)
        group.parts = parts
        return group

    @cached_property
    def bytes(self) -> int:
        """The bytes of all tensors."""
        return total_bytes(self.parts or self)

    @cached_property
    def components(self) -> dict[ComponentName, Any]:
        """The rows and subtotals in a ledger by component, cached by the ledger."""
        return {}

    @cached_property
    def by_component(self) -> dict[ComponentName, int]:
        """The bytes of the tensors by component."""
        totals: dict[ComponentName, int] = {}
        for part in self.parts:
            for component, size in part.by_component.items():
                totals[component] = totals.get(component, 0) + size
        for tensors in () if self.parts else self:
            totals[tensors.component] = totals.get(tensors.component, 0) + tensors.bytes
        return totals
