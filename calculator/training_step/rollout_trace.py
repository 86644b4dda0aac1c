"""The passes in which a trainer generates the completions of a step, for any sizes.

Most steps have their peak elsewhere, so that only the bytes alive in a pass are computed, and its tensors when they are
read. Where the passes of the second and of the last token run the same operations, the last one is interpreted with a
symbolic number of cached tokens and stands for both.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import chain, pairwise
from operator import invert, mul, neg
from typing import TYPE_CHECKING, NamedTuple

from calculator.common.deferred import Deferred
from calculator.common.dtype import ALLOCATION_ROUNDING, ITEMSIZE
from calculator.engine.memory_curve import MemoryCurve
from calculator.engine.sym_sizes import EvaluatedSizes, SymSizes
from calculator.engine.symbolic_sizes import ShapeEnv, SymInt
from calculator.inputs.size_settings import resized
from calculator.methods.prepared_model import PreparedModel
from calculator.trainers import trainer_of
from calculator.training_step.generation import ONE
from calculator.training_step.rollout import Rollout, rolled_out
from calculator.training_step.symbolic_trace import SymbolicTrace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from calculator.engine.memory_curve import Moment
    from calculator.engine.recording import Recording
    from calculator.training_step.generation import PassPeak
    from calculator.training_step.rollout import RolledOut


class StepPass(NamedTuple):
    """One pass: the moment with the most bytes, the operation before it, and the peak of a recording, made when read.

    `smaller`: a pass that runs the same operations with fewer bytes alive at each of them, and no larger storage.
    `bound`: for each size in bytes, a number of storages of which no more are alive at once, if it is quickly found.
    `bytes_of_bound`: the number of sizes in the bound, at least, and the bytes of its storages. With a limit, those of
    the sizes below it.
    """

    moment: Moment
    operation: str
    deferred: Deferred[PassPeak]
    bound: Deferred[Mapping[int, int]] | None = None
    bytes_of_bound: Callable[[int | None], tuple[int, int]] | None = None
    smaller: Deferred[StepPass] | None = None

    @classmethod
    def of(cls, peak: PassPeak) -> StepPass:
        """Return a pass that was recorded."""
        return cls(peak.moment, peak.operation, Deferred(lambda: peak))

    @property
    def with_smaller(self) -> tuple[StepPass, ...]:
        """The smaller pass, which runs before it, and the pass itself."""
        return (self,) if self.smaller is None else (self.smaller(), self)

    @property
    def peak(self) -> PassPeak:
        """The peak of the recording."""
        return self.deferred()

    @property
    def recording(self) -> Recording:
        """The recording."""
        return self.peak.recording


def rolled_out_in_step(prepared: PreparedModel) -> tuple[StepPass, ...]:
    """Return the passes of `generate` in a step: those of the prompts, of the second token and of the last one."""
    return RolloutTrace(None, prepared).with_sizes(()) or tuple(map(StepPass.of, rolled_out(prepared)))


class RolloutTrace:
    """The passes of a step. Without an environment of symbolic sizes, all but the numbers of tokens are given."""

    __slots__ = (
        "_alone",
        "_grows",
        "_is_symbolic",
        "_last",
        "_of_prompts",
        "_of_second",
        "_prepared",
        "_shape_env",
        "_traced_prompts",
    )

    def __init__(self, shape_env: ShapeEnv | None, prepared: PreparedModel) -> None:
        batch = trainer_of(prepared.training).generation(prepared.training)
        self._prepared = prepared
        self._is_symbolic = shape_env is not None
        self._shape_env = shape_env or ShapeEnv()
        #: The passes that stand for themselves alone, in order.
        self._alone: list[_Pass | _SymbolicPass] = []
        #: The last pass, if it stands for others.
        self._last: _SymbolicPass | None = None
        #: What differs in the pass of the second token, and in that of the prompts if the last one stands for it: the
        #: index of the source for that of each alias.
        self._of_second: dict[int, int] = {}
        self._of_prompts: dict[int, int] = {}
        #: Whether no size is smaller in the last pass than in that of the second token.
        self._grows = False
        #: The pass of the prompts by itself, once it has been read.
        self._traced_prompts: _PromptsTrace | None = None
        if batch is not None:
            self._trace(Rollout(prepared, batch, shape_env))
        if shape_env is not None:
            passes = [*self._alone, *([self._last] if self._last is not None else ())]
            shape_env.eliminate_dead_code(index for each in passes for index in each.outputs)

    def _trace(self, rollout: Rollout) -> None:
        if not rollout.decodes_alike:
            self._alone = [*map(self._by_itself, rollout.passes())]
            return
        env = self._shape_env
        past, prompt = env.alias(rollout.last_past), env.index(rollout.batch.prompt)
        self._of_second = {past.index: prompt}
        if not rollout.prompts_decode_alike:
            prefill = rollout.prefill()
            self._alone = [self._by_itself(prefill)]
            self._last = _SymbolicPass(rollout.decode(past, prefill, first=False), env)
            return
        length = env.alias(ONE)
        self._last = _SymbolicPass(rollout.later(past, length), env)
        self._grows = env.only_grows(past.index)
        self._of_prompts = {past.index: env.index(0), length.index: prompt}
        if env.with_aliases(env.values, self._of_prompts) is None:
            self._alone = [self._by_itself(rollout.prefill())]

    def _by_itself(self, ran: RolledOut) -> _Pass | _SymbolicPass:
        return _SymbolicPass(ran, self._shape_env) if self._is_symbolic else _Pass(ran)

    def with_sizes(self, sizes: Sequence[int]) -> tuple[StepPass, ...] | None:
        """Return the passes with other sizes, or None if a guard fails."""
        env, last = self._shape_env, self._last
        values = env.evaluate(sizes)
        if values is None:
            return None
        if last is None:
            return tuple([each.with_values(values) for each in self._alone])
        of_prompts = values if self._alone else env.with_aliases(values, self._of_prompts)
        if of_prompts is None:
            return None
        first = [each.with_values(values) for each in self._alone]
        first = first or [last.of_prompts(of_prompts, partial(self._prompts, sizes))]
        ((past, prompt),) = self._of_second.items()
        if self._grows and last.has_more(values, values[past] - values[prompt]):
            second = Deferred(partial(self._second, values))
            return *first, last.with_values(values)._replace(smaller=second)
        of_second = env.with_aliases(values, self._of_second)
        if of_second is None:
            return None
        passes = *first, last.with_values(of_second), last.with_values(values)
        # The shapes of a pass that stands for the second one have its names: the second one must not be shown.
        return passes if passes[-2].moment.bytes < passes[-1].moment.bytes else None

    def _second(self, values: Sequence[int]) -> StepPass:
        of_second = self._shape_env.with_aliases(self._shape_env.extended(values), self._of_second)
        assert self._last is not None
        assert of_second is not None
        return self._last.with_values(of_second)

    def _prompts(self, sizes: Sequence[int]) -> PassPeak:
        """Return the pass of the prompts with given sizes, which has its names and shapes."""
        if not sizes:
            return _Pass(_prefilled(self._prepared, None)).with_values(()).peak
        found = self._traced_prompts.with_sizes(sizes) if self._traced_prompts is not None else None
        if found is None:
            self._traced_prompts = _PromptsTrace(self._prepared, sizes)
            found = self._traced_prompts.with_sizes(sizes)
        assert found is not None
        return found.peak


def _prefilled(prepared: PreparedModel, shape_env: ShapeEnv | None) -> RolledOut:
    batch = trainer_of(prepared.training).generation(prepared.training)
    assert batch is not None
    return Rollout(prepared, batch, shape_env).prefill()


class _PromptsTrace:
    """The pass of the prompts by itself, traced with symbolic sizes when it is first read."""

    __slots__ = ("_pass", "_shape_env")

    def __init__(self, prepared: PreparedModel, sizes: Sequence[int]) -> None:
        self._shape_env, following = ShapeEnv(), iter(sizes)
        training = resized(prepared.given, lambda _: self._shape_env.create_symint(next(following)))
        method = resized(prepared.method, lambda _: self._shape_env.create_symint(next(following)))
        symbolic = PreparedModel(prepared.model, method, training, prepared.device, prepared.stack)
        self._pass = _SymbolicPass(_prefilled(symbolic, self._shape_env), self._shape_env)

    def with_sizes(self, sizes: Sequence[int]) -> StepPass | None:
        """Return the pass with other sizes, or None if a guard fails."""
        values = self._shape_env.evaluate(sizes)
        return None if values is None else self._pass.with_values(values)


class _Pass:
    """A pass whose sizes are given."""

    __slots__ = ("_layout",)

    #: The indices of the values that its sizes are computed from.
    outputs: Iterable[int] = ()

    def __init__(self, ran: RolledOut) -> None:
        names, _, _, _, sizes = zip(*ran.interpretation.tape.rows, strict=True)
        self._layout = _Layout.of(ran, names, sizes)

    def with_values(self, values: Sequence[int]) -> StepPass:  # noqa: ARG002  none are symbolic
        """Return the pass."""
        return self._layout.sized(None, self._measured)

    def _measured(self) -> PassPeak:
        ran = self._layout.ran
        return ran.measured(ran.interpretation.run())


class _SymbolicPass:
    """A pass with symbolic sizes."""

    __slots__ = ("_bytes", "_cached", "_layout", "_of_prompts", "_trace", "outputs")

    def __init__(self, ran: RolledOut, shape_env: ShapeEnv) -> None:
        """Number the sizes of a pass. Its shapes are numbered when they are read."""
        rows = ran.interpretation.tape.rows
        self._bytes = EvaluatedSizes(rows)
        names, *_ = zip(*rows, strict=True)
        self._layout = _Layout.of(ran, names, self._bytes.number_of_row)
        self._of_prompts: _Layout | None = None
        #: The shape and dtype of the keys of earlier tokens.
        self._cached = rows[ran.earlier.start][1:3]
        self.outputs: Iterable[int] = self._bytes.indices
        self._trace = Deferred(lambda: SymbolicTrace(SymSizes(shape_env), ran.interpretation))

    def with_values(self, values: Sequence[int]) -> StepPass:
        """Return the pass in which the environment has these values."""
        return self._layout.sized(self._bytes(values), partial(self._measured, values))

    def has_more(self, values: Sequence[int], tokens: int) -> bool:
        """Return whether more bytes are alive than with fewer cached tokens. `tokens` is the difference.

        Each layer has its keys of all tokens alive at each moment, so they must grow by what they are rounded to.
        """
        (batch, heads, _, width), dtype = self._cached
        rows = values[batch.index] if isinstance(batch, SymInt) else batch
        return tokens * rows * heads * width * ITEMSIZE[dtype] >= ALLOCATION_ROUNDING

    def of_prompts(self, values: Sequence[int], measured: Callable[[], PassPeak]) -> StepPass:
        """Return the pass of the prompts, which this pass stands for. `measured` interprets the pass itself."""
        if self._of_prompts is None:
            self._of_prompts = self._layout.of_prompts(0)
        return self._of_prompts.sized(self._bytes(values), measured)

    def _measured(self, values: Sequence[int]) -> PassPeak:
        trace = self._trace()
        return self._layout.ran.measured(trace.with_values(trace.shape_env.extended(values)))


class _Copied(NamedTuple):
    """What each copy of the repeated layers changes.

    Attributes:
        growth: The storages that it adds or frees, by size.
        lost: The rows that it frees and other code allocated.
        is_simple: Whether nothing that copies add is freed after them. If something is, the pass is recorded as a
            whole.
    """

    growth: Mapping[int, int]
    lost: Sequence[int]
    is_simple: bool

    @classmethod
    def of(cls, ran: RolledOut, names: Sequence[str], sizes: Sequence[int]) -> _Copied:
        """Read the events of a pass. `names` and `sizes` are those of its rows."""
        if not ran.interpretation.no_grad:
            return cls({}, (), is_simple=True)
        (window,), lifetimes = ran.interpretation.no_grad, ran.interpretation.lifetimes
        gained = lifetimes.surviving(window.start, window.end)
        lost = lifetimes.freed_earlier_rows(0, window.start, window.end)
        growth: dict[int, int] = {}
        added: dict[tuple[str, int], int] = {}
        for rows, count in ((gained, 1), (lost, -1)):
            for row in rows:
                size = sizes[row]
                key = names[row], size
                added[key] = added.get(key, 0) + count
                growth[size] = growth.get(size, 0) + count
        freed = {names[row] for row in lifetimes.freed(gained, window.end, lifetimes.end)}
        return cls(growth, lost, is_simple=not any(count for (name, _), count in added.items() if name in freed))

    def without(self, lost: Iterable[int]) -> _Copied:
        """Return the same without frees of storages of some sizes."""
        growth = {**self.growth}
        for size in lost:
            growth[size] += 1
        return self._replace(growth=growth)


class _Layout:
    """What decides the bytes that are alive in a pass, for any sizes of its rows.

    A size is in bytes, or the index of a value in bytes.
    """

    __slots__ = ("_blocks", "_copied", "_events", "_indices", "_names", "ran", "sizes")

    def __init__(
        self,
        ran: RolledOut,
        names: Sequence[str],
        sizes: Sequence[int],
        events: Sequence[int],
        copied: _Copied,
    ) -> None:
        """Store the names and sizes of a pass's rows, its events, and what copies of layers change."""
        self.ran = ran
        self.sizes = sizes
        self._names = names
        self._events = events
        self._copied = copied
        self._blocks = Deferred(self._most_blocks)
        #: For each event, the index of its size in bytes, inverted if it frees. None until it is needed.
        self._indices: list[int] | None = None

    @classmethod
    def of(cls, ran: RolledOut, names: Sequence[str], sizes: Sequence[int]) -> _Layout:
        """Return the layout of a pass. `names` and `sizes` are those of its rows."""
        return cls(ran, names, sizes, ran.interpretation.tape.events, _Copied.of(ran, names, sizes))

    def of_prompts(self, none: int) -> _Layout:
        """Return the same for the pass of the prompts, which has no tensors of earlier passes.

        Its ids are freed before the next token is chosen. `none` is the index of a size of no bytes.
        """
        ran, sizes, events = self.ran, [*self.sizes], self._events
        without = ran.earlier, ran.inputs[1:]
        for rows in without:
            sizes[rows.start : rows.stop] = [none] * len(rows)
        freed = ~ran.inputs.start
        after = [event for event in events[ran.choice :] if event != freed]
        lost = [self.sizes[row] for row in self._copied.lost if any(row in rows for rows in without)]
        copied = self._copied.without(lost)
        return _Layout(ran, self._names, sizes, [*events[: ran.choice], freed, *after], copied)

    def sized(self, values: Sequence[int] | None, measured: Callable[[], PassPeak]) -> StepPass:
        """Return the pass with sizes of these values; `measured` records all of it."""
        if not self._copied.is_simple:
            return StepPass.of(measured())
        events, windows = self._events, self.ran.interpretation.no_grad
        growth = sum(
            [(size if values is None else values[size]) * count for size, count in self._copied.growth.items()]
        )
        curve = MemoryCurve(self._changes(values), windows, (growth,) * len(windows), ())
        moment = curve.peak(self.ran.start, len(events))
        last = events[moment.event - 1] if moment.event else 0
        return StepPass(
            moment,
            self._names[last if last >= 0 else ~last],
            Deferred(measured),
            Deferred(partial(self._bound, values)),
            partial(self._bytes_of_bound, values),
        )

    def _changes(self, values: Sequence[int] | None) -> list[int]:
        """Return the bytes that each event adds."""
        if values is None:
            return _of_events(self.sizes, neg, self._events)
        if self._indices is None:
            self._indices = _of_events(self.sizes, invert, self._events)
        return _of_events(values, neg, self._indices)

    def _bytes_of_bound(self, values: Sequence[int] | None, limit: int | None) -> tuple[int, int]:
        blocks = self._blocks()
        sizes = [*blocks] if values is None else [*map(values.__getitem__, blocks)]
        if limit is None:
            return len(blocks), sum(map(mul, sizes, blocks.values()))
        smaller = [size * count for size, count in zip(sizes, blocks.values(), strict=True) if size < limit]
        return len(smaller), sum(smaller)

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
        for window in self.ran.interpretation.no_grad:
            for size, count in self._copied.growth.items():
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
