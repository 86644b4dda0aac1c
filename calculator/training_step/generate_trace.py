"""The passes of `generate` as events and sizes. Later tokens are traced once, with a symbolic cache length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.engine.sym_sizes import SymSizes
from calculator.engine.symbolic_sizes import ShapeEnv
from calculator.training_step.generation import Generation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.layers.cache import Cache
    from calculator.methods.prepared_model import PreparedModel
    from calculator.training_step.generation import TracedPass


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PassProgram:
    """The events of passes that run the same operations: event `n` allocates row `n`, event `~n` frees it.

    Attributes:
        names: The name of each row's tensor.
        kinds: The kind of each row. Rows of a kind have the same size.
        events: The events. Rows of no bytes have no block, and no event.
        given: The rows of the tensors that the previous pass left. Their allocation is not among the events.
        left: The rows of the tensors that the pass leaves, in the order of `given` of the next pass.
    """

    names: Sequence[str]
    kinds: Sequence[int]
    events: Sequence[int]
    given: Sequence[int]
    left: Sequence[int]


def _program(traced: TracedPass, sizes: Sequence[int]) -> tuple[PassProgram, list[int]]:
    """Return the program of a pass, and the size of each kind of row.

    `sizes` has a size for each row, or a key that is equal for rows of equal size.
    """
    tape, given = traced.tape, {*traced.given}
    distinct = {size: kind for kind, size in enumerate(dict.fromkeys(sizes))}
    before = [event for event in tape.events[: traced.start] if event not in given]
    program = PassProgram(
        names=[row[0] for row in tape.rows],
        kinds=[distinct[size] for size in sizes],
        events=[*before, *tape.events[traced.start : traced.end]],
        given=traced.given,
        left=traced.left,
    )
    return program, [*distinct]


class _DecodeTrace:
    """A traced pass for one token, with a symbolic cache length."""

    __slots__ = ("_env", "_indices", "program")

    def __init__(self, generation: Generation, past: int, prefilled: Cache) -> None:
        self._env = ShapeEnv()
        symbol = self._env.create_symint(past)
        symbols = SymSizes(self._env)
        traced = generation.traced_decode(symbol, prefilled, first=False, sizes=symbols)
        self.program, self._indices = _program(traced, [row[4] for row in symbols.indexed(traced.tape.rows)])
        self._env.eliminate_dead_code(self._indices)

    def sizes(self, past: int) -> list[int] | None:
        """Return the bytes of every kind of row for a cache length, or None if other operations would run."""
        values = self._env.evaluate((past,))
        return [values[index] for index in self._indices] if values is not None else None


class GenerateTraces:
    """The passes of a call of `generate`, each as a program and the bytes of its kinds of rows."""

    __slots__ = ("_first", "_generation", "_past", "_prefilled", "_sized", "_traces")

    def __init__(self, prepared: PreparedModel) -> None:
        self._generation = Generation(prepared)
        prefill = self._generation.traced_prefill()
        self._prefilled = prefill.cache
        self._first = _program(prefill, [row[4] for row in prefill.tape.rows])
        training = prepared.training
        self._past = int(training.sequence_length) + prepared.method.virtual_tokens
        self._traces: list[_DecodeTrace] = []
        self._sized: list[tuple[PassProgram, list[int]]] = [self._first]

    def sized(self, number: int) -> tuple[PassProgram, list[int]]:
        """Return the program of a pass and the bytes of each kind of its rows. Pass 0 is that of the prompt."""
        while number >= len(self._sized):
            self._sized.append(self._decode(self._past + len(self._sized) - 1))
        return self._sized[number]

    def _decode(self, past: int) -> tuple[PassProgram, list[int]]:
        for trace in reversed(self._traces):
            sizes = trace.sizes(past)
            if sizes is not None:
                return trace.program, sizes
        self._traces.append(_DecodeTrace(self._generation, past, self._prefilled))
        return self._decode(past)
