"""The backward pass, divided by DeepSpeed's gradient hooks: the bytes alive at each hook and until the next one."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from calculator.engine.autograd import GRADIENT_OF
from calculator.engine.live_tensors import StorageCounts
from calculator.engine.memory_curve import Moment
from calculator.sharding.zero.parameters import Key, gradient_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.engine.live_tensors import LiveTensors
    from calculator.engine.memory_curve import Window
    from calculator.engine.recording import Recording
    from calculator.engine.repetition import Repetition
    from calculator.engine.tape import Tape
    from calculator.resident.per_parameter import ResidentTensors

#: The mark after the backward pass, at which DeepSpeed reduces the remaining gradients.
EPILOGUE = "epilogue"


class At(NamedTuple):
    """A moment of the pass: the bytes alive, the number of events before it, and the copy of the repeated layers."""

    bytes: int
    event: int
    copy: int


class Hook(NamedTuple):
    """A gradient that is ready, and the peak moment since the previous hook.

    `gradient` is its number of bytes. They are alive when the gradient is ready, and freed right after that.
    """

    most: At
    key: Key
    gradient: int
    ready: At


class Stretch:
    """The moments of one layer, or of the modules between layers, in each copy.

    Attributes:
        hooks: The hooks of the first copy, in order.
        after: The peak moment after the hooks, if there is any.
        copies: The numbers of the copies.
        enters: Whether it begins with the moment at which the pass enters a layer.
        peak: The peak moment.
        kept: The peak moment if gradients stay alive, and the bytes of the gradients that are ready before it.
        gradients: The bytes of all gradients.
    """

    __slots__ = ("_back", "_growth", "after", "copies", "enters", "gradients", "hooks", "kept", "peak")

    def __init__(
        self, hooks: list[Hook], after: At | None, copies: range, growth: int, back: int, *, enters: bool
    ) -> None:
        self.hooks, self.after, self.copies, self.enters = hooks, after, copies, enters
        #: The bytes by which each copy exceeds the copy before it, and by how many layers its layer numbers are lower.
        self._growth, self._back = growth, back
        moments, self.gradients = [], 0
        for hook in hooks:
            moments.append((hook.most, self.gradients))
            self.gradients += hook.gradient
        if after is not None:
            moments.append((after, self.gradients))
        self.peak = max(moments, key=lambda moment: moment[0].bytes)[0]
        self.kept = max(moments, key=lambda moment: moment[0].bytes + moment[1])

    def excess_bytes(self, copy: int) -> int:
        """Return the bytes by which a copy exceeds the first one."""
        return (copy - self.copies[0]) * self._growth

    def moved(self, at: At, copy: int) -> At:
        """Return a moment of the first copy in another copy."""
        more = copy - self.copies[0]
        return tuple.__new__(At, (at.bytes + more * self._growth, at.event, copy)) if more else at

    def key_in(self, key: Key, copy: int) -> Key:
        """Return a parameter of the first copy in another copy."""
        name, layer = key
        return key if layer is None else Key(name, layer - (copy - self.copies[0]) * self._back)


class BackwardPass:
    """The moments of one backward pass, with every copy of the repeated layers."""

    __slots__ = (
        "_base",
        "_copies",
        "_growth",
        "_last",
        "_marks",
        "_positions",
        "_recording",
        "_repetition",
        "_window",
        "end",
        "runs",
    )

    def __init__(self, tape: Tape, repetition: Repetition, recording: Recording) -> None:
        self._repetition, self._recording = repetition, recording
        windows = recording.windows
        #: The window of the repeated layers, their copies, and the bytes by which each exceeds the copy before it.
        self._window: Window | None = windows[1] if len(windows) > 1 else None
        self._copies = self._window.copies if self._window is not None else 0
        self._growth = recording.curve.growth[1] if self._window is not None else 0
        marks = {label: at for at, label in tape.marks}
        self._base, self._last = _curves(recording)
        start, end = marks["backward"], marks[EPILOGUE]
        inside = [(at, label) for at, label in tape.marks if start <= at <= end]
        self._marks = [
            (at, label, tape.marked_rows[label] if label.startswith(GRADIENT_OF) else None)
            for at, label in inside
            if label.startswith(GRADIENT_OF) or _is_of_layer(label)
        ]
        self._positions = _layers(tape, start)
        #: Lists of stretches that run one after the other, once for each of their copies.
        self.runs = [*self._runs(start, end)]
        #: The moment at which DeepSpeed reduces the remaining gradients.
        self.end = At(self._bytes(end, self._copies), end, self._copies)

    def alive(self, at: At, resident_tensors: Sequence[ResidentTensors]) -> LiveTensors:
        """Return the tensors alive at a moment, with resident tensors."""
        recording = self._recording
        repeats = tuple(at.copy if number == 1 else window.copies for number, window in enumerate(recording.windows))
        kind_of_row, freed = recording.storages.kinds.kind_of_row, {}
        if at.copy == self._copies:
            # The recording includes tables that only the copies before the last one still keep.
            freed = {kind_of_row[row]: -1 for row in recording.retained_at(at.event)}
        moment = Moment(event=at.event, bytes=at.bytes, repeats=repeats)
        return recording.alive(moment, resident_tensors, StorageCounts(recording.storages, freed))

    def _bytes(self, position: int, copy: int) -> int:
        """Return the bytes alive before the event at a position."""
        base = self._last if copy == self._copies else self._base
        return base[position] + copy * self._growth

    def _runs(self, start: int, end: int) -> Iterator[list[Stretch]]:
        window = self._window
        if window is None:
            yield self._stretches(start, end, range(1))
            return
        copies = window.copies
        alike = range(copies + 1 if self._last is self._base else copies)
        yield self._stretches(start, window.start, range(1))
        yield self._stretches(window.start, window.end, alike)
        if len(alike) == copies:
            yield self._stretches(window.start, window.end, range(copies, copies + 1))
        yield self._stretches(window.end, end, range(copies, copies + 1))

    def _stretches(self, start: int, end: int, copies: range) -> list[Stretch]:
        """Return the stretches between two positions."""
        if not copies:
            return []
        growth, back, copy = self._growth, self._repetition.end - self._repetition.start, copies[0]
        stretches: list[Stretch] = []
        hooks: list[Hook] = []
        at, most, enters = start, None, False
        marks = [mark for mark in self._marks if start < mark[0] <= end]
        for position, label, row in (*marks, (end, "", None)):
            ready = self._moment_before(position, copy)
            most, at = self._highest_moment(most, at, position, copy), position
            if row is not None:
                key = gradient_key(label, self._layer(position, copy) if "*" in label else None)
                hooks.append(Hook(most or ready, key, self._recording.row_bytes(row), ready))
                most = None
                continue
            if hooks or most is not None:
                stretches.append(Stretch(hooks, most, copies, growth, back, enters=enters))
            hooks, most, enters = [], ready, True
        return stretches

    def _moment_before(self, position: int, copy: int) -> At:
        """Return the moment before the event at a position, in one copy of the layers."""
        base = self._last if copy == self._copies else self._base
        return At(base[position] + copy * self._growth, position, copy)

    def _highest_moment(self, most: At | None, start: int, end: int, copy: int) -> At | None:
        """Return the peak moment among `most` and the moments after the events between two positions."""
        if end <= start:
            return most
        base = self._last if copy == self._copies else self._base
        size = max(base[start + 1 : end + 1])
        total = size + copy * self._growth
        return most if most is not None and most.bytes >= total else At(total, base.index(size, start + 1), copy)

    def _layer(self, position: int, copy: int) -> int:
        """Return the number of the layer that runs at a position of the tape, in one copy."""
        repetition = self._repetition
        starts, layers = self._positions
        at = layers[bisect_left(starts, position) - 1]
        number = repetition.numbers[at]
        if repetition.start <= at < repetition.end:
            number += (repetition.copies - copy) * (repetition.end - repetition.start)
        return number


def _is_of_layer(label: str) -> bool:
    """Return whether a mark is where the backward pass enters a layer, or where it leaves the first layer."""
    return label.startswith("layer ") and label.endswith("backward")


def _layers(tape: Tape, backward: int) -> tuple[list[int], list[int]]:
    """Return the positions at which the backward pass of each layer starts.

    Also return the layers' positions in the repetition.
    """
    layers = sorted(
        (at, int(label.split()[1]) - 1) for at, label in tape.marks if at >= backward and _is_of_layer(label)
    )
    return [at for at, _ in layers], [layer for _, layer in layers]


def _curves(recording: Recording) -> tuple[list[int], list[int]]:
    """Return the bytes alive before each event, with the first copy of the layers and with the last one.

    The last copy also frees tables that earlier copies keep.
    """
    windows, growth = recording.windows, recording.curve.growth
    added: dict[int, int] = {}
    for number, (window, bytes_of_copy) in enumerate(zip(windows, growth, strict=True)):
        if number != 1:
            added[window.end] = added.get(window.end, 0) + window.copies * bytes_of_copy
    for at, size in recording.curve.drops:
        added[at] = added.get(at, 0) - size

    def curve(changes: Sequence[int]) -> list[int]:
        steps = [*changes, 0]
        for at, size in added.items():
            steps[at] += size
        return [0, *accumulate(steps)]

    first = curve(recording.curve.changes)
    return first, first if not recording.retained_by_copies else curve(recording.changes)
