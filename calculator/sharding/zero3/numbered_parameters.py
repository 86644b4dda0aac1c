"""The bytes that stage 3 gathers and releases at recorded calls. The parameters are numbers.

It does what `Coordinator`, `ModuleOrder` and `References` do, without objects for each copy of modules and parameters.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from calculator.common.dtype import rounded
from calculator.sharding.zero3.numbered_uses import FETCH_SEVERAL, KEEP, PIN, RELEASE_SEVERAL
from calculator.sharding.zero3.recorded_calls import AHEAD, FETCH, GRADIENT, RELEASE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calculator.sharding.zero3.layout import Layout, PlacedSegment
    from calculator.sharding.zero3.sizes import Sizes
    from calculator.sharding.zero3.track import Happening


class _Gather:
    """An all-gather of several parameters, from which some have not been taken."""

    __slots__ = ("buffer", "is_done", "numbers", "remaining")

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers, self.buffer = numbers, 0
        self.remaining, self.is_done = len(numbers), False


#: The number from which numbers of parameters outside of the copies count, below those that count from a copy.
_OUTSIDE = 1 << 32

#: The gather of one parameter into its own buffer.
_ALONE = _Gather(())


class NumberedParameters:
    """The state of the parameters in a step with recorded calls."""

    def __init__(self, layout: Layout, sizes: Sizes) -> None:
        self._layout = layout
        self._bucket, self._max_live, self._max_reuse = sizes.prefetch_bucket, sizes.max_live, sizes.max_reuse_distance
        self._elements, self._whole, self._payloads = layout.elements, layout.whole, layout.payloads
        self._with_padding, self._sizes_by_dtype = layout.with_padding, layout.sizes_by_dtype
        self._order, self._places = layout.order, layout.places
        self._end = len(layout.order)
        self._persistent = layout.persistent
        #: The parameters that are neither gathered nor in flight.
        self._partitioned = {*range(layout.count)} - layout.persistent
        #: The gathered weights by number: how many parameters and views refer to them, and their bytes.
        self._storages = {number: [1, layout.with_padding[number]] for number in layout.persistent}
        #: The last module in the order for which each parameter was prefetched or used.
        self._fetched_for: list[float] = [-1] * layout.count
        self._in_flight: dict[int, _Gather] = {}
        #: The gathered weights that views refer to, by the number of the view and that of the parameter, and the views
        #: that recomputations created.
        self._pins: dict[tuple[str, int], list[int]] = {}
        self._recomputed: set[tuple[str, int]] = set()
        #: The number of parameters in the order that have been prefetched or used, and the module that uses the next.
        self._head, self._next = 0, layout.places[0]
        #: Whether a copy runs, and whether a parameter that represents others was gathered outside of the copies.
        self._in_copies = self._is_apart = False
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
        # A parameter is freed if its next use is this far away.
        begin, shift, far = placed.begin, placed.shift, self._max_reuse - placed.gap
        most_live, enough, limited = self._max_live, self._max_live - self._bucket, False
        in_flight, storages, fetched_for = self._in_flight, self._storages, self._fetched_for
        partitioned, elements = self._partitioned, self._elements
        for kind, number, place, position, own, others, ahead in placed.calls:
            here = begin + place
            if ahead:
                limited = limited or self.available > enough
                if self._next < here or (self.available < most_live and self._head < self._end):
                    self._look_ahead(ahead, shift, here - len(ahead), moments)
            before = self.bytes
            if kind == FETCH:
                self._most = before
                parameter = own + shift
                gather = in_flight.pop(parameter, None)
                if gather is None:
                    if parameter in partitioned:
                        partitioned.remove(parameter)
                        self._gather([parameter], elements[parameter])
                        del in_flight[parameter]
                elif gather is not _ALONE:
                    self._take(gather)
                limited = limited or self.available > enough
                if self._next <= here or self.available < most_live:
                    self._advance(others, shift, here)
                if self._most != before or self.bytes != before:
                    moments.append((position, self._most, self.bytes, None, True, number))
            elif kind == RELEASE:
                parameter = own + shift
                if (
                    others >= far
                    and parameter in storages
                    and parameter not in in_flight
                    and fetched_for[parameter] <= here
                ):
                    partitioned.add(parameter)
                    self.available -= elements[parameter]
                    storage = storages.pop(parameter)
                    storage[0] -= 1
                    if not storage[0]:
                        self.bytes = before - storage[1]
                        moments.append((position, before, self.bytes, None, True, number))
            elif kind == GRADIENT:
                moments.append((position, before, before, own, True, number))
            elif kind == KEEP:
                if own + shift in storages:
                    storages[own + shift][0] += 1
            elif kind != AHEAD:
                self._most = before
                self._follow_rare_call(kind, own, others, shift, here, far)
                if self._most != before or self.bytes != before:
                    moments.append((position, self._most, self.bytes, None, True, number))
        self.limited = self.limited or limited
        return moments

    def _follow_rare_call(self, kind: int, own: Any, others: Any, shift: int, step: int, far: float) -> None:
        """Follow a call of a rare kind."""
        if kind == FETCH_SEVERAL:
            self._fetch_several([number + shift for number in own], others, shift, step)
        elif kind == RELEASE_SEVERAL:
            self._release(own, shift, step, far)
            self._release_recomputed(others, shift)
        elif kind == PIN:
            self._pin(own + shift, *others)
        else:
            self._unpin(own + shift, others)

    def _look_ahead(
        self, calls: Iterable[tuple[int, int, Sequence[int]]], shift: int, step: int, moments: list[Happening]
    ) -> None:
        """Call modules whose parameters are gathered, before which those of later ones are gathered."""
        for place, (position, number, numbers) in enumerate(calls, step):
            before = self._most = self.bytes
            self._advance(numbers, shift, place)
            if self._most != before:
                moments.append((position, self._most, self.bytes, None, True, number))

    def _fetch_several(self, own: Sequence[int], numbers: Sequence[int], shift: int, step: int) -> None:
        """Gather those of a module's parameters that are not gathered, wait for all of them, and look ahead."""
        self._most = self.bytes
        missing = [number for number in own if number in self._partitioned]
        if missing:
            self._partitioned.difference_update(missing)
            self._gather(missing, sum([self._elements[number] for number in missing]))
        for number in own:
            gather = self._in_flight.pop(number, _ALONE)
            if gather is not _ALONE:
                self._take(gather)
        self._advance(numbers, shift, step)

    def _take(self, gather: _Gather) -> None:
        """Make the parameters of a gather available, and drop the reference of one of them."""
        if not gather.is_done:
            self._copy_out(gather)
        gather.remaining -= 1
        if not gather.remaining:
            self.bytes -= gather.buffer

    def _copy_out(self, gather: _Gather) -> None:
        """Make the parameters of a gather available."""
        gather.is_done = True
        whole, storages, total = self._whole, self._storages, 0
        for number in gather.numbers:
            size = whole[number]
            total += size
            storages[number] = [1, size]
        self.bytes += total
        self._most = max(self._most, self.bytes)
        if not self._in_copies:
            self._check(gather.numbers)

    def _check(self, numbers: Sequence[int]) -> None:
        """Note whether a parameter that represents other copies is gathered outside of the copies."""
        self._is_apart = self._is_apart or any(number in self._layout.representing for number in numbers)

    def _advance(self, numbers: Sequence[int], shift: int, step: int) -> None:
        """Remove the parameters of the module that is called from the queue, and gather those of later ones."""
        if self._next <= step:
            self._use(numbers, shift, step)
        left = self._max_live - self.available
        if left < self._bucket:
            self.limited = True
        if left > 0 and self._head < self._end:
            self._prefetch(left)

    def _use(self, numbers: Sequence[int], shift: int, step: int) -> None:
        """Do what `ModuleOrder.use` does."""
        fetched_for = self._fetched_for
        missing = len([number for number in numbers if fetched_for[number + shift] < step])
        removed: set[int] = set()
        head = self._head
        order, places = self._order, self._places
        while missing > len(removed) and head < self._end:
            fetched_for[order[head]] = places[head]
            removed.add(order[head])
            head += 1
        self._head, self._next = head, places[head]

    def _prefetch(self, left: int) -> None:
        """Gather parameters of later modules until they fill a bucket, or until too many elements are gathered."""
        order, places, begin = self._order, self._places, self._head
        elements, partitioned, fetched_for = self._elements, self._partitioned, self._fetched_for
        chosen: list[int] = []
        most, head = min(left, self._bucket), begin
        total = before_last = 0
        end = self._end
        while head < end and total < most:
            number = order[head]
            fetched_for[number] = places[head]
            head += 1
            if number in partitioned:
                partitioned.remove(number)
                chosen.append(number)
                before_last = total
                total += elements[number]
        self._head, self._next = head, places[head]
        self.slack = min(self.slack, left - before_last)
        if chosen:
            self._gather(chosen, total)

    def _gather(self, numbers: list[int], elements: int) -> None:
        """Gather a parameter into its own buffer, or several into one for each dtype that is copied out at the end.

        The caller has removed them from those that are partitioned.
        """
        if len(numbers) == 1:
            number = numbers[0]
            size = self._with_padding[number]
            self._storages[number] = [1, size]
            self._in_flight[number] = _ALONE
            self.sent += self._payloads[number]
        else:
            in_flight, payloads, sizes_by_dtype = self._in_flight, self._payloads, self._sizes_by_dtype
            gather, sent = _Gather(numbers), 0
            for number in numbers:
                in_flight[number] = gather
                sent += payloads[number]
            if len(sizes_by_dtype) == 1:
                size = rounded(sent)
            else:
                size = sum([rounded(sum([sizes[number] for number in numbers])) for sizes in sizes_by_dtype])
            gather.buffer = size
            self.sent += sent
        self.available += elements
        self.bytes += size
        self._most = max(self._most, self.bytes)
        if not self._in_copies:
            self._check(numbers)

    def _release(self, own: Iterable[tuple[int, float]], shift: int, step: int, far: float) -> None:
        """Free parameters that no other module uses, and that are not used again soon."""
        for parameter, distance in own:
            number = parameter + shift
            is_gathered = number in self._storages and number not in self._in_flight
            if distance >= far and is_gathered and self._fetched_for[number] <= step:
                self._free(number)

    def _release_recomputed(self, numbers: Iterable[int], shift: int) -> None:
        """Free parameters that a recomputation gathered, and that no module uses any more."""
        for number in numbers:
            if number + shift not in self._partitioned and number + shift not in self._in_flight:
                self._free(number + shift)

    def _free(self, number: int) -> None:
        self._partitioned.add(number)
        self.available -= self._elements[number]
        storage = self._storages.pop(number)
        storage[0] -= 1
        if not storage[0]:
            self.bytes -= storage[1]

    def _pin(self, number: int, view: str, is_recomputed: bool) -> None:  # noqa: FBT001  positional in a call
        """Add the reference of a view, which a recomputation may have created."""
        storage = self._storages.get(number)
        if storage is not None:
            storage[0] += 1
            self._pins[view, number] = storage
            if is_recomputed:
                self._recomputed.add((view, number))

    def _unpin(self, number: int, view: str) -> None:
        """Drop the reference of a view."""
        pinned = self._pins.pop((view, number), None)
        self._recomputed.discard((view, number))
        if pinned is not None:
            pinned[0] -= 1
            if not pinned[0]:
                self.bytes -= pinned[1]

    def end(self, lingering: Iterable[int]) -> bool:
        """Drop the views, and release what modules use whose inputs got no gradient. Return whether it is known.

        It is not if something is still gathered for a module, or if a parameter that represents others was gathered
        where it stands for one alone.
        """
        for (_, number), storage in self._pins.items():
            self._drop(number, storage)
        for number in lingering:
            if number not in self._partitioned:
                self._free(number)
        return not (self._in_flight or self._is_apart)

    def release_all(self) -> None:
        """Release every parameter, before the optimizer's step. The graph of the loss may keep some."""
        for number, storage in self._storages.items():
            self._drop(number, storage)

    def _drop(self, number: int, storage: list[int]) -> None:
        """Drop a reference outside of the copies."""
        storage[0] -= 1
        if not storage[0]:
            layout = self._layout
            self.bytes -= storage[1] * (layout.represents if number in layout.representing else 1)

    def looks_ahead_to(self, place: int) -> bool:
        """Return whether the module at an index of the order, or a later one, is prefetched."""
        return self._next >= place

    def state(self, placed: PlacedSegment) -> object:
        """Return the state that determines what is gathered next. Numbers count from a copy on."""
        first, from_copy, persistent = self._layout.first, placed.from_copy, self._persistent
        gathered = {
            number - (from_copy if number >= first else _OUTSIDE): (*storage,)
            for number, storage in self._storages.items()
            if number not in persistent
        }
        # The first parameter of a gather may have been released, so that it has no place.
        in_flight = {
            number - (from_copy if number >= first else _OUTSIDE): (
                gather.numbers[0] - number if gather.numbers else 0,
                gather.remaining,
                gather.buffer,
            )
            for number, gather in self._in_flight.items()
        }
        recomputed = {number - (from_copy if number >= first else _OUTSIDE) for _, number in self._recomputed}
        head = -1 if self._head == self._end else self._order[self._head]
        ahead = head - from_copy if head >= first else head, self._next - placed.end
        return gathered, in_flight, recomputed, ahead
