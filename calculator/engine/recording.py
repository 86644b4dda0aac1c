"""The recording of one micro-batch: the bytes alive at each event and the tensors behind them, all layers counted.

A layer with `copies` is interpreted once. The recording finds what each copy adds in the forward and in the backward
pass; `curve` counts them all. Where the code after the layers frees what a copy added (a cache), it frees it for all
copies at once.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from calculator.engine.lifetimes import by_size
from calculator.engine.live_tensors import LiveTensors
from calculator.engine.memory_curve import MemoryCurve

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.engine.lifetimes import Lifetimes
    from calculator.engine.live_tensors import Counted
    from calculator.engine.memory_curve import Moment, Window
    from calculator.engine.skipped_layer import SkippedLayer
    from calculator.engine.tape import Allocation, Tape
    from calculator.resident.per_parameter import ResidentTensors


class Recording:
    """The events of one micro-batch, with the copies of its repeated layers."""

    __slots__ = (
        "changes",
        "curve",
        "dropped",
        "first",
        "gained",
        "has_backward",
        "hidden_states_row",
        "lifetimes",
        "net",
        "remaining",
        "retained_by_copies",
        "shared_rows",
        "sizes",
        "surviving",
        "tape",
        "windows",
    )

    def __init__(
        self,
        tape: Tape,
        lifetimes: Lifetimes,
        windows: tuple[Window, ...] = (),
        shared_rows: int = 0,
        hidden_states_row: int | None = None,
        first: SkippedLayer | None = None,
        without_graph: tuple[Window, ...] = (),
    ) -> None:
        #: Rows below this number are allocated before the first layer.
        self.shared_rows = shared_rows
        #: The hidden states that a period passes to the next, where no earlier period is interpreted. A checkpoint
        #: keeps its input until its own backward pass.
        self.hidden_states_row = hidden_states_row
        #: The layer before those of the windows, if it is not interpreted.
        self.first = first
        self.tape = tape
        self.windows = windows
        #: Whether gradients flow through the repeated layers.
        self.has_backward = len(windows) > 1
        self.lifetimes = lifetimes
        #: The bytes that each event adds.
        self.changes = self.lifetimes.changes()
        #: The rows that each window allocates and leaves alive.
        self.surviving = [self.lifetimes.surviving(window.start, window.end) for window in windows]
        #: What one copy adds in each window, by kind.
        self.gained = [self._gained(index) if index else self._gained_forward() for index in range(len(windows))]
        #: What one copy adds in all windows together.
        self.net = _net(self.gained)
        #: Frees of all copies at once: (position, copies, kind).
        self.dropped = tuple(self._drops())
        if first is not None:
            extra = first.additions(self)
            self.windows += extra.windows
            self.gained += extra.gained
            self.dropped = tuple([(at, copies + 1, allocation) for at, copies, allocation in self.dropped])
        #: What one copy leaves alive when the step ends.
        self.remaining = self._remaining()
        for window in without_graph:
            self._add_without_graph(window)
        #: What one copy adds in each window, by size.
        self.sizes = [by_size(gained) for gained in self.gained]
        growth = tuple([sum([size * count for size, count in sizes.items()]) for sizes in self.sizes])
        #: Rows that the copies keep after the interpreted layer frees them.
        self.retained_by_copies = self._retained_by_copies(growth)
        drops = tuple([(at, copies * allocation[4]) for at, copies, allocation in self.dropped])
        self.curve = MemoryCurve(self._changes_with_retained(), self.windows, growth, drops)

    def _gained_forward(self) -> Counter[Allocation]:
        """What one copy adds in the forward pass: what survives it, less what the next layer frees of that.

        The next layer frees as much as this one frees of the period before it, provided that the code after this one
        frees it too. Otherwise the free belongs to the first layer alone: its input needs no gradient, so it keeps
        less than any copy.
        """
        window, lifetimes = self.windows[0], self.lifetimes
        surviving = self._surviving_without_input(0)
        before = lifetimes.allocated(window.before, window.start)
        freed_here = lifetimes.freed(before, window.start, window.end)
        if not freed_here:
            return surviving
        freed_after = lifetimes.freed(self.surviving[0], window.end, self._backward_start())
        both = lifetimes.kinds(freed_here) & lifetimes.kinds(freed_after)
        return surviving - both if both else surviving

    def _add_without_graph(self, window: Window) -> None:
        """Count the copies in a pass without a graph. What such a pass keeps, it frees at its end."""
        lifetimes = self.lifetimes
        surviving = lifetimes.surviving(window.start, window.end)
        gained = lifetimes.kinds(surviving)
        gained.subtract(lifetimes.kinds(lifetimes.freed_earlier_rows(self.shared_rows, window.start, window.end)))
        freed = lifetimes.freed(surviving, window.end, lifetimes.end)
        self.windows += (window,)
        self.gained.append(gained)
        self.dropped += tuple(self._drops_of(gained, freed, window, last=True))

    def _gained(self, index: int) -> Counter[Allocation]:
        """What one copy adds in a window. Tables that all layers share are freed once, not by every copy."""
        window, lifetimes = self.windows[index], self.lifetimes
        gained = self._surviving_without_input(index)
        gained.subtract(lifetimes.kinds(lifetimes.freed_earlier_rows(self.shared_rows, window.start, window.end)))
        return gained

    def _surviving_without_input(self, index: int) -> Counter[Allocation]:
        """What a window allocates and leaves alive, less the layer's input where the window frees it."""
        surviving = self.lifetimes.kinds(self.surviving[index])
        if self.hidden_states_row is not None and self._frees_input(index):
            surviving[self.tape.rows[self.hidden_states_row]] -= 1
        return surviving

    def _frees_input(self, index: int) -> bool:
        """Whether a layer frees its input in a window; a checkpoint does so in the backward pass."""
        if self.first is None:
            return index > 0
        window = self.windows[index]
        return window.start <= self.lifetimes.ends[self.first.output_row] < window.end

    def _backward_start(self) -> int:
        """The position at which the backward pass through the repeated layers starts."""
        return self.windows[1].start if len(self.windows) > 1 else self.lifetimes.end

    def _drops(self) -> Iterator[tuple[int, int, Allocation]]:
        """Frees, after a window, of what every copy gained in it: position, copies, kind.

        Between the passes, these are the frees both of the window's own period and of the period before it, because a
        copy in the middle has copies on either side. After the backward window, these are tensors that wait for the
        code before the layers (a prefix's gradients).
        """
        for index, window in enumerate(self.windows):
            last = bool(index)
            until = self.lifetimes.end if last else self._backward_start()
            freed = self.lifetimes.freed(self.surviving[index], window.end, until)
            if freed:
                yield from self._drops_of(self.gained[index], freed, window, last=last)

    def _drops_of(
        self, gained: Counter[Allocation], freed: list[int], window: Window, *, last: bool
    ) -> Iterator[tuple[int, int, Allocation]]:
        """The frees of rows, each kind as often as a copy gained it."""
        lifetimes = self.lifetimes
        if last:
            left, rows = {kind: count for kind, count in gained.items() if count > 0}, freed
        else:
            left = {kind: min(count, gained[kind]) for kind, count in lifetimes.kinds(freed).items()}
            before = lifetimes.allocated(window.before, window.start)
            rows = lifetimes.freed(before, window.end, self._backward_start()) if before else freed
            rows = [row for row in rows if row != self.hidden_states_row]
            rows += self._of_new_kinds(freed, before) if before else []
        for row in sorted(rows, key=lifetimes.ends.__getitem__):
            kind = self.tape.rows[row]
            if left.get(kind, 0) > 0:
                left[kind] -= 1
                yield lifetimes.ends[row] + 1, window.copies, kind

    def _of_new_kinds(self, freed: list[int], before: range) -> list[int]:
        """Rows of kinds that the period before lacks because its input has another dtype."""
        rows = self.tape.rows
        kinds = {rows[row] for row in before}
        return [row for row in freed if rows[row] not in kinds and row != self.hidden_states_row]

    def alive(
        self, moment: Moment, resident_tensors: Sequence[ResidentTensors] = (), left: Counter[Allocation] | None = None
    ) -> LiveTensors:
        """The tensors alive at a moment, with resident tensors and with what the previous step left."""
        counted: Counted = []
        for gained, repeats in zip(self.gained, moment.repeats, strict=True):
            counted += [(kind, count * repeats) for kind, count in gained.items()] if repeats else []
        counted += [(kind, -copies) for at, copies, kind in self.dropped if at <= moment.event]
        if left:
            counted += left.items()
        counted += [(self.tape.rows[row], 1) for row in self.retained_at(moment.event)]
        return LiveTensors(resident_tensors, self.lifetimes.alive(moment.event), counted, self._in_order())

    def retained_at(self, event: int) -> list[int]:
        """The rows that the copies keep at a position and the interpreted layer has freed."""
        ends = self.lifetimes.ends
        return [row for row in self.retained_by_copies if ends[row] < event < self.windows[1].end]

    def _in_order(self) -> list[Allocation]:
        """Every kind in the order of allocation; the first layer's kinds are those of the interpreted layer."""
        rows = self.tape.rows
        return rows if self.first is None else [*rows[: self.first.output_row], *rows[self.first.output_row + 1 :]]

    def at_the_end(self) -> Counter[Allocation]:
        """What stays alive after the last event, without gradients: the next step sets those to None."""
        copies = self.windows[0].copies + (self.first is not None) if self.windows else 0
        single = [kind for kind in self.lifetimes.alive(self.lifetimes.end) if kind[3] != "gradients"]
        counted = [(kind, count * copies) for kind, count in self.remaining.items() if count and kind[3] != "gradients"]
        return LiveTensors((), single, counted).kinds()

    def _retained_by_copies(self, growth: tuple[int, ...]) -> list[int]:
        """Tables that only the repeated layers keep: the last layer frees them, and the copies before it still do not.

        The peak is among these copies where each leaves fewer bytes than it found.
        """
        if not self.has_backward or growth[1] > 0 or not self.windows[1].copies:
            return []
        window, entered = self.windows[1], self.tape.marked_rows.get("layer 0 forward")
        freed = self.lifetimes.freed(range(self.shared_rows), window.start, window.end)
        return [row for row in freed if row != entered]

    def _changes_with_retained(self) -> list[int]:
        """The bytes that each event adds, with retained tables freed at the end of the layer."""
        if not self.retained_by_copies:
            return self.changes
        changes = [*self.changes]
        for row in self.retained_by_copies:
            size = self.tape.rows[row][4]
            changes[self.lifetimes.ends[row]] += size
            changes[self.windows[1].end - 1] -= size
        return changes

    def _remaining(self) -> Counter[Allocation]:
        remaining = Counter(self.net)
        remaining.subtract([kind for _, _, kind in self.dropped])
        return remaining


def _net(gained: list[Counter[Allocation]]) -> Counter[Allocation]:
    """Return what a copy adds in all windows together, and cancel a loss against a gain of the same shape and dtype.

    A copy may free a kind that no copy allocates: its gradient arrives under another name and leaves under its own.
    """
    net: Counter[Allocation] = Counter()
    for own in gained:
        net.update(own)
        for lost in [kind for kind, count in net.items() if count < 0]:
            for kind in [kind for kind, count in own.items() if count > 0 and kind[1:3] == lost[1:3]]:
                moved = min(own[kind], -net[lost])
                for counts in (own, net):
                    counts[kind] -= moved
                    counts[lost] += moved
    return net
