"""Resident tensors that are alive together."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from calculator.resident.per_parameter import ResidentTensors

if TYPE_CHECKING:
    from calculator.common.names import ComponentName


class TensorGroup(tuple[ResidentTensors, ...]):  # noqa: SLOT001  cached properties need a __dict__
    """Resident tensors whose bytes are added up once. Runs that differ in batch or length share a group."""

    @cached_property
    def bytes(self) -> int:
        """The bytes of all tensors."""
        return sum([tensors.bytes for tensors in self])

    @cached_property
    def components(self) -> dict[ComponentName, Any]:
        """The rows and subtotals in a ledger by component, cached by the ledger."""
        return {}

    @cached_property
    def by_component(self) -> dict[ComponentName, int]:
        """The bytes of the tensors by component."""
        totals: dict[ComponentName, int] = {}
        for tensors in self:
            totals[tensors.component] = totals.get(tensors.component, 0) + tensors.bytes
        return totals
