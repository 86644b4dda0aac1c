"""The number of elements that modules use. Stage 3 measures the distance to the next use of a parameter in it."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.sharding.zero3.parameters import Module


class Used(NamedTuple):
    """The number of elements that some modules use: including all modules inside each, and excluding leaf modules."""

    with_inside: int
    outside_leaves: int

    def with_module(self, module: Module) -> Used:
        """Return the sum with one more module."""
        own = module.elements
        inside = module.elements_inside if module.inside else 0
        return Used(self.with_inside + own + inside, self.outside_leaves + own * (not module.is_leaf))

    def times(self, count: int) -> Used:
        """Return the sum for `count` copies."""
        return Used(self.with_inside * count, self.outside_leaves * count)


NOTHING = Used(0, 0)


def used(modules: Iterable[Module]) -> Used:
    """Return the number of elements that modules use."""
    return reduce(Used.with_module, modules, NOTHING)
