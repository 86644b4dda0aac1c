"""The peaks of the passes of `generate` in a step, from the decoder of the trained pass.

A pass of `generate` runs the code of the trained forward pass without a graph, on other numbers of sequences and
tokens. If the bytes of every tensor of the decoder are a multiple of both, they are known for a pass. So are those that
are alive at each operation of a layer up to where it appends its keys and values to the cache, and once it has freed
its own. In between, as before and after the layers, no more are alive than in the trained pass, apart from what the
cache and the choice of a token add.

The last layer has the most alive: earlier ones have left what they have cached. If it has more than all of the rest,
the peak of the pass is the layer's, on top of what the loop around the passes has. Otherwise, the passes are
interpreted.
"""

from __future__ import annotations

from itertools import accumulate
from math import prod
from operator import neg
from typing import TYPE_CHECKING, Literal, NamedTuple

from calculator.architecture.dimension import Dim
from calculator.common.dtype import ALLOCATION_ROUNDING, ITEMSIZE, rounded
from calculator.engine.symbolic_sizes import SymInt
from calculator.families import forward_of
from calculator.layers.masks import attention_types
from calculator.training_step.rollout_bound import is_bounded

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.common.dtype import DType
    from calculator.engine.skipped_passes import CachedPair, TrainedDecoder
    from calculator.methods.prepared_model import PreparedModel
    from calculator.trainers.loop import GenerationBatch
    from calculator.training_step.run import Run

    #: The bytes of a tensor, which has them for each of what is named.
    Formula = tuple[int, Literal["token of a sequence", "position", "tensor"]]

#: The names of the numbers of sequences and of tokens of a micro-batch, and the end of the name of position ids.
_ROWS, _LENGTH, _POSITIONS = "B", "S", "position_ids"
#: No fewer tensors than the head and the choice of a token have alive in addition to what the last token has left: with
#: a score for each token that may come next, with a number for each token so far, and with few bytes.
_OF_SCORES, _OF_TOKENS, _SMALL = 3, 2, 8
#: No fewer sizes than tensors have that do not belong to the decoder.
_OTHER_SIZES = 24


def may_generate_alike(prepared: PreparedModel) -> bool:
    """Return whether the passes of `generate` may run the layers of the trained pass on other sizes."""
    training, method, model = prepared.training, prepared.method, prepared.model
    if not prepared.trainer.facts.generates or training.use_vllm or training.attention != "sdpa":
        return False
    if method.quantizes_base or prepared.sequences_per_row != 1 or len(model.stacks) != 1:
        return False
    layers = model.decoder.layers
    if attention_types(layers) != {"full_attention"} or any(layer.kind.shares == "reuse" for layer in {*layers}):
        return False
    output = prepared.module_spec(model.output.name, model.output)
    return not (output.added or output.copied) and is_bounded(prepared)


class DerivedRollout(NamedTuple):
    """The passes of `generate`: those of the prompts, of the second token and of the last token.

    Attributes:
        peaks: The most bytes that are alive in each pass.
        sizes: No fewer sizes than the blocks of a pass have.
        allocated: No fewer bytes than the blocks of a pass have together.
    """

    peaks: tuple[int, int, int]
    sizes: int
    allocated: int

    @classmethod
    def of(cls, run: Run, prepared: PreparedModel, batch: GenerationBatch) -> DerivedRollout | None:
        """Return the passes from the run of a micro-batch, or None if it does not determine them."""
        rows, prompt, completion = int(batch.rows), int(batch.prompt), int(batch.completion)
        trained = int(prepared.training.micro_batch_size)
        # A single sequence is a matrix.
        if run.decoder is None or completion < 3 or (rows == 1) != (trained == 1):
            return None
        decoder = _Decoder.of(run, run.decoder, prepared)
        return None if decoder is None else _Passes(decoder, prepared.model, rows, prompt).derived(completion)


class _Decoder(NamedTuple):
    """The events of the trained decoder, and the formulas of its tensors.

    Attributes:
        events: The place of what each event adds among the bytes of all rows and their negatives in reverse order.
        formulas: The distinct formulas of rows.
        formula_of: The number of each row's formula.
        first: The position of the first event of the layer.
        cached: The position where the layer appends keys and values to the cache.
        freed: The position from which on it has freed its own keys and values.
        last: The position after the layer.
        pair: The bytes of keys and of values for each token of each sequence.
        input: The place of the layer's input among the rows.
        keeps_input: Whether the decoder keeps the first layer's input while later layers run.
    """

    events: list[int]
    formulas: list[Formula]
    formula_of: list[int]
    first: int
    cached: int
    freed: int
    last: int
    pair: tuple[int, int]
    input: int
    keeps_input: bool

    @classmethod
    def of(cls, run: Run, decoder: TrainedDecoder, prepared: PreparedModel) -> _Decoder | None:
        """Read the events and the rows of a run, or return None if they do not determine a pass."""
        copies, (start, end, first_row, layer, cached) = run.copies, decoder
        first, last = copies.marks["layer 0 forward"], copies.marks["layer 1 forward"]
        listed, frees = copies.tape.events[start:end], [~row for row in cached.rows]
        freed = max(map(listed.index, frees)) + 1 if {*frees} <= {*listed} else len(listed)
        pair = _widths(cached)
        if pair is None or not first <= cached.at < start + freed <= last:
            return None
        events = [event - first_row if event >= 0 else event + first_row for event in listed]
        rows = range(first_row, copies.lifetimes.next_row(end))
        # An allocation and a free for each row, except that some are not freed: others free earlier rows.
        if max([place for place, event in zip(events, listed, strict=True) if event < 0]) >= 0:
            return None
        found = _formulas(run, rows, copies.lifetimes.next_row(first), prepared)
        if found is None:
            return None
        positions = first - start, cached.at - start, freed, last - start
        return cls(events, *found, *positions, pair, layer.input_row - first_row, layer.keeps_input)

    def alive(self, rows: int, tokens: int, *, gives_positions: bool) -> _Alive:
        """Return the bytes that are alive in a pass over some tokens of each sequence."""
        of = {"token of a sequence": rows * tokens, "position": (rows if gives_positions else 1) * tokens, "tensor": 1}
        bytes_of = [rounded(size * of[multiple]) for size, multiple in self.formulas]
        sizes = [*map(bytes_of.__getitem__, self.formula_of)]
        both = [*sizes, *map(neg, reversed(sizes))]
        alive = [*accumulate(map(both.__getitem__, self.events), initial=0)]
        return _Alive(alive, sum(sizes), sizes[self.input])


class _Alive(NamedTuple):
    """The bytes that are alive before each event of a decoder and after the last one, without a cache.

    `allocated` are the bytes of all tensors, and `input` those of the layer's input.
    """

    before: list[int]
    allocated: int
    input: int


def _widths(cached: CachedPair) -> tuple[int, int] | None:
    """Return the bytes of keys and of values for each token of each sequence. None if their shapes have others."""
    widths: list[int] = []
    for shape, dtype in zip(cached.shapes, cached.dtypes, strict=True):
        if len(shape) != 4 or any(dim.__class__ is SymInt for dim in shape[1::2]):
            return None
        if not (_is_named(shape[0], _ROWS) and _is_named(shape[2], _LENGTH)):
            return None
        widths.append(+shape[1] * +shape[3] * ITEMSIZE[dtype])
    return widths[0], widths[1]


def _formulas(run: Run, rows: range, of_layers: int, prepared: PreparedModel) -> tuple[list[Formula], list[int]] | None:
    """Return the distinct formulas of rows and the number of each row's. None if a row has another formula.

    Rows from `of_layers` on are allocated by layers or later. A pass that is given positions makes none before.
    """
    training, storages = prepared.training, run.storages
    gives_positions = forward_of(prepared.model).takes_positions
    sizes = frozenset({int(training.sequence_length), int(training.micro_batch_size * training.sequence_length)})
    numbers: dict[tuple[int, DType], int] = {}
    formulas: dict[Formula, int] = {(0, "tensor"): 0}
    formula_of: list[int] = []
    for row, kind in zip(rows, run.copies.kinds.of_row[rows.start : rows.stop], strict=True):
        name, shape, dtype, _, _ = storages.allocation(kind)
        number = numbers.get((id(shape), dtype))
        if number is None:
            formula = _formula(shape, dtype, sizes)
            if formula is None:
                return None
            number = numbers[id(shape), dtype] = formulas.setdefault(formula, len(formulas))
        formula_of.append(0 if row < of_layers and gives_positions and name.endswith(_POSITIONS) else number)
    return [*formulas], formula_of


def _formula(shape: Shape, dtype: DType, sizes: frozenset[int]) -> Formula | None:
    """Return the formula of a shape, or None if it is not known.

    `sizes` are the numbers of tokens of a micro-batch, which a shape without a name for them may have too.
    """
    named = [place for place, dim in enumerate(shape) if _is_named(dim, _LENGTH)]
    if not named:
        return None if not sizes.isdisjoint(shape) else (prod(map(int, shape)) * ITEMSIZE[dtype], "tensor")
    if len(named) > 1 or not named[0]:
        return None
    size = prod([int(dim) for place, dim in enumerate(shape) if place not in (0, named[0])]) * ITEMSIZE[dtype]
    if _is_named(shape[0], _ROWS):
        return size, "token of a sequence"
    return (size, "position") if shape[0] == 1 else None


def _is_named(dim: int, name: str) -> bool:
    return isinstance(dim, Dim) and dim.is_named(name)


class _Passes:
    """The passes of `generate` over a number of sequences, after a number of tokens of each."""

    __slots__ = ("_decoder", "_forward", "_layers", "_prompt", "_rows", "_scores")

    def __init__(self, decoder: _Decoder, model: Model, rows: int, prompt: int) -> None:
        self._decoder, self._forward, self._rows, self._prompt = decoder, forward_of(model), rows, prompt
        self._layers, self._scores = len(model.layers), model.output.out_features

    def derived(self, completion: int) -> DerivedRollout | None:
        """Return the passes that generate a number of tokens, or None if a layer does not have the peak of each."""
        decoder, prompt, last = self._decoder, self._prompt, self._prompt + completion - 2
        gives_positions = self._forward.takes_positions
        of_prompts = decoder.alive(self._rows, prompt, gives_positions=gives_positions)
        of_token = decoder.alive(self._rows, 1, gives_positions=gives_positions)
        first, second = self._peak(of_prompts, prompt, 0), self._peak(of_token, 1, prompt)
        third = self._peak(of_token, 1, last)
        if first is None or second is None or third is None:
            return None
        cached = 2 * self._layers * sum(self._pair(last + 1))
        allocated = of_prompts.allocated + of_prompts.input + self._of_loop(1, last) + self._of_choice(last + 1)
        return DerivedRollout((first, second, third), len(decoder.formulas) + _OTHER_SIZES, allocated + cached)

    def _peak(self, alive: _Alive, tokens: int, past: int) -> int | None:
        """Return the most bytes that are alive in a pass after `past` tokens, or None if a layer may not have them."""
        decoder, before = self._decoder, alive.before
        keys_before, values_before = self._pair(past)
        keys, values = self._pair(past + tokens)
        growth = keys + values - keys_before - values_before
        at = before[decoder.cached]
        most = max(
            *before[decoder.first : decoder.cached],
            at + keys,
            at + keys - keys_before + values,
            max(before[decoder.freed : decoder.last + 1]) + growth,
        )
        if max(before[decoder.cached : decoder.freed]) + alive.input + growth > most:
            return None
        most += (self._layers - 1) * growth + (alive.input if decoder.keeps_input and self._layers > 1 else 0)
        after = self._layers * growth
        if max(*before[: decoder.first], max(before[decoder.last :]) + after) > most:
            return None
        if before[-1] + after + self._of_choice(past + tokens) > most:
            return None
        return self._of_loop(tokens, past) + self._layers * (keys_before + values_before) + most

    def _pair(self, tokens: int) -> tuple[int, int]:
        """Return the bytes of a layer's cached keys and of its cached values of some tokens."""
        keys, values = self._decoder.pair
        return rounded(self._rows * tokens * keys), rounded(self._rows * tokens * values)

    def _of_loop(self, tokens: int, past: int) -> int:
        """Return the bytes that the loop around the passes has while layers run (see `next_token.Sampling`)."""
        prompts, inputs = (self._of_tokens(count) for count in (self._prompt, tokens))
        positions = self._forward.positions_of_token if self._forward.takes_positions else 0
        small = ALLOCATION_ROUNDING * len(self._forward.special_tokens) + self._of_tokens(1)
        size = 2 * prompts + self._of_tokens(self._prompt * positions) + small + inputs
        if not past:
            return size
        size += self._of_tokens(past + 1) + self._of_tokens((past + 1) * positions) + self._of_tokens(1)
        return size + self._of_tokens(tokens * positions) + 2 * self._of_scores

    def _of_choice(self, tokens: int) -> int:
        """Return no fewer bytes than are alive in addition to that while the head runs and a token is chosen."""
        of_tokens = self._of_tokens((tokens + 1) * self._forward.positions_of_token)
        return _OF_SCORES * self._of_scores + _OF_TOKENS * of_tokens + _SMALL * ALLOCATION_ROUNDING

    def _of_tokens(self, count: int) -> int:
        """Return the bytes of numbers for some tokens of each sequence."""
        return rounded(self._rows * count * ITEMSIZE["int64"])

    @property
    def _of_scores(self) -> int:
        """The bytes of a score for each token that may come next."""
        return rounded(self._rows * self._scores * ITEMSIZE["float32"])
