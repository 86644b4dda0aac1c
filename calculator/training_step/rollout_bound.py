"""Upper bounds on the live bytes of the passes of `generate` in a step, from the forward pass of the trained model.

In most steps, these passes do not have the peak. The bounds show this without an interpretation of the passes.

A pass runs the code of the trained forward pass without a graph, on the sequences of all micro-batches and on fewer
tokens of each. A graph only adds tensors and references. So a storage of the pass has at most the bytes that it has in
the forward pass, times the number of micro-batches. No operation has more live storages with the same formula. Tensors
that only `generate` allocates are counted separately: cached keys and values, tables of the positions of every
sequence, the ids of its loop, and scores of the next token. If one of these statements may be false, there is no bound.

The first bound counts every storage of the forward pass as if none were freed. It is the fastest to compute. If it is
too high, the live storages of each formula are counted.
"""

from __future__ import annotations

from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from calculator.common.dtype import ALLOCATION_ROUNDING, FLOATS, rounded
from calculator.engine.forward_blocks import ForwardBlocks
from calculator.families import forward_of
from calculator.training_step.like_trained_pass import is_bounded

if TYPE_CHECKING:
    from calculator.inputs.training import Training
    from calculator.methods.prepared_model import PreparedModel
    from calculator.training_step.run import Run

    #: An upper bound on the bytes of a block, and the number of such blocks.
    Blocks = tuple[int, int]
    #: The widths of keys and values that layers cache, and a number of such layers.
    Widths = tuple[tuple[tuple[int, int], int], ...]

#: Upper bounds on the number of live tensors of three kinds. `_OF_TOKENS` have a number for each token: prompts, their
#: mask and positions, and the ids, mask and positions before and after a token. `_OF_POSITIONS` have a number for each
#: element of a head: cos and sin, their inputs, and copies in another dtype, for two types of attention. `_OF_SCORES`
#: have a number for each token of the vocabulary: logits and probabilities before and after a token, and temporaries of
#: the head and of sampling.
_OF_TOKENS, _OF_POSITIONS, _OF_SCORES = 16, 16, 12
#: Upper bounds on the number of small tensors: special tokens and scalars of one token, and the windows of each layer.
_SMALL, _OF_WINDOWS = 512, 4
#: The number of sizes of these kinds and of small tensors.
_OTHER_SIZES = 4


class Need(NamedTuple):
    """Upper bounds on the live bytes and on the segments of a pass.

    `blocks` need at least as many segments as the blocks of the pass. `allocated` are the bytes of `blocks`.
    """

    bytes: int
    allocated: int
    blocks: list[Blocks]


class QuickNeed(NamedTuple):
    """Upper bounds on the live bytes, on the bytes of all blocks, and on the number of different block sizes."""

    bytes: int
    allocated: int
    sizes: int


class Batch(NamedTuple):
    """The sequences of a micro-batch, the number of micro-batches of a step, and the tokens of a sequence."""

    rows: int
    times: int
    length: int


class RolloutBound:
    """The bounds on the passes of `generate` in a step: two fast bounds on all passes, and a lower bound on each pass.

    A bound is computed when the previous one is too high.
    """

    __slots__ = ("_batch", "_blocks", "_lower", "_prompt", "_quick", "_run", "total")
    _quick: QuickNeed | None
    _lower: tuple[Need, Need] | None

    def __init__(self, blocks: PassBlocks, run: Run, training: Training, prompt: int) -> None:
        """Take the blocks of a pass, and the run of a micro-batch. `prompt` is the number of tokens of a prompt."""
        self._blocks, self._run, self._prompt = blocks, run, +prompt
        self._batch = Batch(training.micro_batch_size, training.micro_batches, training.sequence_length)
        #: The bound that counts each storage of the forward pass. None if sizes were symbolic.
        self.total = blocks.bound_without_frees(run, self._batch, self._prompt) if run.storages.digits is None else None
        self._quick = self._lower = None

    @classmethod
    def from_run(cls, run: Run, prepared: PreparedModel, prompt: int) -> RolloutBound | None:
        """Return the bound from the run of a micro-batch, or None if there is none.

        Runs that share their copies differ in sizes alone.
        """
        copies = run.copies
        if copies.pass_blocks is None:
            copies.pass_blocks = PassBlocks.from_run(run, prepared) or ()
        return cls(copies.pass_blocks, run, prepared.training, prompt) if copies.pass_blocks else None

    @property
    def quick(self) -> QuickNeed:
        """The bound that counts the storages of each formula."""
        if self._quick is None:
            self._quick = self._blocks.quick_bound(self._run, self._batch, self._prompt)
        return self._quick

    def is_below(self, size: int) -> bool:
        """Return whether the live bytes of all passes are certain to stay below a size."""
        if self.total is not None and self.total.bytes < size:
            return True
        return self.quick.bytes < size or max([need.bytes for need in self.lower]) < size

    def sizes_above(self, limit: int) -> int:
        """Return an upper bound on the number of block sizes above a limit in any pass."""
        batch = self._batch
        blocks = self._blocks.pass_bound(self._run, batch, self._prompt, batch.length).blocks
        return sum([size > limit for size, _ in blocks])

    @property
    def lower(self) -> tuple[Need, Need]:
        """The lower bounds on the pass of the prompts and on the pass of a token.

        No later token attends to the prompts' own tensors, and one token has few.
        """
        if self._lower is None:
            pass_bound, run, batch = self._blocks.pass_bound, self._run, self._batch
            self._lower = pass_bound(run, batch, self._prompt, self._prompt), pass_bound(run, batch, 1, batch.length)
        return self._lower


class PassBlocks:
    """The blocks of a pass of `generate` for any sizes. Those of the forward pass are read when they are needed."""

    __slots__ = ("_cached", "_forward", "_head_dim", "_is_float32", "_is_sdpa", "_others", "_small", "_widths")

    def __init__(self, prepared: PreparedModel, widths: Widths) -> None:
        model = prepared.model
        self._widths, self._head_dim = widths, model.config["head_dim"]
        self._is_sdpa, self._is_float32 = prepared.training.attention == "sdpa", prepared.hidden_dtype == "float32"
        type_widths = (model.config.get("rotary_dim_by_type") or {}).values()
        scores = +max(model.output.out_features, model.output.in_features)
        #: The bytes of what else than storages of the forward pass a token of the pass, any token and a sequence have.
        self._others = 4 * +max(self._head_dim, *type_widths, 0), 8 * forward_of(model).positions_of_token, 4 * scores
        #: The number of small tensors.
        self._small = _SMALL + _OF_WINDOWS * len(model.decoder.layers)
        #: The blocks of the trained forward pass. None until they are read.
        self._forward: ForwardBlocks | None = None
        #: The bytes of keys and of values of a token, and their number.
        self._cached: list[Blocks] = []

    @classmethod
    def from_run(cls, run: Run, prepared: PreparedModel) -> PassBlocks | None:
        """Return the blocks, or None if it is not certain that they are all."""
        widths = prepared.model.cached_widths
        if widths is None or run.copies.kinds.formulas == () or not is_bounded(prepared):
            return None
        return cls(prepared, widths)

    def _read(self, run: Run, batch: Batch) -> ForwardBlocks:
        """Return the blocks of the forward pass, which are read from the run of a micro-batch."""
        if self._forward is None:
            heads = {self._head_dim, *chain.from_iterable([pair for pair, _ in self._widths])}
            self._forward = ForwardBlocks.from_run(run.copies, run.storages, (batch.rows, batch.length), heads)
            self._cached = self._cached_with(self._forward)
        return self._forward

    def bound_without_frees(self, run: Run, batch: Batch, prompt: int) -> QuickNeed:
        """Return an upper bound on every pass, as if the run of the micro-batch freed nothing.

        An element of a key or of a value has at most 4 bytes.
        """
        copies, rows = run.copies, batch.times * batch.rows
        count = copies.lifetimes.next_row(copies.marks["backward"])
        total = batch.times * sum(map(itemgetter(4), copies.tape.rows[:count]))
        others = sum([size * number for size, number in self._generate_blocks(rows, prompt, batch.length)])
        cached = [(rounded(rows * batch.length * 4 * width), n + 1) for pair, n in self._widths for width in pair]
        cache_bytes = sum([size * number for size, number in cached])
        sizes = count + _OTHER_SIZES + 2 * len(cached)
        return QuickNeed(total + others + cache_bytes, total + others + 2 * cache_bytes, sizes)

    def pass_bound(self, run: Run, batch: Batch, tokens: int, attended: int) -> Need:
        """Return the bound on a pass over `tokens` tokens of each sequence, which attends to `attended` tokens."""
        forward, rows = self._read(run, batch), batch.times * batch.rows
        blocks = forward.blocks(run.storages.sizes, batch.times, (tokens, attended, batch.length))
        cached = [(rounded(rows * attended * size), count) for size, count in self._cached]
        blocks += self._generate_blocks(rows, tokens, attended) + cached
        alive = sum([size * count for size, count in blocks])
        # Keys and values with a token have another size than those before it.
        if tokens == attended:
            return Need(alive, alive, blocks)
        return Need(alive, alive + sum([size * count for size, count in cached]), blocks + cached)

    def quick_bound(self, run: Run, batch: Batch, prompt: int) -> QuickNeed:
        """Return an upper bound on every pass. It is higher than those of `pass_bound`, and faster to compute."""
        forward, rows, length = self._read(run, batch), batch.times * batch.rows, batch.length
        total, count = forward.upper_bound(run.storages.sizes, batch.times, (prompt, length, length))
        cache_bytes = sum([rounded(rows * length * size) * number for size, number in self._cached])
        alive = (
            total + sum([size * number for size, number in self._generate_blocks(rows, prompt, length)]) + cache_bytes
        )
        return QuickNeed(alive, alive + cache_bytes, count + _OTHER_SIZES + 2 * len(self._cached))

    def _generate_blocks(self, rows: int, tokens: int, attended: int) -> list[Blocks]:
        """Return the blocks of the tensors that only `generate` allocates in a pass, without its cache."""
        position_bytes, token_bytes, row_bytes = self._others
        sizes = (
            rows * tokens * position_bytes,
            rows * (attended + 1) * token_bytes,
            rows * row_bytes,
            ALLOCATION_ROUNDING,
        )
        return [*zip(map(rounded, sizes), (_OF_POSITIONS, _OF_TOKENS, _OF_SCORES, self._small), strict=True)]

    def _cached_with(self, forward: ForwardBlocks) -> list[Blocks]:
        """Return the bytes of cached keys and values of a token, and the number of layers and of those replaced.

        Queries, keys and values of sdpa have one dtype, which is that of heads if rotation makes tensors of these.
        """
        is_known = self._is_sdpa and not forward.head_dtypes.isdisjoint(FLOATS)
        in_float32 = frozenset[int]() if is_known else forward.float32
        itemsize = 4 if self._is_float32 or "float32" in forward.head_dtypes else 2
        return [
            (width * (4 if width in in_float32 else itemsize), count + 1)
            for pair, count in self._widths
            for width in pair
        ]
