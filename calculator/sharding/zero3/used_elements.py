"""The elements that modules use, by which stage 3 counts how far away the next use of a parameter is."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.sharding.zero3.parameters import Module


class Used(NamedTuple):
    """The elements that some modules use: with those of all modules inside each, and without those of leaf modules."""

    with_inside: int
    outside_leaves: int

    def with_module(self, module: Module) -> Used:
        """The same with those of one more module."""
        own = module.elements
        return Used(self.with_inside + own + module.elements_inside, self.outside_leaves + own * (not module.is_leaf))

    def times(self, count: int) -> Used:
        """Those of as many copies."""
        return Used(self.with_inside * count, self.outside_leaves * count)


NOTHING = Used(0, 0)


def used(modules: Iterable[Module]) -> Used:
    """The elements that modules use."""
    return reduce(Used.with_module, modules, NOTHING)
