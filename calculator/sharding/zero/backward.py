"""The backward pass as DeepSpeed's gradient hooks divide it: what is alive at each hook and until the next one."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from calculator.engine.autograd import GRADIENT_OF
from calculator.engine.live_tensors import StorageCounts
from calculator.engine.memory_curve import Moment
from calculator.sharding.zero.parameters import Key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.engine.live_tensors import LiveTensors
    from calculator.engine.memory_curve import Window
    from calculator.engine.recording import Recording
    from calculator.engine.repetition import Repetition
    from calculator.engine.tape import Tape
    from calculator.resident.per_parameter import ResidentTensors

#: The mark after the backward pass, at which DeepSpeed reduces what is left.
EPILOGUE = "epilogue"


class At(NamedTuple):
    """A moment of the pass: the bytes alive, the number of events before it, and the copy of the repeated layers."""

    bytes: int
    event: int
    copy: int


class Hook(NamedTuple):
    """The moment at which a gradient is ready, and the fullest moment until the next hook.

    `gradient` are its bytes, which are alive at the moment and freed right after it. Without a key, it is the moment at
    which the backward pass enters the next layer.
    """

    key: Key | None
    gradient: int
    ready: At
    after: At


class BackwardPass:
    """The moments of one backward pass, with every copy of the repeated layers."""

    __slots__ = (
        "_base",
        "_last",
        "_marks",
        "_positions",
        "_recording",
        "_repetition",
        "before",
        "end",
        "hooks",
    )

    def __init__(self, tape: Tape, repetition: Repetition, recording: Recording) -> None:
        self._repetition, self._recording = repetition, recording
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
        self.hooks: list[Hook] = []
        #: The fullest moment before the first hook, and the moment at which DeepSpeed reduces what is left.
        self.before = At(-1, 0, 0)
        self._add(start, end)
        self.end = At(self._bytes(end, self._copies()), end, self._copies())

    def alive(self, at: At, resident_tensors: Sequence[ResidentTensors]) -> LiveTensors:
        """The tensors alive at a moment, with resident tensors."""
        recording = self._recording
        repeats = tuple(at.copy if number == 1 else each.copies for number, each in enumerate(recording.windows))
        of_row, freed = recording.storages.kinds.of_row, {}
        if at.copy == self._copies():
            # The recording has tables that only the copies before the last still keep.
            freed = {of_row[row]: -1 for row in recording.retained_at(at.event)}
        moment = Moment(event=at.event, bytes=at.bytes, repeats=repeats)
        return recording.alive(moment, resident_tensors, StorageCounts(recording.storages, freed))

    def _window(self) -> Window | None:
        windows = self._recording.windows
        return windows[1] if len(windows) > 1 else None

    def _copies(self) -> int:
        window = self._window()
        return window.copies if window is not None else 0

    def _growth(self) -> int:
        return self._recording.curve.growth[1] if self._window() is not None else 0

    def _bytes(self, position: int, copy: int) -> int:
        """The bytes alive before the event at a position."""
        base = self._last if copy == self._copies() else self._base
        return base[position] + copy * self._growth()

    def _add(self, start: int, end: int) -> None:
        window = self._window()
        if window is None:
            self._piece(start, end, 0)
            return
        self._piece(start, window.start, 0)
        first = len(self.hooks)
        self._piece(window.start, window.end, 0)
        own = self.hooks[first:]
        for copy in range(1, window.copies + 1):
            if own and (copy < window.copies or self._last is self._base):
                self._until(self._base, window.start, own[0].ready.event, copy * self._growth(), copy)
                self.hooks += self._repeated(own, copy)
            else:
                self._piece(window.start, window.end, copy)
        self._piece(window.end, end, window.copies)

    def _repeated(self, hooks: Sequence[Hook], copy: int) -> Iterator[Hook]:
        """The hooks of the first copy of the layers, in another copy."""
        more = copy * self._growth()
        back = copy * (self._repetition.end - self._repetition.start)
        for key, gradient, ready, after in hooks:
            of_copy = key if key is None or key.layer is None else Key(key.name, key.layer - back)
            entered = At(ready.bytes + more, ready.event, copy)
            yield Hook(of_copy, gradient, entered, At(after.bytes + more, after.event, copy))

    def _piece(self, start: int, end: int, copy: int) -> None:
        """Add the hooks between two positions, for one copy of the layers."""
        base = self._last if copy == self._copies() else self._base
        offset = copy * self._growth()
        at = start
        for position, label, row in self._marks:
            if not start < position <= end:
                continue
            self._until(base, at, position, offset, copy)
            ready = At(base[position] + offset, position, copy)
            at = position
            if row is None:
                self.hooks.append(Hook(None, 0, ready, ready))
                continue
            name = label.removeprefix(GRADIENT_OF)
            key = Key(name, self._layer(position, copy) if "*" in name else None)
            self.hooks.append(Hook(key, self._recording.row_bytes(row), ready, At(-1, position, copy)))
        self._until(base, at, end, offset, copy)

    def _until(self, base: Sequence[int], start: int, end: int, offset: int, copy: int) -> None:
        """Let the latest hook know the fullest moment after the events between two positions."""
        if end <= start:
            return
        most = max(base[start + 1 : end + 1])
        if not self.hooks:
            if most + offset > self.before.bytes:
                self.before = At(most + offset, base.index(most, start + 1), copy)
        elif most + offset > self.hooks[-1].after.bytes:
            self.hooks[-1] = self.hooks[-1]._replace(after=At(most + offset, base.index(most, start + 1), copy))

    def _layer(self, position: int, copy: int) -> int:
        """The number of the layer that runs at a position of the tape, in one copy."""
        repetition = self._repetition
        starts, layers = self._positions
        at = layers[bisect_left(starts, position) - 1]
        number = repetition.numbers[at]
        if repetition.start <= at < repetition.end:
            number += (repetition.copies - copy) * (repetition.end - repetition.start)
        return number


def _is_of_layer(label: str) -> bool:
    """Whether a mark is the moment at which the backward pass enters a layer, or leaves the first."""
    return label.startswith("layer ") and label.endswith("backward")


def _layers(tape: Tape, backward: int) -> tuple[list[int], list[int]]:
    """The positions at which the backward pass of each layer starts, and the layers' positions in the repetition."""
    found = sorted(
        (at, int(label.split()[1]) - 1) for at, label in tape.marks if at >= backward and _is_of_layer(label)
    )
    return [at for at, _ in found], [layer for _, layer in found]


def _curves(recording: Recording) -> tuple[list[int], list[int]]:
    """The bytes alive before each event with the first copy of the layers, and with the last one's frees of tables."""
    windows, growth = recording.windows, recording.curve.growth
    added: dict[int, int] = {}
    for number, (window, each) in enumerate(zip(windows, growth, strict=True)):
        if number != 1:
            added[window.end] = added.get(window.end, 0) + window.copies * each
    for at, size in recording.curve.drops:
        added[at] = added.get(at, 0) - size

    def curve(changes: Sequence[int]) -> list[int]:
        own = [*changes, 0]
        for at, size in added.items():
            own[at] += size
        return [0, *accumulate(own)]

    first = curve(recording.curve.changes)
    return first, first if not recording.retained_by_copies else curve(recording.changes)
