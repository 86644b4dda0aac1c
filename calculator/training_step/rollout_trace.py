"""The passes in which a trainer generates the completions of a step, for any sizes.

Most steps have their peak elsewhere, so that only the bytes alive in a pass are computed, and its tensors when they are
read. Where the passes of the second and of the last token run the same operations, the last one is interpreted with a
symbolic number of cached tokens and stands for both.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial
from itertools import chain, pairwise, repeat
from operator import invert, mul, neg
from typing import TYPE_CHECKING, NamedTuple

from calculator.common.deferred import Deferred
from calculator.engine.memory_curve import MemoryCurve
from calculator.engine.sym_sizes import SymSizes
from calculator.engine.symbolic_sizes import ShapeEnv
from calculator.trainers import trainer_of
from calculator.training_step.rollout import Rollout, rolled_out
from calculator.training_step.symbolic_trace import SymbolicTrace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from calculator.engine.memory_curve import Moment
    from calculator.engine.recording import Recording
    from calculator.methods.prepared_model import PreparedModel
    from calculator.training_step.generation import PassPeak
    from calculator.training_step.rollout import RolledOut
    from calculator.training_step.run import Run


class StepPass(NamedTuple):
    """One pass: the moment with the most bytes, the operation before it, and the recording, made when it is read.

    `bound`: for each size in bytes, a number of storages of which no more are alive at once, if it is quickly found.
    `bytes_of_bound`: the number of sizes in the bound, at least, and the bytes of these storages.
    """

    moment: Moment
    operation: str
    deferred: Deferred[Recording]
    bound: Deferred[Mapping[int, int]] | None = None
    bytes_of_bound: Callable[[], tuple[int, int]] | None = None

    @classmethod
    def of(cls, peak: PassPeak) -> StepPass:
        """Return a pass that was recorded."""
        return cls(peak.moment, peak.operation, Deferred(lambda: peak.recording))

    @property
    def recording(self) -> Recording:
        """The recording."""
        return self.deferred()


def rolled_out_in_step(prepared: PreparedModel) -> tuple[StepPass, ...]:
    """Return the passes of `generate` in a step: those of the prompts, of the second token and of the last one."""
    return RolloutTrace(None, prepared).with_sizes(()) or tuple(map(StepPass.of, rolled_out(prepared)))


class RolloutTrace:
    """The passes of a step. Without an environment of symbolic sizes, all but the number of cached tokens are given."""

    __slots__ = ("_of_second", "_passes", "_shape_env")

    def __init__(self, shape_env: ShapeEnv | None, prepared: PreparedModel) -> None:
        batch = trainer_of(prepared.training).generation(prepared.training)
        self._shape_env = shape_env or ShapeEnv()
        #: The indices of the number of cached tokens in the last pass, and of that in the pass of the second token, if
        #: the last one stands for both.
        self._of_second: tuple[int, int] | None = None
        self._passes = self._traced(Rollout(prepared, batch, shape_env)) if batch is not None else []
        if shape_env is not None:
            shape_env.eliminate_dead_code(index for each in self._passes for index in each.outputs)

    def _traced(self, rollout: Rollout) -> list[_Pass | _SymbolicPass]:
        env = self._shape_env
        if not rollout.decodes_alike:
            passes = rollout.passes()
            return [_SymbolicPass(each, env, whole=True) if rollout.shape_env else _Pass(each) for each in passes]
        prefill = rollout.prefill()
        past = env.alias(rollout.last_past)
        self._of_second = past.index, env.index(rollout.batch.prompt)
        whole = rollout.shape_env is not None
        last = _SymbolicPass(rollout.decode(past, prefill, first=False), env, whole=whole)
        return [_SymbolicPass(prefill, env, whole=True) if whole else _Pass(prefill), last]

    def with_sizes(self, sizes: Sequence[int]) -> tuple[StepPass, ...] | None:
        """Return the passes with other sizes, or None if a guard fails."""
        values = self._shape_env.evaluate(sizes)
        if values is None:
            return None
        passes = [each.with_values(values) for each in self._passes]
        if self._of_second is not None:
            values = self._shape_env.with_alias(values, *self._of_second)
            second = self._passes[-1].with_values(values) if values is not None else None
            # The shapes of a pass that stands for another have its names: it must not be the one that is shown.
            if second is None or second.moment.bytes >= passes[-1].moment.bytes:
                return None
            passes.insert(-1, second)
        return tuple(passes)


class _Pass:
    """A pass whose sizes are given."""

    __slots__ = ("_layout",)

    #: The indices of the values that its sizes are computed from.
    outputs: Sequence[int] = ()

    def __init__(self, ran: RolledOut) -> None:
        names, _, _, _, sizes = zip(*ran.interpretation.tape.rows, strict=True)
        self._layout = _Layout(ran, names, sizes)

    def with_values(self, values: Sequence[int]) -> StepPass:  # noqa: ARG002  none are symbolic
        """Return the pass."""
        return self._layout.sized(None, self._layout.ran.interpretation.run)


class _SymbolicPass:
    """A pass with symbolic sizes."""

    __slots__ = ("_layout", "_trace", "outputs")

    def __init__(self, ran: RolledOut, shape_env: ShapeEnv, *, whole: bool) -> None:
        """Number the sizes of a pass. `whole`: all shapes too, which are otherwise numbered when they are read."""
        symbols, rows = SymSizes(shape_env), ran.interpretation.tape.rows
        sizes = symbols.sizes_of(symbols.kinds(rows)) if whole else symbols.sizes_of_rows(rows)
        self._layout = _Layout(ran, [row[0] for row in rows], sizes)
        self.outputs = [*sizes, *chain(*symbols.shapes)]
        self._trace = Deferred(partial(SymbolicTrace, symbols, ran.interpretation))

    def with_values(self, values: Sequence[int]) -> StepPass:
        """Return the pass in which the environment has these values."""
        return self._layout.sized(values, partial(self._run, values))

    def _run(self, values: Sequence[int]) -> Run:
        trace = self._trace()
        return trace.with_values(trace.shape_env.extended(values))


class _Layout:
    """What decides the bytes that are alive in a pass, for any sizes of its rows.

    A size is in bytes, or the index of a value in bytes.
    """

    __slots__ = ("_blocks", "_growth", "_indices", "_is_simple", "_names", "_windows", "ran", "sizes")

    def __init__(self, ran: RolledOut, names: Sequence[str], sizes: Sequence[int]) -> None:
        """Read the events of a pass. `names` and `sizes` are those of its rows."""
        self.ran = ran
        self.sizes = sizes
        self._names = names
        self._windows = ran.interpretation.without_graph
        #: Storages that each copy of the repeated layers adds or frees, by size.
        self._growth: defaultdict[int, int] = defaultdict(int)
        #: Whether nothing that copies add is freed after them. If something is, the pass is recorded as a whole.
        self._is_simple = True
        lifetimes = ran.interpretation.lifetimes
        for window in self._windows:
            gained = lifetimes.surviving(window.start, window.end)
            lost = lifetimes.freed_earlier_rows(0, window.start, window.end)
            added: defaultdict[tuple[str, int], int] = defaultdict(int)
            for row, count in (*zip(gained, repeat(1)), *zip(lost, repeat(-1))):
                added[names[row], sizes[row]] += count
                self._growth[sizes[row]] += count
            freed = {names[row] for row in lifetimes.freed(gained, window.end, lifetimes.end)}
            self._is_simple = not any(count for (name, _), count in added.items() if name in freed)
        self._blocks = Deferred(self._most_blocks)
        #: For each event, the index of its size in bytes, inverted if it frees. None until it is needed.
        self._indices: list[int] | None = None

    def sized(self, values: Sequence[int] | None, run: Callable[[], Run]) -> StepPass:
        """Return the pass with sizes of these values; `run` makes all of it."""
        if not self._is_simple:
            return StepPass.of(self.ran.measured(run()))
        events = self.ran.interpretation.tape.events
        growth = sum([(size if values is None else values[size]) * count for size, count in self._growth.items()])
        curve = MemoryCurve(self._changes(values), self._windows, (growth,) * len(self._windows), ())
        moment = curve.peak(self.ran.start, len(events))
        last = events[moment.event - 1] if moment.event else 0
        return StepPass(
            moment,
            self._names[last if last >= 0 else ~last],
            Deferred(lambda: run().recorded()),
            Deferred(partial(self._bound, values)),
            partial(self._bytes_of_bound, values),
        )

    def _changes(self, values: Sequence[int] | None) -> list[int]:
        """Return the bytes that each event adds."""
        if values is None:
            return _of_events(self.sizes, neg, self.ran.interpretation.tape.events)
        if self._indices is None:
            self._indices = _of_events(self.sizes, invert, self.ran.interpretation.tape.events)
        return _of_events(values, neg, self._indices)

    def _bytes_of_bound(self, values: Sequence[int] | None) -> tuple[int, int]:
        blocks = self._blocks()
        sizes = blocks.keys() if values is None else map(values.__getitem__, blocks)
        return len(blocks), sum(map(mul, sizes, blocks.values()))

    def _bound(self, values: Sequence[int] | None) -> dict[int, int]:
        blocks: dict[int, int] = {}
        for size, count in self._blocks().items():
            bound_size = size if values is None else values[size]
            blocks[bound_size] = blocks.get(bound_size, 0) + count
        blocks.pop(0, None)
        return blocks

    def _most_blocks(self) -> Counter[int]:
        """Return no fewer storages of each size than are alive at once.

        They are all that are allocated, of which those that a layer allocates and frees count for one layer, and what
        the copies of layers add.
        """
        blocks = Counter(self.sizes)
        if len(self.ran.interpretation.repetition.numbers) > 1:
            of_layers = [Counter(map(self.sizes.__getitem__, rows)) for rows in self._freed_by_layers()]
            for each in of_layers:
                blocks.subtract(each)
            blocks.update({size: max(each[size] for each in of_layers) for size in {*chain(*of_layers)}})
        for window in self._windows:
            for size, count in self._growth.items():
                blocks[size] += window.copies * max(count, 0)
        return blocks

    def _freed_by_layers(self) -> Iterator[list[int]]:
        """Yield the rows that each layer both allocates and frees."""
        lifetimes = self.ran.interpretation.lifetimes
        marks = [position for position, _ in self.ran.interpretation.tape.marks]
        for start, end in pairwise(marks):
            yield lifetimes.freed(lifetimes.allocated(start, end), start, end)


def _of_events(values: Sequence[int], freed: Callable[[int], int], events: Sequence[int]) -> list[int]:
    """Return the value of each event's index, and `freed` of the value of an inverted index."""
    both = [*values, *map(freed, reversed(values))]
    return [*map(both.__getitem__, events)]
