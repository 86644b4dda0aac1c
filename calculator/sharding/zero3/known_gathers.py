"""The bytes that stage 3 gathers and releases at known calls. The parameters are numbers."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from calculator.common.dtype import ITEMSIZE, allocated
from calculator.engine.module_calls import PINNED, UNPINNED
from calculator.sharding.zero3.known_calls import AHEAD, FETCH, GRADIENT, RELEASE
from calculator.sharding.zero3.parameters import GATHERED, IN_FLIGHT, PARTITIONED

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from calculator.common.dtype import DType
    from calculator.sharding.zero3.layout import Layout, PlacedSegment
    from calculator.sharding.zero3.parameters import Partitioned
    from calculator.sharding.zero3.sizes import Sizes
    from calculator.sharding.zero3.track import Happening


class _Gather:
    """An all-gather that nothing has waited for yet, or that parameters have not been taken from."""

    __slots__ = ("buffer", "is_done", "left", "numbers")

    def __init__(self, numbers: Sequence[int], buffer: int) -> None:
        self.numbers, self.buffer = numbers, buffer
        self.left, self.is_done = len(numbers), False


class KnownGathers:
    """The state of the parameters in a step whose calls are known: of `Coordinator`, `ModuleOrder` and `Live`."""

    def __init__(self, layout: Layout, sizes: Sizes) -> None:
        self._layout, self._ranks = layout, sizes.ranks
        self._bucket, self._max_live, self._max_reuse = sizes.prefetch_bucket, sizes.max_live, sizes.max_reuse_distance
        self._parameters, self._end = layout.parameters, len(layout.numbers)
        self._elements, self._whole = layout.elements, [each.whole for each in layout.parameters]
        count = len(layout.parameters)
        self._state = [GATHERED if each.persists else PARTITIONED for each in layout.parameters]
        #: The gathered weights by number: how many parameters and views refer to them, and their bytes.
        self._storages: list[list[int] | None] = [
            [1, each.with_padding] if each.persists else None for each in layout.parameters
        ]
        self._fetched_for: list[float] = [-1] * count
        self._in_flight: dict[int, _Gather] = {}
        self._pins: dict[tuple[str, int], list[int]] = {}
        self._recomputed: set[tuple[str, int]] = set()
        #: The number of parameters in the order of their uses that have been prefetched or used.
        self._head = 0
        self._in_copies = False
        self._is_apart = False
        self.bytes = self._most = layout.persistent_bytes
        self.sent = self.available = 0
        #: Whether a prefetch of the current segment was smaller because too many parameters were gathered, and the
        #: number of further elements that could be gathered without changing one.
        self.limited = False
        self.slack: float = inf

    def follow(self, placed: PlacedSegment) -> list[Happening]:
        """Follow the calls of a segment, and return the moments at which the gathered bytes change."""
        self.limited, self.slack, self._in_copies = False, inf, placed.slot is not None
        moments: list[Happening] = []
        begin, shift, gap = placed.begin, placed.shift, placed.gap
        places, most_live, enough = self._layout.places, self._max_live, self._max_live - self._bucket
        waits, releases, pins = self._wait, self._release, self._of_view
        for kind, number, place, position, own, rest, parameter in placed.calls:
            if kind == AHEAD:
                if self.available > enough:
                    self.limited = True
                if places[self._head] < begin + place + len(rest) or self.available < most_live:
                    self._look_ahead(rest, shift, begin + place, moments)
                continue
            before = most = self.bytes
            if kind == FETCH:
                self._most = before
                waits(own, shift)
                if self.available > enough:
                    self.limited = True
                if self.available < most_live or places[self._head] <= begin + place:
                    self._advance(rest, shift, begin + place)
                most = self._most
            elif kind == RELEASE:
                releases(own, rest, shift, begin + place, gap)
            elif kind == GRADIENT:
                moments.append((position, before, before, parameter, True, number))
                continue
            else:
                pins(own, shift, rest, position)
            if most != before or self.bytes != before:
                moments.append((position, most, self.bytes, None, True, number))
        return moments

    def _look_ahead(
        self,
        calls: Sequence[tuple[int, int, tuple[int, ...]]],
        shift: int,
        step: int,
        moments: list[Happening],
    ) -> None:
        """Call modules whose parameters are gathered, before which those of later ones are gathered."""
        if self._head == self._end:
            return
        for place, (position, number, numbers) in enumerate(calls, step):
            before = self._most = self.bytes
            self._advance(numbers, shift, place)
            if self._most != before:
                moments.append((position, self._most, self.bytes, None, True, number))

    def _wait(self, own: Sequence[int], shift: int) -> None:
        """Gather the parameters of a module that are not gathered, and wait for them."""
        state, in_flight = self._state, self._in_flight
        for each in own:
            if state[each + shift] == PARTITIONED:
                self._gather([each + shift for each in own if state[each + shift] == PARTITIONED])
        for each in own:
            if state[each + shift] == IN_FLIGHT or each + shift in in_flight:
                self._take(in_flight.pop(each + shift))

    def _take(self, gather: _Gather) -> None:
        """Make the gathered parameters available, and drop the reference of one of them."""
        if not gather.is_done:
            gather.is_done = True
            state, buffer = self._state, gather.buffer
            for number in gather.numbers:
                if buffer:
                    size = self._whole[number]
                    self._storages[number] = [1, size]
                    self.bytes += size
                state[number] = GATHERED
            self._most = max(self._most, self.bytes)
            if not self._in_copies:
                self._check(gather.numbers)
        gather.left -= 1
        if not gather.left:
            self.bytes -= gather.buffer

    def _check(self, numbers: Sequence[int]) -> None:
        """Note whether a parameter that represents other copies is gathered outside of the copies."""
        representing = self._layout.representing
        self._is_apart = self._is_apart or any(number in representing for number in numbers)

    def _advance(self, numbers: Sequence[int], shift: int, step: int) -> None:
        """Remove the parameters of the module that is called from the queue, and gather those of later ones."""
        if self._layout.places[self._head] <= step:
            self._use(numbers, shift, step)
        left = self._max_live - self.available
        if left < self._bucket:
            self.limited = True
        if left > 0:
            self._prefetch(left)

    def _use(self, numbers: Sequence[int], shift: int, step: int) -> None:
        """Do what `ModuleOrder.use` does."""
        fetched_for, order, places = self._fetched_for, self._layout.numbers, self._layout.places
        missing = len([each for each in numbers if fetched_for[each + shift] < step])
        removed: set[int] = set()
        while missing > len(removed) and self._head < self._end:
            number = order[self._head]
            fetched_for[number] = places[self._head]
            self._head += 1
            removed.add(number)

    def _prefetch(self, left: int) -> None:
        """Gather parameters of later modules until they fill a bucket, or until too many elements are gathered."""
        state, order, places, elements = self._state, self._layout.numbers, self._layout.places, self._elements
        chosen: dict[int, None] = {}
        most, head, end = min(left, self._bucket), self._head, self._end
        total = before_last = 0
        while head < end and total < most:
            number = order[head]
            self._fetched_for[number] = places[head]
            head += 1
            if state[number] == PARTITIONED and number not in chosen:
                chosen[number] = None
                before_last, total = total, total + elements[number]
        self._head = head
        self.slack = min(self.slack, left - before_last)
        if chosen:
            self._gather([*chosen])

    def _gather(self, numbers: list[int]) -> None:
        """Gather a parameter into its own buffer, or several into one for each dtype that is copied out at the end."""
        state, in_flight, buffer = self._state, self._in_flight, 0
        parameters = [self._parameters[number] for number in numbers]
        if len(numbers) == 1:
            size = parameters[0].with_padding
            self._storages[numbers[0]] = [1, size]
        else:
            size = buffer = self._buffers(parameters)
        gather = _Gather(numbers, buffer)
        for number, each in zip(numbers, parameters, strict=True):
            state[number] = IN_FLIGHT
            in_flight[number] = gather
            self.available += each.elements
            self.sent += each.payload
        self.bytes += size
        self._most = max(self._most, self.bytes)
        if not self._in_copies:
            self._check(numbers)

    def _buffers(self, parameters: Sequence[Partitioned]) -> int:
        partitions: dict[DType, int] = {}
        for each in parameters:
            partitions[each.dtype] = partitions.get(each.dtype, 0) + each.partition
        return sum([allocated(size * self._ranks, ITEMSIZE[dtype]) for dtype, size in partitions.items()])

    def _release(
        self, own: Sequence[tuple[int, float]], recomputed: Sequence[int], shift: int, step: int, gap: float
    ) -> None:
        """Free parameters that no other module uses: those that are not used again soon, and recomputed ones.

        `gap` is the number of elements up to the backward pass of the same copy.
        """
        state, fetched_for = self._state, self._fetched_for
        for each, threshold in own:
            number = each + shift
            if state[number] == GATHERED and threshold + gap >= self._max_reuse and fetched_for[number] <= step:
                self._free(number)
        for each in recomputed:
            if state[each + shift] == GATHERED:
                self._free(each + shift)

    def _free(self, number: int) -> None:
        self._state[number] = PARTITIONED
        self.available -= self._elements[number]
        storage, self._storages[number] = self._storages[number], None
        if storage is not None:
            storage[0] -= 1
            if not storage[0]:
                self.bytes -= storage[1]

    def _of_view(self, number: int, shift: int, view: tuple[str, str], position: int) -> None:
        """Add or drop the reference of a view."""
        kind, serial = view
        pin = serial, number + shift
        storage = self._storages[number + shift]
        if kind == UNPINNED:
            pinned = self._pins.pop(pin, None)
            self._recomputed.discard(pin)
            if pinned is not None:
                pinned[0] -= 1
                if not pinned[0]:
                    self.bytes -= pinned[1]
        elif storage is not None and kind == PINNED:
            storage[0] += 1
            self._pins[pin] = storage
            if position > self._layout.backward:
                self._recomputed.add(pin)
        elif storage is not None and position <= self._layout.backward:  # the graph of the loss keeps it
            storage[0] += 1

    def end(self, lingering: Iterable[int]) -> bool:
        """Drop the views, and release what modules use whose inputs got no gradient. Return whether it is known.

        It is not if something is still gathered for a module, or if a parameter that represents others was gathered
        where it stands for one alone.
        """
        for (_, number), storage in self._pins.items():
            self._drop(number, storage)
        for number in lingering:
            if self._state[number] == GATHERED:
                self._free(number)
        return not (self._in_flight or self._is_apart)

    def release_all(self) -> None:
        """Release every parameter, before the optimizer's step. The graph of the loss may keep some."""
        for number, storage in enumerate(self._storages):
            if storage is not None:
                self._drop(number, storage)

    def _drop(self, number: int, storage: list[int]) -> None:
        """Drop a reference outside of the copies."""
        storage[0] -= 1
        if not storage[0]:
            layout = self._layout
            self.bytes -= storage[1] * (layout.represents if number in layout.representing else 1)

    def looks_ahead_to(self, place: int) -> bool:
        """Return whether the module at an index of the order, or a later one, is prefetched."""
        return self._layout.places[self._head] >= place

    def state(self, placed: PlacedSegment) -> Hashable:
        """Return what determines what is gathered next, with numbers relative to the next copy."""
        first, from_copy = self._layout.first, placed.from_copy
        numbers = range(len(self._state))
        relative: list[Hashable] = [number - from_copy if number >= first else (number,) for number in numbers]
        storages, parameters = self._storages, self._parameters
        gathered = frozenset(
            [
                (relative[number], state, *(storages[number] or ()))
                for number, state in enumerate(self._state)
                if state == IN_FLIGHT or (state == GATHERED and not parameters[number].persists)
            ]
        )
        in_flight = frozenset(
            [
                (relative[number], relative[each.numbers[0]], each.left, each.buffer)
                for number, each in self._in_flight.items()
            ]
        )
        recomputed = frozenset([relative[number] for _, number in self._recomputed])
        at_end = self._head == self._end
        order, places = self._layout.numbers, self._layout.places
        ahead = None if at_end else (relative[order[self._head]], places[self._head] - placed.end)
        return gathered, in_flight, recomputed, ahead
