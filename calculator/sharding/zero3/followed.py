"""The copies of the repeated layers that are followed one by one: the first ones and the last ones.

Once the order is steady, stage 3 gathers and releases in the copies between as in those next to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.engine.repetition import Repetition


@dataclass(frozen=True, kw_only=True)
class Followed:
    """The followed copies of the period of a repetition, in the order of the forward pass.

    Attributes:
        repetition: The interpreted layers, and the number of layers that they represent.
        before: The number of copies that are followed before the skipped ones.
        skipped: The number of copies that are skipped.
    """

    repetition: Repetition
    before: int
    skipped: int

    @cached_property
    def copies(self) -> int:
        """The number of times that the period runs."""
        return self.repetition.copies + 1

    @cached_property
    def period(self) -> int:
        """The number of layers of a copy."""
        return self.repetition.end - self.repetition.start

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the followed copies. The first copy is 0."""
        return (*range(self.before), *range(self.before + self.skipped, self.copies))

    def copy_of(self, layer: int) -> int | None:
        """Return the copy that contains a layer of the model, or None for a layer outside the copies."""
        own = self.repetition
        if own.start >= own.end:
            return None
        copy = (layer - own.numbers[own.start]) // self.period
        return copy if 0 <= copy < self.copies else None

    @cached_property
    def slots(self) -> dict[int, int]:
        """The index of each followed copy among the followed ones."""
        return {copy: slot for slot, copy in enumerate(self.numbers)}

    @cached_property
    def places(self) -> dict[int, tuple[int, int]]:
        """The layers of the followed copies.

        Each has the layer like it in the first copy, and the index of its copy.
        """
        own = self.repetition
        first = [own.numbers[at] for at in range(own.start, own.end)]
        return {layer + copy * self.period: (layer, slot) for slot, copy in enumerate(self.numbers) for layer in first}

    def layers(self) -> frozenset[int]:
        """Return the numbers of the layers that are followed, including those outside the copies."""
        own = self.repetition
        inside = range(own.start, own.end)
        outside = [number for at, number in enumerate(own.numbers) if at not in inside]
        copied_layers = [own.numbers[at] + copy * self.period for copy in self.numbers for at in inside]
        return frozenset((*outside, *copied_layers))

    @property
    def representative(self) -> int:
        """The first copy after the skipped ones. It represents them outside the copies."""
        return self.before + self.skipped


class Reach(NamedTuple):
    """The number of copies of the repeated layers that the coordinator looks ahead.

    Attributes:
        ahead: The most copies that are prefetched.
        reuse: The most copies over which a parameter stays gathered until it is used again.
    """

    ahead: int
    reuse: int


#: How many more copies are followed on each side if the skipped copies turn out to differ from the followed ones.
MORE = 1, 4


def choices(repetition: Repetition, reach: Reach) -> Iterator[Followed]:
    """Yield the copies to follow: few of them, then more, then all.

    Two copies show that a state repeats. The prefetched copies must be on the same side. On the last side, the first
    copy does not count, because it represents the skipped ones. In the forward pass, a parameter is used again on the
    way back, after twice as many copies. If much is prefetched before the first layer, it takes one more copy to
    settle.
    """
    count = repetition.copies + 1
    before, after = (
        max(2, reach.ahead + (reach.ahead > 2 and not repetition.start)),
        1 + max(2, reach.ahead, (reach.reuse + 1) // 2),
    )
    for more in (0, *MORE):
        if before + after + 2 * more < count:
            skipped = count - before - after - 2 * more
            yield Followed(repetition=repetition, before=before + more, skipped=skipped)
    yield Followed(repetition=repetition, before=count, skipped=0)
