"""How many storages the copies of repeated layers add to a run, by kind.

A layer with `copies` is interpreted once. `Copies` finds what each copy adds in the forward and in the backward pass.
If the code after the layers frees something that each copy added (a cache), it frees it for all copies at once. Nothing
here depends on sizes. It only depends on which kinds of storages are equal. Runs with the same events and equal kinds
share one `Copies`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.engine.live_tensors import LiveKinds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from calculator.engine.kinds import EqualSizes, Key, Kinds
    from calculator.engine.lifetimes import Lifetimes
    from calculator.engine.memory_curve import Moment, Window
    from calculator.engine.skipped_layer import SkippedLayer
    from calculator.engine.tape import Tape

#: A change in the number of live storages of one size: (position, number of the size, count). It holds from the
#: position on.
CountChange = tuple[int, int, int]

#: By number of the size: the peak number that is alive at once, and the number that is left at the end.
Counts = dict[int, tuple[int, int]]


#: The maximum number of moments for which a `Copies` caches the live tensors.
MAX_MOMENTS = 64


class Copies:
    """The copies of the repeated layers of one tape."""

    __slots__ = (
        "_tables_freed",
        "bounds_first",
        "compares_layouts",
        "counts",
        "dropped",
        "first",
        "first_layer_counts",
        "gained",
        "generated",
        "has_backward",
        "hidden_states_row",
        "is_regular",
        "kinds",
        "left",
        "left_cache",
        "lifetimes",
        "live_cache",
        "marks",
        "net",
        "pass_blocks",
        "remaining",
        "shared_rows",
        "sizes",
        "sizes_left",
        "skipped",
        "spans",
        "surviving",
        "tape",
        "windows",
    )

    def __init__(
        self,
        tape: Tape,
        lifetimes: Lifetimes,
        kinds: Kinds,
        windows: tuple[Window, ...] = (),
        shared_rows: int = 0,
        hidden_states_row: int | None = None,
        first: SkippedLayer | None = None,
        no_grad: tuple[Window, ...] = (),
        *,
        bounds_first: bool = False,
        marks: dict[str, int] | None = None,
    ) -> None:
        #: The events and marks. The rows are not read.
        self.tape = tape
        #: The position of each mark.
        self.marks = {label: position for position, label in tape.marks} if marks is None else marks
        self.lifetimes = lifetimes
        self.kinds = kinds
        #: The first row that is allocated by a layer. Rows below this number exist before the first layer.
        self.shared_rows = shared_rows
        #: The row of the hidden states that one period passes to the next, if no earlier period is interpreted. A
        #: checkpoint keeps its input until its own backward pass.
        self.hidden_states_row = hidden_states_row
        #: The layer before the windows, if that layer is not interpreted.
        self.first = first
        #: Whether the first layer is interpreted with a gradient of its input that it does not have.
        self.bounds_first = bounds_first
        self.windows = windows
        #: Whether gradients flow through the repeated layers.
        self.has_backward = len(windows) > 1
        self._count_storages(no_grad)
        self._create_caches()

    def _count_storages(self, no_grad: tuple[Window, ...]) -> None:
        """Count the storages that each copy adds, drops and leaves."""
        #: For each window, the rows that it allocates and leaves alive.
        self.surviving = [self.lifetimes.surviving(window.start, window.end) for window in self.windows]
        #: For each window, the storages that one copy adds, by kind.
        self.gained = [self._gained(index) if index else self._gained_forward() for index in range(len(self.windows))]
        #: The storages that one copy adds in all windows together, and whether the result depends on which layouts are
        #: equal.
        self.net, self.compares_layouts = _net(self.gained, self.kinds.keys)
        #: The frees that happen for all copies at once: (position, copies, kind).
        self.dropped = tuple(self._drops())
        if self.first is not None:
            extra = self.first.additions(self)
            self.windows += extra.windows
            self.gained += extra.gained
            self.dropped = tuple([(at, copies + 1, kind) for at, copies, kind in self.dropped])
        #: The storages that one copy leaves alive when the step ends, by kind.
        self.remaining = self._remaining()
        for window in no_grad:
            self._add_no_grad(window)
        #: For each window, the storages that one copy adds, by size.
        self.sizes = [*map(self.kinds.by_size, self.gained)]
        #: The storages that one copy leaves alive when the step ends, by size.
        self.sizes_left = self.kinds.by_size(self.remaining)
        #: The storages that are alive after the last event, without gradients. The next step sets gradients to None.
        self.left = self._count_remaining()
        #: Whether the skipped first layer is like the other layers, as far as kinds can tell. True if no layer is
        #: skipped.
        self.is_regular = self.first is None or self.first.is_regular(self)

    def _create_caches(self) -> None:
        """Create the caches of results, which are filled when they are first read."""
        self.left_cache: dict[int, dict[int, int]] = {}
        #: The live storages by moment, retained rows and storages that an earlier micro-batch left.
        self.live_cache: dict[tuple[object, ...], LiveKinds] = {}
        #: The spans between marks, by phase.
        self.spans: dict[str, list[tuple[int, int]]] = {}
        #: Peak counts by the sizes that are equal and the additional changes.
        self.counts: dict[tuple[EqualSizes, tuple[CountChange, ...]], Counts] = {}
        #: For each skipped pass, how many more storages are alive before it than before the trained
        #: pass, by size. None until they are counted.
        self.skipped: list[list[tuple[int, int]]] | None = None
        #: The blocks of passes that generate, if there is a bound on them. None until they are counted.
        self.pass_blocks: Any = None
        #: What the passes of `generate` are derived from. None until it is read.
        self.generated: Any = None
        self._tables_freed: list[int] | None = None
        #: The sizes of which a skipped first layer may have the most storages alive, each with that number, by the
        #: sizes that are equal.
        self.first_layer_counts: dict[EqualSizes, list[tuple[int, int]]] = {}

    def count_kinds(self, rows: Iterable[int]) -> dict[int, int]:
        """Return the number of rows of each kind."""
        kinds = [*map(self.kinds.kind_of_row.__getitem__, rows)]
        counts = dict.fromkeys(kinds, 1)
        if len(counts) < len(kinds):
            counts.clear()
            for kind in kinds:
                counts[kind] = counts.get(kind, 0) + 1
        return counts

    @property
    def tables_freed(self) -> list[int]:
        """The rows from before the layers that the repeated layers free in the backward pass, except their input."""
        if self._tables_freed is None:
            window, entered = self.windows[1], self.tape.marked_rows.get("layer 0 forward")
            freed = self.lifetimes.freed(range(self.shared_rows), window.start, window.end)
            self._tables_freed = [row for row in freed if row != entered]
        return self._tables_freed

    def _gained_forward(self) -> dict[int, int]:
        """Count the storages that one copy of the layer leaves in memory after it and the next layer have run forward.

        The next layer frees as much of this layer as this layer frees of the period before it, if the code after this
        layer frees it too. Otherwise only the first layer frees it, whose input needs no gradient. That layer keeps
        less than any copy.
        """
        window, lifetimes = self.windows[0], self.lifetimes
        surviving = self._surviving_without_input(0)
        before = lifetimes.allocated(window.before, window.start)
        freed_here = lifetimes.freed(before, window.start, window.end)
        if not freed_here:
            return surviving
        freed_after = lifetimes.freed(self.surviving[0], window.end, self._backward_start())
        here, after = self.count_kinds(freed_here), self.count_kinds(freed_after)
        common = {kind: min(count, after[kind]) for kind, count in here.items() if kind in after}
        return _difference(surviving, common) if common else surviving

    def _add_no_grad(self, window: Window) -> None:
        """Count the copies in a no-grad pass. The pass frees at its end what it keeps."""
        lifetimes = self.lifetimes
        surviving = lifetimes.surviving(window.start, window.end)
        gained = self.count_kinds(surviving)
        first_row = next(event for event in self.tape.events[window.before :] if event >= 0)
        add(gained, self.count_kinds(lifetimes.freed_earlier_rows(first_row, window.start, window.end)), -1)
        freed = lifetimes.freed(surviving, window.end, lifetimes.end)
        self.windows += (window,)
        self.gained.append(gained)
        self.dropped += tuple(self._drops_of(gained, freed, window, last=True))

    def _gained(self, index: int) -> dict[int, int]:
        """Return the storages that one copy adds in a window.

        Tables that all layers share are freed once, not by every copy.
        """
        window = self.windows[index]
        gained = self._surviving_without_input(index)
        add(gained, self.count_kinds(self.lifetimes.freed_earlier_rows(self.shared_rows, window.start, window.end)), -1)
        return gained

    def _surviving_without_input(self, index: int) -> dict[int, int]:
        """Return the storages that a window leaves alive, without the layer's input if the window frees it."""
        surviving = self.count_kinds(self.surviving[index])
        if self.hidden_states_row is not None and self._frees_input(index):
            kind = self.kinds.kind_of_row[self.hidden_states_row]
            surviving[kind] = surviving.get(kind, 0) - 1
        return surviving

    def _frees_input(self, index: int) -> bool:
        """Return whether a layer frees its input in a window. A checkpoint frees it in the backward pass."""
        if self.first is None:
            return index > 0
        window = self.windows[index]
        return window.start <= self.lifetimes.ends[self.first.output_row] < window.end

    def _backward_start(self) -> int:
        """Return the position at which the backward pass through the repeated layers starts."""
        return self.windows[1].start if len(self.windows) > 1 else self.lifetimes.end

    def _drops(self) -> Iterator[tuple[int, int, int]]:
        """Yield where tensors that the copies added in a window are freed after it: (position, copies, kind).

        Between the forward and the backward pass, these are the frees that concern both the period of the window and
        the period before it, because a copy in the middle has copies on both sides. After the backward window, these
        are tensors that the code before the layers frees, such as the gradients of a prefix. Last come the tensors of
        the forward pass that live as long as the graph, such as the inputs that 8-bit layers keep.
        """
        for index, window in enumerate(self.windows):
            last = bool(index)
            until = self.lifetimes.end if last else self._backward_start()
            freed = self.lifetimes.freed(self.surviving[index], window.end, until)
            if freed:
                yield from self._drops_of(self.gained[index], freed, window, last=last)
        if self.has_backward:
            forward, backward = self.windows
            freed = self.lifetimes.freed(self.surviving[0], backward.end, self.lifetimes.end)
            if freed:
                yield from self._drops_of(self.gained[0], freed, forward, last=True)

    def _drops_of(
        self, gained: dict[int, int], freed: list[int], window: Window, *, last: bool
    ) -> Iterator[tuple[int, int, int]]:
        """Yield the frees of the given rows. Each kind is freed as often as a copy added it."""
        lifetimes = self.lifetimes
        if last:
            left, rows = {kind: count for kind, count in gained.items() if count > 0}, freed
        else:
            left = {kind: min(count, gained.get(kind, 0)) for kind, count in self.count_kinds(freed).items()}
            before = lifetimes.allocated(window.before, window.start)
            rows = lifetimes.freed(before, window.end, self._backward_start()) if before else freed
            rows = [row for row in rows if row != self.hidden_states_row]
            rows += self._with_new_kinds(freed, before) if before else []
        for row in sorted(rows, key=lifetimes.ends.__getitem__):
            kind = self.kinds.kind_of_row[row]
            if left.get(kind, 0) > 0:
                left[kind] -= 1
                yield lifetimes.ends[row] + 1, window.copies, kind

    def _with_new_kinds(self, freed: list[int], before: range) -> list[int]:
        """Return the rows whose kind does not occur in the period before.

        The input of that period has another dtype.
        """
        kind_of_row = self.kinds.kind_of_row
        kinds = {kind_of_row[row] for row in before}
        return [row for row in freed if kind_of_row[row] not in kinds and row != self.hidden_states_row]

    def _remaining(self) -> dict[int, int]:
        if not self.dropped:
            return self.net
        remaining = {**self.net}
        for _, _, kind in self.dropped:
            remaining[kind] = remaining.get(kind, 0) - 1
        return {kind: count for kind, count in remaining.items() if count}

    def left_after(self, position: int) -> dict[int, int]:
        """Return the storages alive after the last event that were not allocated before a position, by kind."""
        cached = self.left_cache.get(position)
        if cached is None:
            events = self.lifetimes.events[:position]
            cached = self.left_cache[position] = _difference(self.left, self.count_kinds(events))
        return cached

    def live_kinds(
        self, moment: Moment, retained: tuple[int, ...], left: tuple[tuple[int, int], ...] = ()
    ) -> LiveKinds:
        """Return the live storages at a moment, with the rows that copies retain and the storages that are left over.

        They are ordered by kind.
        """
        key = (moment.event, moment.repeats, retained, left)
        cached = self.live_cache.get(key)
        if cached is None:
            if len(self.live_cache) >= MAX_MOMENTS:
                self.live_cache.clear()
            counts = self._live_counts(moment, retained)
            add(counts, dict(left))
            cached = self.live_cache[key] = LiveKinds({kind: counts[kind] for kind in sorted(counts)}, {})
        return cached

    def _live_counts(self, moment: Moment, retained: tuple[int, ...]) -> dict[int, int]:
        counts = self.count_kinds((*self.lifetimes.alive(moment.event), *retained))
        for gained, repeats in zip(self.gained, moment.repeats, strict=True):
            if repeats:
                add(counts, gained, repeats)
        for at, count, kind in self.dropped:
            if at <= moment.event:
                counts[kind] = counts.get(kind, 0) - count
        return counts

    def _count_remaining(self) -> dict[int, int]:
        keys = self.kinds.keys
        copies = self.windows[0].copies + (self.first is not None) if self.windows else 0
        left = self.count_kinds(self.lifetimes.alive(self.lifetimes.end))
        add(left, self.remaining, copies)
        return {kind: count for kind, count in left.items() if count > 0 and keys[kind][3] != "gradients"}


def add(counts: dict[int, int], others: Mapping[int, int], times: int = 1) -> None:
    """Add other counts, each a number of times."""
    for kind, count in others.items():
        counts[kind] = counts.get(kind, 0) + times * count


def _difference(counts: Mapping[int, int], others: Mapping[int, int]) -> dict[int, int]:
    """Return the counts that are higher than the others, without the others."""
    return {kind: count - others.get(kind, 0) for kind, count in counts.items() if count > others.get(kind, 0)}


def _net(gained: list[dict[int, int]], keys: Sequence[Key]) -> tuple[dict[int, int], bool]:
    """Return the storages that a copy adds in all windows together, and whether layouts were compared.

    A loss is cancelled against a gain of the same shape and dtype. A copy may free a kind that no copy allocates,
    because a gradient arrives under one name and leaves under another.
    """
    net: dict[int, int] = {}
    compares = False
    for own in gained:
        if net:
            add(net, own)
        else:
            net.update(own)
        for lost in [kind for kind, count in net.items() if count < 0]:
            compares = True
            layout = keys[lost][1:3]
            for kind in [kind for kind, count in own.items() if count > 0 and keys[kind][1:3] == layout]:
                moved = min(own[kind], -net[lost])
                for counts in (own, net):
                    counts[kind] -= moved
                    counts[lost] = counts.get(lost, 0) + moved
    return {kind: count for kind, count in net.items() if count}, compares
