"""The passes in which a trainer generates the completions of a step, for any sizes.

Most steps have their peak elsewhere, so that only the bytes alive in a pass are computed, and its tensors when they are
read. Where the passes of the second and of the last token run the same operations, the last one is interpreted with a
symbolic number of cached tokens and stands for both.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.common.deferred import Deferred
from calculator.common.dtype import ALLOCATION_ROUNDING, ITEMSIZE
from calculator.engine.sym_sizes import EvaluatedSizes, SymSizes
from calculator.engine.symbolic_sizes import ShapeEnv, SymInt
from calculator.inputs.size_settings import resized
from calculator.methods.prepared_model import PreparedModel
from calculator.trainers import trainer_of
from calculator.training_step.generation import ONE
from calculator.training_step.rollout import Rollout, rolled_out
from calculator.training_step.rollout_layout import RolloutLayout
from calculator.training_step.step_pass import StepPass
from calculator.training_step.symbolic_trace import SymbolicTrace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from calculator.training_step.generation import PassPeak
    from calculator.training_step.rollout import RolloutPass


def rolled_out_in_step(prepared: PreparedModel) -> tuple[StepPass, ...]:
    """Return the passes of `generate` in a step: those of the prompts, of the second token and of the last one."""
    return RolloutTrace(None, prepared).with_sizes(()) or tuple(map(StepPass.from_peak, rolled_out(prepared)))


class RolloutTrace:
    """The passes of a step. Without an environment of symbolic sizes, all but the numbers of tokens are given."""

    __slots__ = (
        "_alone",
        "_grows",
        "_is_symbolic",
        "_last",
        "_prepared",
        "_prompt_aliases",
        "_second_aliases",
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
        self._second_aliases: dict[int, int] = {}
        self._prompt_aliases: dict[int, int] = {}
        #: Whether no size is smaller in the last pass than in that of the second token.
        self._grows = False
        #: The pass of the prompts by itself, once it has been read.
        self._traced_prompts: _PromptsTrace | None = None
        if batch is not None:
            self._trace(Rollout(prepared, batch, shape_env))
        if shape_env is not None:
            passes = [*self._alone, *([self._last] if self._last is not None else ())]
            shape_env.eliminate_dead_code(index for step_pass in passes for index in step_pass.outputs)

    def _trace(self, rollout: Rollout) -> None:
        if not rollout.decodes_equally:
            self._alone = [*map(self._by_itself, rollout.passes())]
            return
        env = self._shape_env
        past, prompt = env.alias(rollout.last_past), env.index(rollout.batch.prompt)
        self._second_aliases = {past.index: prompt}
        if not rollout.prompts_decode_equally:
            prefill = rollout.prefill()
            self._alone = [self._by_itself(prefill)]
            self._last = _SymbolicPass(rollout.decode(past, prefill, first=False), env)
            return
        length = env.alias(ONE)
        self._last = _SymbolicPass(rollout.later(past, length), env)
        self._grows = env.only_grows(past.index)
        self._prompt_aliases = {past.index: env.index(0), length.index: prompt}
        if env.with_aliases(env.values, self._prompt_aliases) is None:
            self._alone = [self._by_itself(rollout.prefill())]

    def _by_itself(self, ran: RolloutPass) -> _Pass | _SymbolicPass:
        return _SymbolicPass(ran, self._shape_env) if self._is_symbolic else _Pass(ran)

    def with_sizes(self, sizes: Sequence[int]) -> tuple[StepPass, ...] | None:
        """Return the passes with other sizes, or None if a guard fails."""
        env, last = self._shape_env, self._last
        values = env.evaluate(sizes)
        if values is None:
            return None
        if last is None:
            return tuple([step_pass.with_values(values) for step_pass in self._alone])
        prompt_values = values if self._alone else env.with_aliases(values, self._prompt_aliases)
        if prompt_values is None:
            return None
        first = [step_pass.with_values(values) for step_pass in self._alone]
        first = first or [last.prompts_pass(prompt_values, partial(self._prompts, sizes))]
        ((past, prompt),) = self._second_aliases.items()
        if self._grows and last.has_more(values, values[past] - values[prompt]):
            second = Deferred(partial(self._second, values))
            return *first, last.with_values(values)._replace(smaller=second)
        second_values = env.with_aliases(values, self._second_aliases)
        if second_values is None:
            return None
        passes = *first, last.with_values(second_values), last.with_values(values)
        # The shapes of a pass that stands for the second one have its names: the second one must not be shown.
        return passes if passes[-2].moment.bytes < passes[-1].moment.bytes else None

    def _second(self, values: Sequence[int]) -> StepPass:
        second_values = self._shape_env.with_aliases(self._shape_env.extended(values), self._second_aliases)
        assert self._last is not None
        assert second_values is not None
        return self._last.with_values(second_values)

    def _prompts(self, sizes: Sequence[int]) -> PassPeak:
        """Return the pass of the prompts with given sizes, which has its names and shapes."""
        if not sizes:
            return _Pass(_prefilled(self._prepared, None)).with_values(()).peak
        prompts_pass = self._traced_prompts.with_sizes(sizes) if self._traced_prompts is not None else None
        if prompts_pass is None:
            self._traced_prompts = _PromptsTrace(self._prepared, sizes)
            prompts_pass = self._traced_prompts.with_sizes(sizes)
        assert prompts_pass is not None
        return prompts_pass.peak


def _prefilled(prepared: PreparedModel, shape_env: ShapeEnv | None) -> RolloutPass:
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
        symbolic.kernels = prepared.kernels
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

    def __init__(self, ran: RolloutPass) -> None:
        names, _, _, _, sizes = zip(*ran.interpretation.tape.rows, strict=True)
        self._layout = RolloutLayout.from_pass(ran, names, sizes)

    def with_values(self, values: Sequence[int]) -> StepPass:  # noqa: ARG002  none are symbolic
        """Return the pass."""
        return self._layout.sized(None, self._measured)

    def _measured(self) -> PassPeak:
        ran = self._layout.ran
        return ran.measured(ran.interpretation.run())


class _SymbolicPass:
    """A pass with symbolic sizes."""

    __slots__ = ("_bytes", "_cached", "_layout", "_prompt_aliases", "_trace", "outputs")

    def __init__(self, ran: RolloutPass, shape_env: ShapeEnv) -> None:
        """Read the numbers of a pass's sizes. Its shapes are numbered when they are read."""
        assert isinstance(ran.sizes, EvaluatedSizes)
        rows, self._bytes = ran.interpretation.tape.rows, ran.sizes
        names, _, _, _, numbers = zip(*rows, strict=True)
        self._layout = RolloutLayout.from_pass(ran, names, numbers)
        self._prompt_aliases: RolloutLayout | None = None
        #: The shape and dtype of the keys of earlier tokens.
        self._cached = rows[ran.earlier.start][1:3]
        self.outputs: Iterable[int] = self._bytes.indices
        self._trace = Deferred(lambda: SymbolicTrace(SymSizes(shape_env), ran.interpretation))

    def with_values(self, values: Sequence[int]) -> StepPass:
        """Return the pass in which the environment has these values."""
        return self._layout.sized(self._bytes.with_values(values), partial(self._measured, values))

    def has_more(self, values: Sequence[int], tokens: int) -> bool:
        """Return whether more bytes are alive than with fewer cached tokens. `tokens` is the difference.

        Each layer has its keys of all tokens alive at each moment, so they must grow by what they are rounded to.
        """
        (batch, heads, _, width), dtype = self._cached
        rows = values[batch.index] if isinstance(batch, SymInt) else batch
        return tokens * rows * heads * width * ITEMSIZE[dtype] >= ALLOCATION_ROUNDING

    def prompts_pass(self, values: Sequence[int], measured: Callable[[], PassPeak]) -> StepPass:
        """Return the pass of the prompts, which this pass stands for. `measured` interprets the pass itself."""
        if self._prompt_aliases is None:
            self._prompt_aliases = self._layout.prompts_layout(0)
        return self._prompt_aliases.sized(self._bytes.with_values(values), measured)

    def _measured(self, values: Sequence[int]) -> PassPeak:
        trace = self._trace()
        return self._layout.ran.measured(trace.with_values(trace.shape_env.extended(values)))
