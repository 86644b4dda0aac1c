"""A tape with its repeated layers counted: how many bytes are alive at each event, and which.

A layer that stands for `copies` more of its kind is interpreted once; what each copy adds in the forward and in the
backward pass is found here, and how much is alive with them all in `curve`. What a copy gained and the code after the
layers frees (a cache) is freed for all copies there.
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
    """The events of one micro-batch, folded. Rows before `shared_rows` were born before the first layer.

    `changes`: what each event adds to the bytes; `lifetimes`: when each row is freed. `left`: the rows that each window
    leaves alive; `gained`: what one copy adds in it, and `sizes` the same by size; `dropped`: what is freed for all
    copies at once; `remaining`: what one copy leaves when the step ends. `hidden_states_row`: the row that a repeating
    period passes to the next, where none is interpreted before it; a checkpoint keeps its input until its own backward
    pass. `retained_by_copies`: rows that copies keep where the interpreted layer frees them. `first`: the layer before
    those of the windows, if it is not run.
    """

    __slots__ = (
        "changes",
        "curve",
        "dropped",
        "first",
        "gained",
        "hidden_states_row",
        "left",
        "lifetimes",
        "net",
        "remaining",
        "retained_by_copies",
        "shared_rows",
        "sizes",
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
    ) -> None:
        self.shared_rows = shared_rows
        self.hidden_states_row = hidden_states_row
        self.first = first
        self.tape = tape
        self.windows = windows
        self.lifetimes = lifetimes
        self.changes = self.lifetimes.changes()
        self.left = [self.lifetimes.left(window.start, window.end) for window in windows]
        self.gained = [self._gain(place) if place else self._kept() for place in range(len(windows))]
        self.net = _unreplaced(self.gained)
        self.dropped = tuple(self._drops())
        if first is not None:
            sides = first.beside(self)
            self.windows += sides.windows
            self.gained += sides.gained
            self.dropped = tuple([(at, copies + 1, born) for at, copies, born in self.dropped])
        self.remaining = self._stays()
        self.sizes = [by_size(gained) for gained in self.gained]
        growth = tuple([sum([size * count for size, count in sizes.items()]) for sizes in self.sizes])
        self.retained_by_copies = self._late(growth)
        drops = tuple([(at, copies * born[4]) for at, copies, born in self.dropped])
        self.curve = MemoryCurve(self._delayed(), self.windows, growth, drops)

    def _kept(self) -> Counter[Allocation]:
        """What one copy adds in the forward pass: what it leaves alive, less what the next layer frees of that.

        The next layer frees as much as this one frees of the period before it, if what comes after this one frees it
        too: a first layer that keeps less, its input needing no gradient, shows frees that no copy shows.
        """
        window, lifetimes = self.windows[0], self.lifetimes
        left = self._left_in(0)
        by_this = lifetimes.freed(lifetimes.born(window.before, window.start), window.start, window.end)
        if not by_this:
            return left
        after = lifetimes.freed(self.left[0], window.end, self._until())
        both = lifetimes.kinds(by_this) & lifetimes.kinds(after)
        return left - both if both else left

    def _gain(self, place: int) -> Counter[Allocation]:
        """What one copy adds; tables that all layers share are freed once, not by every copy."""
        window, lifetimes = self.windows[place], self.lifetimes
        gained = self._left_in(place)
        gained.subtract(lifetimes.kinds(lifetimes.taken(self.shared_rows, window.start, window.end)))
        return gained

    def _left_in(self, place: int) -> Counter[Allocation]:
        """What a window leaves alive of what is born in it, less the input that it lets go."""
        left = self.lifetimes.kinds(self.left[place])
        if self.hidden_states_row is not None and self._hands_on_in(place):
            left[self.tape.rows[self.hidden_states_row]] -= 1
        return left

    def _hands_on_in(self, place: int) -> bool:
        """Whether a layer lets its input go in a window; a checkpoint does so in the backward pass."""
        if self.first is None:
            return place > 0
        window = self.windows[place]
        return window.start <= self.lifetimes.ends[self.first.row] < window.end

    def _until(self) -> int:
        """Where the backward pass through the repeated layers begins."""
        return self.windows[1].start if len(self.windows) > 1 else self.lifetimes.end

    def _drops(self) -> Iterator[tuple[int, int, Allocation]]:
        """Frees of what every copy gained in a window, after it: position, copies, kind of storage.

        Between the passes that is what is freed both of the window's own period and of the one before it: a copy in
        the middle has copies on either side. After the backward window, what waits there for the code before the layers
        (a prefix's gradients).
        """
        for place, window in enumerate(self.windows):
            last = bool(place)
            here = self.lifetimes.freed(self.left[place], window.end, self.lifetimes.end if last else self._until())
            if here:
                yield from self._dropped(self.gained[place], here, window, last=last)

    def _dropped(
        self, gained: Counter[Allocation], here: list[int], window: Window, *, last: bool
    ) -> Iterator[tuple[int, int, Allocation]]:
        """The frees of rows, each kind as often as a copy gained it."""
        lifetimes = self.lifetimes
        if last:
            left, rows = {born: count for born, count in gained.items() if count > 0}, here
        else:
            left = {born: min(count, gained[born]) for born, count in lifetimes.kinds(here).items()}
            alike = lifetimes.born(window.before, window.start)
            rows = lifetimes.freed(alike, window.end, self._until()) if alike else here
            rows = [row for row in rows if row != self.hidden_states_row]
            rows += self._unlike(here, alike) if alike else []
        for row in sorted(rows, key=lifetimes.ends.__getitem__):
            born = self.tape.rows[row]
            if left.get(born, 0) > 0:
                left[born] -= 1
                yield lifetimes.ends[row] + 1, window.copies, born

    def _unlike(self, here: list[int], before: range) -> list[int]:
        """Rows of kinds that the period before has none of, its input being of another dtype."""
        told = self.tape.rows
        kinds = {told[row] for row in before}
        return [row for row in here if told[row] not in kinds and row != self.hidden_states_row]

    def alive(
        self, moment: Moment, resident_tensors: Sequence[ResidentTensors] = (), left: Counter[Allocation] | None = None
    ) -> LiveTensors:
        """What is alive at a moment, beside tensors that stay and what is left of the step before."""
        counted: Counted = []
        for gained, repeats in zip(self.gained, moment.repeats, strict=True):
            counted += [(born, count * repeats) for born, count in gained.items()] if repeats else []
        counted += [(born, -copies) for at, copies, born in self.dropped if at <= moment.event]
        if left:
            counted += left.items()
        ends, rows = self.lifetimes.ends, self.tape.rows
        counted += [(rows[row], 1) for row in self.retained_by_copies if ends[row] < moment.event < self.windows[1].end]
        return LiveTensors(resident_tensors, self.lifetimes.alive(moment.event), counted, self._in_order())

    def _in_order(self) -> list[Allocation]:
        """All kinds in the order of their births, where the first layer's are those of the layer that is run."""
        rows = self.tape.rows
        return rows if self.first is None else [*rows[: self.first.row], *rows[self.first.row + 1 :]]

    def at_the_end(self) -> Counter[Allocation]:
        """What stays alive after the step's last event, but for gradients, which the next step sets to None."""
        copies = self.windows[0].copies + (self.first is not None) if self.windows else 0
        single = [born for born in self.lifetimes.alive(self.lifetimes.end) if born[3] != "gradients"]
        counted = [(born, count * copies) for born, count in self.remaining.items() if count and born[3] != "gradients"]
        return LiveTensors((), single, counted).kinds()

    def _late(self, growth: tuple[int, ...]) -> list[int]:
        """Tables that the repeated layers alone keep and the last of them lets go: copies before it still have them.

        The peak is among these, where each of them leaves less than it found.
        """
        if len(growth) < 2 or growth[1] > 0 or not self.windows[1].copies:
            return []
        window, entered = self.windows[1], self.tape.marked_rows.get("layer 0 forward")
        freed = self.lifetimes.freed(range(self.shared_rows), window.start, window.end)
        return [row for row in freed if row != entered]

    def _delayed(self) -> list[int]:
        """What each event adds where such tables stay to the end of the layer."""
        if not self.retained_by_copies:
            return self.changes
        changes = [*self.changes]
        for row in self.retained_by_copies:
            size = self.tape.rows[row][4]
            changes[self.lifetimes.ends[row]] += size
            changes[self.windows[1].end - 1] -= size
        return changes

    def _stays(self) -> Counter[Allocation]:
        remaining = Counter(self.net)
        remaining.subtract([born for _, _, born in self.dropped])
        return remaining


def _unreplaced(gained: list[Counter[Allocation]]) -> Counter[Allocation]:
    """Take out gains that are in the place of what no copy gained: a gradient goes on in another of its shape.

    Returns what a copy adds in all windows together.
    """
    held: Counter[Allocation] = Counter()
    for own in gained:
        held.update(own)
        for lost in [born for born, count in held.items() if count < 0]:
            for born in [born for born, count in own.items() if count > 0 and born[1:3] == lost[1:3]]:
                moved = min(own[born], -held[lost])
                for counts in (own, held):
                    counts[born] -= moved
                    counts[lost] += moved
    return held
