"""The peaks of the passes of `generate` in a step, from the decoder of the trained pass.

A pass of `generate` runs the code of the trained forward pass without a graph, on other numbers of sequences and
tokens. If the bytes of every tensor of the decoder are a multiple of both, the bytes in the pass follow. The live bytes
at each operation of a layer follow too, until the layer appends its keys and values to the cache, and after it frees
its own. Between these two points, and outside the layers, the live bytes of the trained pass are an upper bound, to
which the cache and the sampling of a token are added.

The last layer has the most live bytes, because all earlier layers have filled the cache. If it has more than the upper
bound elsewhere, it has the peak of the pass. The tensors of the loop of `generate` are added. Otherwise, the passes are
interpreted.
"""

from __future__ import annotations

from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import Dim
from calculator.common.dtype import ALLOCATION_ROUNDING, ITEMSIZE, rounded
from calculator.engine.symbolic_sizes import SymInt
from calculator.families import forward_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.common.dtype import DType
    from calculator.engine.skipped_passes import CachedPair, TrainedDecoder
    from calculator.methods.prepared_model import PreparedModel
    from calculator.trainers.loop import GenerationBatch
    from calculator.training_step.run import Run

    #: The bytes of a tensor per token of all sequences, or per position, or in total (the other two are 0), and the
    #: indices of symbolic sizes by which they are multiplied.
    Formula = tuple[int, int, int, tuple[int, ...]]

#: The names of the numbers of sequences and of tokens of a micro-batch, and the end of the name of position ids.
_ROWS, _LENGTH, _POSITIONS = "B", "S", "position_ids"
#: Upper bounds on the number of tensors that the head and the sampling of a token add: with a score for each token of
#: the vocabulary, with a number for each token so far, and small ones.
_OF_SCORES, _OF_TOKENS, _SMALL = 3, 2, 8
#: An upper bound on the number of sizes of tensors outside the decoder.
_OTHER_SIZES = 24
#: The formula of a tensor without bytes.
_NOTHING: Formula = (0, 0, 0, ())


class DerivedRollout(NamedTuple):
    """The passes of `generate`: those of the prompts, of the second token and of the last token.

    Attributes:
        peaks: The peak bytes of each pass.
        sizes: An upper bound on the number of block sizes of a pass.
        allocated: An upper bound on the bytes of the blocks, with the peak number of live blocks of each size.
    """

    peaks: tuple[int, int, int]
    sizes: int
    allocated: int

    @classmethod
    def from_run(cls, run: Run, prepared: PreparedModel, batch: GenerationBatch) -> DerivedRollout | None:
        """Return the passes from the run of a micro-batch, or None if it does not determine them."""
        rows, completion, trained = int(batch.rows), int(batch.completion), int(prepared.training.micro_batch_size)
        # A single sequence is a matrix.
        if run.decoder is None or completion < 3 or (rows == 1) != (trained == 1):
            return None
        if trained * int(prepared.training.sequence_length) < ALLOCATION_ROUNDING:
            return None  # tensors of one size may have several formulas
        copies = run.copies
        if copies.generated is None:
            copies.generated = _Decoder.from_run(run, run.decoder, prepared) or ()
        if not copies.generated:
            return None
        values = run.storages.digits.values_by_index if run.storages.digits is not None else ()
        return _Passes(copies.generated, values, prepared.model, rows, int(batch.prompt)).derived(completion)


class _Decoder(NamedTuple):
    """The events of the layer of a trained decoder and of what follows it, and the formulas of its tensors.

    Attributes:
        events: The number of the size that is allocated by each event, or its inverse if it is freed.
        formulas: The formula of each of these sizes.
        before: The formulas of the tensors that are allocated before the layer, first those that are alive in it.
        alive: The number of those that are alive while the layer runs.
        input: The position of the layer's input among them.
        cached: The position where the layer appends keys and values to the cache.
        freed: The position from which on it has freed its own keys and values.
        end: The position after the layer.
        pair: The bytes of keys and of values for each token of each sequence.
        keeps_input: Whether the decoder keeps the first layer's input while later layers run.
    """

    events: Sequence[int]
    formulas: dict[int, Formula]
    before: list[Formula]
    alive: int
    input: int
    cached: int
    freed: int
    end: int
    pair: tuple[int, int]
    keeps_input: bool

    @classmethod
    def from_run(cls, run: Run, decoder: TrainedDecoder, prepared: PreparedModel) -> _Decoder | None:
        """Read the events and the rows of a run, or return None if they do not determine a pass."""
        copies, cached, lifetimes = run.copies, decoder.cached, run.copies.lifetimes
        start, after, end = copies.marks["layer 0 forward"], copies.marks["layer 1 forward"], decoder.end
        freed, pair = max([lifetimes.ends[row] for row in cached.rows]) + 1, _widths(cached)
        if pair is None or not start <= cached.at < freed <= after or copies.kinds.formulas == ():
            return None  # a kind may have several symbolic shapes
        if lifetimes.freed(range(decoder.first_row), start, end):
            return None
        rows, layer = _Rows(run, prepared, decoder.layer.input_row), lifetimes.next_row(start)
        if rows.count_head_tensors(lifetimes.allocated(cached.at, freed)) > 1:
            return None
        alive = lifetimes.surviving(decoder.start, start)
        before = [*map(rows.formula_before, [*alive, *lifetimes.freed(range(decoder.first_row, layer), 0, start)])]
        formulas = rows.formulas_by_size(range(layer, lifetimes.next_row(end)))
        if formulas is None or None in before:
            return None
        return cls(
            events=copies.kinds.size_events[start:end],
            formulas=formulas,
            before=[formula for formula in before if formula is not None],
            alive=len(alive),
            input=alive.index(decoder.layer.input_row),
            cached=cached.at - start,
            freed=freed - start,
            end=after - start,
            pair=pair,
            keeps_input=decoder.layer.keeps_input,
        )

    def alive_in(self, values: Sequence[int], tokens: int, positions: int) -> _Alive:
        """Return the bytes that are alive in a pass over some tokens of all sequences, without a cache.

        `values` are those of symbolic sizes.
        """
        before = _sizes(self.before, values, tokens, positions)
        sizes = dict(zip(self.formulas, _sizes(self.formulas.values(), values, tokens, positions), strict=True))
        signed_sizes = sizes | {~number: -size for number, size in sizes.items()}
        moments = [*accumulate(map(signed_sizes.__getitem__, self.events), initial=sum(before[: self.alive]))]
        return _Alive(
            before=sum(before),
            until_cached=max(moments[: self.cached + 1]),
            cached=moments[self.cached],
            until_freed=max(moments[self.cached : self.freed]),
            freed=max(moments[self.freed : self.end + 1]),
            after=max(moments[self.end :]),
            end=moments[-1],
            input=before[self.input],
            sizes=sizes,
        )

    def peak_counts(self) -> dict[int, int]:
        """Return the most storages of each size that are alive at once."""
        alive, most = dict.fromkeys(self.formulas, 0), dict.fromkeys(self.formulas, 0)
        for number in self.events:
            if number < 0:
                alive[~number] -= 1
            else:
                alive[number] += 1
                if alive[number] > most[number]:  # noqa: PLR1730  half the time of `max`
                    most[number] = alive[number]
        return most


class _Alive(NamedTuple):
    """The live bytes at points of a pass without a cache.

    Attributes:
        before: An upper bound on the live bytes before the layer.
        until_cached: The most live bytes in the layer, until it would append to the cache.
        cached: The live bytes when it would append to the cache.
        until_freed: The most live bytes from then until its own keys and values are freed.
        freed: The most live bytes after that in the layer.
        after: The most live bytes after the layer.
        end: The live bytes when the decoder ends.
        input: The bytes of the layer's input.
        sizes: The bytes of a tensor, by the number of its size.
    """

    before: int
    until_cached: int
    cached: int
    until_freed: int
    freed: int
    after: int
    end: int
    input: int
    sizes: dict[int, int]


def _sizes(formulas: Collection[Formula], values: Sequence[int], tokens: int, positions: int) -> list[int]:
    """Return the bytes of tensors in a pass. `values` are those of symbolic sizes."""
    if values:
        return [
            rounded((a * tokens + b * positions) * (prod([values[index] for index in indices]) if indices else 1) + c)
            for a, b, c, indices in formulas
        ]
    unit, more = ALLOCATION_ROUNDING, ALLOCATION_ROUNDING - 1  # `rounded` takes several times as long
    return [(a * tokens + b * positions + c + more) // unit * unit for a, b, c, _ in formulas]


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


class _Rows:
    """The formulas of the rows of a run."""

    __slots__ = ("_batch", "_gives_positions", "_known", "_run", "_sizes")

    def __init__(self, run: Run, prepared: PreparedModel, input_row: int) -> None:
        """Read the numbers of sequences and of tokens of a layer's input."""
        training, self._run = prepared.training, run
        self._batch = run.storages.traced(run.copies.kinds.kind_of_row[input_row])[1][:2]
        self._gives_positions = forward_of(prepared.model).takes_positions
        #: The numbers of tokens of a micro-batch, which a dimension without a name for them may have too.
        self._sizes = {+training.sequence_length, +training.micro_batch_size * +training.sequence_length}
        self._known: dict[tuple[object, ...], Formula | None] = {}

    def formula_before(self, row: int) -> Formula | None:
        """Return the formula of a row that is allocated before the layers. A caller that gives positions makes them."""
        name, shape, dtype, _, _ = self._run.storages.traced(self._run.copies.kinds.kind_of_row[row])
        return _NOTHING if self._gives_positions and name.endswith(_POSITIONS) else self._formula(shape, dtype)

    def formulas_by_size(self, rows: range) -> dict[int, Formula] | None:
        """Return the formula of each size that rows have. None if it has several, or one that is not known.

        Tensors of one size that have as many bytes for each token have the same formula.
        """
        kinds, traced, (batch, length) = self._run.copies.kinds, self._run.storages.traced, self._batch
        size_of = kinds.size_of
        formulas: dict[int, Formula] = {}
        for kind in {*kinds.kind_of_row[rows.start : rows.stop]}:
            _, shape, dtype, _, _ = traced(kind)
            number = size_of[kind]
            known = formulas.get(number, _NOTHING)
            if known[0] and len(shape) == 3 and shape[0] is batch and shape[1] is length is not shape[2]:
                continue
            formula = self._formula(shape, dtype)
            if formula is None or formulas.setdefault(number, formula) != formula:
                return None
        return formulas

    def count_head_tensors(self, rows: range) -> int:
        """Return the number of tensors of heads among rows.

        One is the output of attention. If there are others, they may have all tokens that are attended to.
        """
        kind_of_row, traced = self._run.copies.kinds.kind_of_row, self._run.storages.traced
        return sum([len(traced(kind_of_row[row])[1]) > 3 for row in rows])

    def _formula(self, shape: Shape, dtype: DType) -> Formula | None:
        """Return the formula of a shape, or None if it is not known."""
        key = (*map(id, shape), dtype)
        if key not in self._known:
            self._known[key] = _formula(shape, ITEMSIZE[dtype], self._sizes)
        return self._known[key]


def _formula(shape: Shape, itemsize: int, sizes: set[int]) -> Formula | None:
    length_dims, size, indices = 0, itemsize, tuple[int, ...]()
    for dim in shape[1:]:
        if _is_named(dim, _LENGTH):
            length_dims += 1
        elif isinstance(dim, SymInt):
            indices += (dim.index,)
        else:
            size *= +dim
    first = shape[0] if shape else 1
    if length_dims == 1 and _is_named(first, _ROWS):
        return size, 0, 0, indices
    if length_dims == 1 and first.__class__ is not SymInt and first == 1:
        return 0, size, 0, indices
    if length_dims or indices or first.__class__ is SymInt or not sizes.isdisjoint(shape):
        return None
    return 0, 0, rounded(size * +first), ()


def _is_named(dim: int, name: str) -> bool:
    return dim.__class__ is not int and isinstance(dim, Dim) and dim.is_named(name)


class _Passes:
    """The passes of `generate` over a number of sequences, after a number of tokens of each."""

    __slots__ = ("_decoder", "_forward", "_layers", "_prompt", "_rows", "_score_bytes", "_values")

    def __init__(self, decoder: _Decoder, values: Sequence[int], model: Model, rows: int, prompt: int) -> None:
        self._decoder, self._values, self._forward = decoder, values, forward_of(model)
        self._rows, self._prompt = rows, prompt
        self._layers = len(model.layers)
        #: The bytes of a score for each token that may come next.
        self._score_bytes = rounded(rows * +model.output.out_features * ITEMSIZE["float32"])

    def derived(self, completion: int) -> DerivedRollout | None:
        """Return the passes that generate a number of tokens, or None if a layer does not have the peak of each."""
        decoder, prompt, last = self._decoder, self._prompt, self._prompt + completion - 2
        given = self._rows if self._forward.takes_positions else 1
        prompt_sizes, token_sizes = (
            decoder.alive_in(self._values, self._rows * tokens, given * tokens) for tokens in (prompt, 1)
        )
        first, second = self._peak(prompt_sizes, prompt, 0), self._peak(token_sizes, 1, prompt)
        third = self._peak(token_sizes, 1, last)
        if first is None or second is None or third is None:
            return None
        others = self._loop_bytes(1, last) + self._choice_bytes(last + 1) + 2 * self._layers * sum(self._pair(last + 1))
        others += prompt_sizes.before + prompt_sizes.input
        allocated = sum([prompt_sizes.sizes[number] * count for number, count in decoder.peak_counts().items()])
        sizes = len(decoder.formulas) + len(decoder.before) + _OTHER_SIZES
        return DerivedRollout((first, second, third), sizes, allocated + others)

    def _peak(self, alive: _Alive, tokens: int, past: int) -> int | None:
        """Return the most bytes that are alive in a pass after `past` tokens, or None if a layer may not have them."""
        (keys_before, values_before), (keys, values) = self._pair(past), self._pair(past + tokens)
        growth = keys + values - keys_before - values_before
        appended = alive.cached + keys, alive.cached + keys - keys_before + values
        most = max(alive.until_cached, *appended, alive.freed + growth)
        if alive.until_freed + alive.input + growth > most:
            return None
        most += (self._layers - 1) * growth + (alive.input if self._decoder.keeps_input and self._layers > 1 else 0)
        after = max(alive.after, alive.end + self._choice_bytes(past + tokens)) + self._layers * growth
        if max(alive.before, after) > most:
            return None
        return self._loop_bytes(tokens, past) + self._layers * (keys_before + values_before) + most

    def _pair(self, tokens: int) -> tuple[int, int]:
        """Return the bytes of a layer's cached keys and of its cached values of some tokens."""
        keys, values = self._decoder.pair
        return rounded(self._rows * tokens * keys), rounded(self._rows * tokens * values)

    def _loop_bytes(self, tokens: int, past: int) -> int:
        """Return the live bytes of the loop of `generate` while layers run (see `next_token.Sampling`)."""
        prompts, inputs, one_token = map(self._token_bytes, (self._prompt, tokens, 1))
        positions = self._forward.positions_of_token if self._forward.takes_positions else 0
        size = 2 * prompts + ALLOCATION_ROUNDING * len(self._forward.special_tokens) + one_token + inputs
        if positions:
            size += self._token_bytes(self._prompt * positions)
        if not past:
            return size
        size += self._token_bytes(past + 1) + one_token + 2 * self._score_bytes
        if positions:
            size += self._token_bytes((past + 1) * positions) + self._token_bytes(tokens * positions)
        return size

    def _choice_bytes(self, tokens: int) -> int:
        """Return an upper bound on the bytes that the head and the sampling of a token add."""
        ids_bytes = self._token_bytes((tokens + 1) * self._forward.positions_of_token)
        return _OF_SCORES * self._score_bytes + _OF_TOKENS * ids_bytes + _SMALL * ALLOCATION_ROUNDING

    def _token_bytes(self, count: int) -> int:
        """Return the bytes of an int64 tensor with `count` numbers for each sequence."""
        return rounded(self._rows * count * ITEMSIZE["int64"])
