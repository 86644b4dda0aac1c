"""The passes in which a trainer generates the completions of a step, for any sizes.

Most steps have their peak elsewhere, so that only the bytes alive in a pass are computed, and its tensors when they are
read. Where the passes of the second and of the last token run the same operations, the last one is interpreted with a
symbolic number of cached tokens and stands for both.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import chain
from operator import neg
from typing import TYPE_CHECKING, Any, NamedTuple

from calculator.common.deferred import Deferred
from calculator.engine.memory_curve import MemoryCurve
from calculator.engine.sym_sizes import SymSizes
from calculator.engine.symbolic_sizes import ShapeEnv
from calculator.trainers import trainer_of
from calculator.training_step.rollout import Rollout, rolled_out
from calculator.training_step.symbolic_trace import SymbolicTrace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from calculator.engine.memory_curve import Moment, Window
    from calculator.engine.recording import Recording
    from calculator.methods.prepared_model import PreparedModel
    from calculator.training_step.generation import PassPeak
    from calculator.training_step.rollout import RolledOut
    from calculator.training_step.run import Interpretation, Run


class StepPass(NamedTuple):
    """One pass: the moment with the most bytes, the operation before it, and the recording, made when it is read.

    `bound`: for each size in bytes, a number of storages of which no more are alive at once, if it is quickly found.
    """

    moment: Moment
    operation: str
    deferred: Deferred[Recording]
    bound: Deferred[Mapping[int, int]] | None = None

    @classmethod
    def of(cls, peak: PassPeak) -> StepPass:
        """Return a pass that was recorded."""
        return cls(peak.moment, peak.operation, Deferred(lambda: peak.recording))

    @property
    def recording(self) -> Recording:
        """The recording."""
        return self.deferred()


def rolled_out_in_step(prepared: PreparedModel) -> tuple[StepPass, ...]:
    """Return the passes of a step; those of the prompts, of the second token and of the last one."""
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
            return [_SymbolicPass(each, env) if rollout.shape_env else _Pass(each) for each in rollout.passes()]
        prefill = rollout.prefill()
        past = env.alias(rollout.last_past)
        self._of_second = past.index, env.index(rollout.batch.prompt)
        last = _SymbolicPass(rollout.decode(past, prefill.cache, first=False), env)
        return [_SymbolicPass(prefill, env) if rollout.shape_env else _Pass(prefill), last]

    def with_sizes(self, sizes: Sequence[int]) -> tuple[StepPass, ...] | None:
        """Return the passes with other sizes, or None where a guard fails."""
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

    __slots__ = ("_ran", "_window")

    #: The indices of the values that its sizes are computed from.
    outputs: Sequence[int] = ()

    def __init__(self, ran: RolledOut) -> None:
        self._ran = ran
        self._window = _CountedWindow.of(ran.interpretation, ran.interpretation.tape.rows)

    def with_values(self, values: Sequence[int]) -> StepPass:  # noqa: ARG002  none are symbolic
        """Return the pass."""
        tape = self._ran.interpretation.tape
        run = self._ran.interpretation.run
        return _sized(self._ran, self._window, [row[0] for row in tape.rows], [row[4] for row in tape.rows], run)


class _SymbolicPass:
    """A pass with symbolic sizes."""

    __slots__ = ("_names", "_ran", "_shape_env", "_sizes", "_trace", "_window", "outputs")

    def __init__(self, ran: RolledOut, shape_env: ShapeEnv) -> None:
        symbols = SymSizes(shape_env)
        kinds = symbols.kinds(ran.interpretation.tape.rows)
        self._ran = ran
        self._names = [name for name, *_ in kinds]
        self._window = _CountedWindow.of(ran.interpretation, kinds)
        #: The index of the bytes of each row.
        self._sizes = symbols.sizes_of(kinds)
        self.outputs = [*self._sizes, *chain(*symbols.shapes)]
        self._trace = Deferred(partial(SymbolicTrace, symbols, ran.interpretation))

    def with_values(self, values: Sequence[int]) -> StepPass:
        """Return the pass in which the environment has these values."""
        sizes = [*map(values.__getitem__, self._sizes)]
        return _sized(self._ran, self._window, self._names, sizes, lambda: self._trace().with_values(values))


class _CountedWindow(NamedTuple):
    """The layers of a pass that have copies, and the rows that each copy adds to those that are alive or frees.

    `is_simple`: whether nothing that copies add is freed after them.
    """

    windows: tuple[Window, ...]
    gained: Sequence[int]
    lost: Sequence[int]
    is_simple: bool

    @classmethod
    def of(cls, interpretation: Interpretation, kinds: Sequence[tuple[Any, ...]]) -> _CountedWindow:
        """Return those of a pass, with what tells the kinds of its rows apart: their name, and more."""
        lifetimes = interpretation.lifetimes
        for window in interpretation.without_graph:
            gained = lifetimes.surviving(window.start, window.end)
            lost = lifetimes.freed_earlier_rows(0, window.start, window.end)
            added = Counter(map(kinds.__getitem__, gained))
            added.subtract(map(kinds.__getitem__, lost))
            freed = {kinds[row][0] for row in lifetimes.freed(gained, window.end, lifetimes.end)}
            is_simple = not any(count for kind, count in added.items() if kind[0] in freed)
            return cls((window,), gained, lost, is_simple)
        return cls((), (), (), is_simple=True)


def _sized(
    ran: RolledOut, counted: _CountedWindow, names: Sequence[str], sizes: Sequence[int], run: Callable[[], Run]
) -> StepPass:
    """Return a pass whose rows have these names and sizes; `run` is all of it."""
    if not counted.is_simple:
        return StepPass.of(ran.measured(run()))
    events = ran.interpretation.tape.events
    both = [*sizes, *map(neg, reversed(sizes))]
    added = [(sizes[row], 1) for row in counted.gained] + [(sizes[row], -1) for row in counted.lost]
    growth = tuple([sum([size * count for size, count in added]) for _ in counted.windows])
    curve = MemoryCurve([*map(both.__getitem__, events)], counted.windows, growth, ())
    moment = curve.peak(ran.start, len(events))
    last = events[moment.event - 1] if moment.event else 0
    return StepPass(
        moment,
        names[last if last >= 0 else ~last],
        Deferred(lambda: run().recorded()),
        Deferred(partial(_most_blocks, counted, sizes)),
    )


def _most_blocks(counted: _CountedWindow, sizes: Sequence[int]) -> Counter[int]:
    """Return no fewer blocks of each size than are alive at once: all of the pass, and those that copies add."""
    blocks = Counter(sizes)
    for window in counted.windows:
        added = Counter([sizes[row] for row in counted.gained])
        added.subtract([sizes[row] for row in counted.lost])
        blocks.update({size: count * window.copies for size, count in added.items() if count > 0})
    del blocks[0]
    return blocks
