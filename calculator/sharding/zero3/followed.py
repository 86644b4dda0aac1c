"""Which copies of the repeated layers are followed one by one: the first ones and the last ones.

Stage 3 gathers and releases in the copies between as in those next to them, once their order has become steady.
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
        repetition: The layers that are interpreted, and those that they represent.
        before: The number of copies that are followed before the skipped ones.
        skipped: The number of copies that are skipped.
    """

    repetition: Repetition
    before: int
    skipped: int

    @cached_property
    def copies(self) -> int:
        """How often the period runs."""
        return self.repetition.copies + 1

    @cached_property
    def period(self) -> int:
        """The layers of a copy."""
        return self.repetition.end - self.repetition.start

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the followed copies: the first copy is 0."""
        return (*range(self.before), *range(self.before + self.skipped, self.copies))

    def copy_of(self, layer: int) -> int | None:
        """The copy that a layer of the model is in; None for a layer outside the copies."""
        own = self.repetition
        if own.start >= own.end:
            return None
        copy = (layer - own.numbers[own.start]) // self.period
        return copy if 0 <= copy < self.copies else None

    @cached_property
    def slots(self) -> dict[int, int]:
        """The place of each followed copy among them."""
        return {copy: slot for slot, copy in enumerate(self.numbers)}

    @cached_property
    def places(self) -> dict[int, tuple[int, int]]:
        """The layers of the followed copies: for each, the layer like it in the first copy, and the copy's place."""
        own = self.repetition
        first = [own.numbers[at] for at in range(own.start, own.end)]
        return {layer + copy * self.period: (layer, slot) for slot, copy in enumerate(self.numbers) for layer in first}

    def layers(self) -> frozenset[int]:
        """The numbers of the layers that are followed, those outside the copies included."""
        own = self.repetition
        inside = range(own.start, own.end)
        outside = [number for at, number in enumerate(own.numbers) if at not in inside]
        of_copies = [own.numbers[at] + copy * self.period for copy in self.numbers for at in inside]
        return frozenset((*outside, *of_copies))

    @property
    def representative(self) -> int:
        """The first copy after the skipped ones, which represents them outside the copies."""
        return self.before + self.skipped


class Reach(NamedTuple):
    """How far the coordinator sees, in copies of the repeated layers.

    Attributes:
        ahead: The copies that are gathered ahead at most.
        reuse: Those in which a parameter stays gathered until it is used again, at most.
    """

    ahead: int
    reuse: int


#: How many more copies are followed on each side if the first ones do not show that the copies between are like them.
MORE = 1, 4


def choices(repetition: Repetition, reach: Reach) -> Iterator[Followed]:
    """The copies to follow: few of them, then more, then all.

    Two copies show that a state repeats, and those that are gathered ahead belong to the same side: on the last one,
    without the first copy, which represents the skipped ones. In the forward pass, a parameter is used again on the way
    back, twice as many copies later. Much that is gathered ahead of the first layer of all takes a copy more to settle.
    """
    count = repetition.copies + 1
    before, behind = (
        max(2, reach.ahead + (reach.ahead > 2 and not repetition.start)),
        1 + max(2, reach.ahead, (reach.reuse + 1) // 2),
    )
    for more in (0, *MORE):
        if before + behind + 2 * more < count:
            skipped = count - before - behind - 2 * more
            yield Followed(repetition=repetition, before=before + more, skipped=skipped)
    yield Followed(repetition=repetition, before=count, skipped=0)
