"""A call of `generate`, replayed on a flat device: the load, the prompt's pass, and a pass for each later token.

A pass for a token repeats most of the previous one. If it finds the small pool in a known state and requests the same
small tensors, it leaves the same state. Then only its large tensors are placed. The pools depend on each other only if
a device refuses a segment and cached segments are freed. Then all tensors of the pass are placed in order.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, NamedTuple

from calculator.allocator.flat_device import SMALL, FlatDevice
from calculator.allocator.flat_expandable import FlatExpandable
from calculator.allocator.out_of_memory import OutOfMemoryError
from calculator.allocator.replay import WORKSPACE
from calculator.allocator.segments import BLOCK, LARGE_SEGMENT
from calculator.common.budget import check_budget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.allocator.flat_pool import Placed, Places
    from calculator.allocator.loading import Loading
    from calculator.training_step.generate_trace import GenerateTraces, PassProgram


#: The number of earlier passes that are remembered besides the last one. Tensors of the loop alternate between two
#: places.
RECENT = 3


class GenerateCall:
    """The load and the passes of a call of `generate`.

    Attributes:
        loading: The events of loading the model.
        workspace: Bytes of the matrix library's workspace, which is allocated before the prompt's pass.
        traces: The passes.
        passes: The number of passes, which is the number of generated tokens.
    """

    __slots__ = ("loading", "passes", "traces", "workspace")

    def __init__(self, loading: Loading, workspace: int, traces: GenerateTraces, passes: int) -> None:
        self.loading = loading
        self.workspace = workspace
        self.traces = traces
        self.passes = passes

    def units(self) -> int:
        """Return an upper bound on the size of all segments that it can request, in units of 512 bytes."""
        sizes = [*self.loading.sizes, self.workspace]
        for number in {0, self.passes - 1}:
            program, kinds = self.traces.sized(number)
            sizes += [kinds[kind] for kind in program.kinds] * (self.passes if number else 1)
        return (sum(sizes) + len(sizes) * LARGE_SEGMENT) // BLOCK


class _Rows:
    """The rows of a program on one kind of device: their sizes, pools and places in the current pass."""

    __slots__ = ("_device", "_events", "_kinds", "_of_kind", "_requested", "keys", "places", "program", "sizes")

    def __init__(self, program: PassProgram, device: FlatDevice | FlatExpandable) -> None:
        count = len(program.kinds)
        self.program = program
        self.sizes, self.keys = [0] * count, [0] * count
        self.places: Places = [0] * count, [0] * count
        self._device = device
        self._requested: Sequence[int] = ()
        self._kinds = [-1] * (max(program.kinds) + 1)
        self._of_kind: list[list[int]] = [[] for _ in self._kinds]
        for row, kind in enumerate(program.kinds):
            self._of_kind[kind].append(row)
        self._events: dict[object, tuple[list[int], list[int]]] = {}

    def begin(self, kinds: Sequence[int], given: Sequence[Placed]) -> list[int]:
        """Set the sizes of the rows and the places of the tensors that the pass receives.

        Return the pools of these tensors.
        """
        for kind, (old, new) in enumerate(zip(self._kinds, kinds, strict=True)):
            if old != new:
                (key,) = self._device.keys([new // BLOCK])
                for row in self._of_kind[kind]:
                    self.sizes[row], self.keys[row] = new // BLOCK, key
        self._kinds[:] = kinds
        self._requested = kinds
        addresses, end_addresses = self.places
        pools = self._device.pools([address for address, _ in given])
        for row, place, pool in zip(self.program.given, given, pools, strict=True):
            addresses[row], end_addresses[row] = place
            self.sizes[row], self.keys[row] = place[1] - place[0], pool
        for kind in {self.program.kinds[row] for row in self.program.given}:
            self._kinds[kind] = -1
        return pools

    def events(self) -> tuple[list[int], list[int]]:
        """Return the events of all rows that have a block, and the events of large rows."""
        sizes = self.sizes
        given = [sizes[row] > SMALL for row in self.program.given]
        pattern = *((size > 0) + (size > SMALL * BLOCK) for size in self._requested), *given
        if pattern not in self._events:
            every = [event for event in self.program.events if sizes[max(event, ~event)]]
            self._events[pattern] = every, [event for event in every if sizes[max(event, ~event)] > SMALL]
        return self._events[pattern]


class GenerateRun:
    """A call of `generate` on one kind of device, for any number of replays."""

    __slots__ = ("_rows", "call", "device")

    def __init__(self, call: GenerateCall, *, expandable: bool = False) -> None:
        self.call = call
        bits = call.units().bit_length()
        self.device: FlatDevice | FlatExpandable = FlatExpandable(bits) if expandable else FlatDevice(bits + 2)
        self._rows: dict[int, _Rows] = {}

    def rows(self, program: PassProgram) -> _Rows:
        """Return the rows of a program."""
        if id(program) not in self._rows:
            self._rows[id(program)] = _Rows(program, self.device)
        return self._rows[id(program)]


class _PassResult(NamedTuple):
    """The effect of a pass on the small pool, if no cached block is freed.

    A pass that finds the same state adds no segment, because as many bytes are in blocks that are free or given.
    """

    found: object
    after: list[int]
    left: list[Placed]


class GenerateReplay:
    """A replay of a call of `generate` on one device.

    Attributes:
        passes: The number of passes that have run.
        left: The blocks that the last pass left.
    """

    __slots__ = ("_results", "allocator", "left", "loaded", "passes", "run", "total")

    def __init__(self, run: GenerateRun) -> None:
        self.run = run
        self.allocator = run.device.saved()
        #: The total memory of the device. None if the requests do not depend on it.
        self.total: int | None = None
        self.loaded = False
        self.passes = 0
        self.left: list[Placed] = []
        #: The effects of recent passes on the small pool, since cached blocks were last freed.
        self._results: tuple[_PassResult, ...] = ()

    def saved(self) -> GenerateReplay:
        """Return a copy of the replay in the same state."""
        other = copy(self)
        other.allocator = self.allocator.saved()
        return other

    def load(self) -> None:
        """Load the model onto the device, and allocate the workspace."""
        loading, workspace = self.run.call.loading, self.run.call.workspace // BLOCK
        requested, (events,) = loading.for_device(self.total)
        sizes = [size // BLOCK for size in requested]
        if workspace:
            events, sizes = [*events, len(requested)], [*sizes, workspace]
        places = [0] * len(sizes), [0] * len(sizes)
        try:
            self.allocator.play(events, sizes, self.allocator.keys(sizes), places)
        except OutOfMemoryError as error:
            error.tensor = loading.names[error.row] if error.row < len(requested) else WORKSPACE
            raise
        self.loaded = True

    def advance(self) -> None:
        """Run the next pass."""
        check_budget()
        program, kinds = self.run.call.traces.sized(self.passes)
        rows, given = self.run.rows(program), self.left
        pools = rows.begin(kinds, given)
        every, large = rows.events()
        small = [None if pool else place for pool, place in zip(pools, given, strict=True)]
        requested = [kind if kind <= SMALL * BLOCK else None for kind in kinds]
        found = program, requested, small, self.allocator.small_blocks()
        equal_result = next((result for result in self._results if result.found == found), None)
        if equal_result is not None and self._plays(large, rows):
            self.allocator.restore_small(equal_result.after)
            self._leave(rows, equal_result.left)
        else:
            retries = self.allocator.retries
            self._play(every, rows)
            self._leave(rows, ())
            result = _PassResult(found, self.allocator.small_blocks(), self.left)
            self._results = (*self._results[-RECENT:], result) if retries == self.allocator.retries else ()
        self.passes += 1

    def _plays(self, events: Sequence[int], rows: _Rows) -> bool:
        """Play the events of large rows. If a segment is refused, undo them and return False."""
        before = self.allocator.saved()
        try:
            self._play(events, rows)
        except OutOfMemoryError:
            self.allocator = before
            return False
        if self.allocator.retries > before.retries:
            self.allocator = before
            return False
        return True

    def _play(self, events: Sequence[int], rows: _Rows) -> None:
        try:
            self.allocator.play(events, rows.sizes, rows.keys, rows.places)
        except OutOfMemoryError as error:
            error.tensor = rows.program.names[error.row]
            raise

    def _leave(self, rows: _Rows, small: Sequence[Placed]) -> None:
        """Store where the rows are that the pass leaves.

        If `small` is given, small rows are at these places.
        """
        addresses, end_addresses = rows.places
        left = [(addresses[row], end_addresses[row]) for row in rows.program.left]
        if small:
            sizes = rows.sizes
            left = [
                before if sizes[row] <= SMALL else after
                for row, before, after in zip(rows.program.left, small, left, strict=True)
            ]
        self.left = left
