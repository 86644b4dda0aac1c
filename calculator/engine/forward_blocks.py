"""The most storages of a formula that are alive at once in a forward pass."""

from __future__ import annotations

from operator import mul
from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import Dim
from calculator.common.dtype import ALLOCATION_ROUNDING
from calculator.engine.counts_by_size import count_events
from calculator.engine.kinds import firsts, numbered
from calculator.engine.symbolic_sizes import SymInt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.copies import Copies
    from calculator.engine.kinds import Storages

#: The name of the number of tokens of a sequence.
LENGTH = "S"

#: Why the bytes of a shape are not a multiple of the number of tokens: they have another formula, or one of several.
_NONE, _SEVERAL = -1, -2


class Sizes(NamedTuple):
    """Numbers of sizes, and for each the most storages of it that are alive at once."""

    numbers: Sequence[int]
    most: Sequence[int]

    @classmethod
    def from_pairs(cls, pairs: list[tuple[int, int]]) -> Sizes:
        """Return the sizes from pairs of a number and the most storages."""
        return cls(*zip(*pairs, strict=True)) if pairs else cls((), ())

    def counted(self, sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Return the bytes of each size, with its number of storages."""
        return zip(map(sizes.__getitem__, self.numbers), self.most, strict=True)

    def bytes(self, sizes: Sequence[int]) -> int:
        """Return the bytes of all storages."""
        return sum(map(mul, map(sizes.__getitem__, self.numbers), self.most))


class ForwardBlocks(NamedTuple):
    """The blocks of a forward pass by the formula of their size: that of a shape and a dtype.

    Attributes:
        own: Those whose bytes are a multiple of the tokens of a pass.
        attended: Those whose bytes are a multiple of the tokens of a pass, or of all tokens that it attends to.
        others: All others.
        float32: The widths of tensors in float32 with three dimensions.
        head_dtypes: The dtypes of tensors with four dimensions.
    """

    own: Sizes
    attended: Sizes
    others: Sizes
    float32: frozenset[int]
    head_dtypes: frozenset[DType]

    @classmethod
    def from_run(cls, copies: Copies, storages: Storages, batch: tuple[int, int], heads: set[int]) -> ForwardBlocks:
        """Return the blocks of a run of which it is known which rows have the same formula (see `Kinds.formulas`).

        `batch` is its shape: (sequences, tokens). `heads` are the widths of tensors that are attended to.
        """
        kinds, end = copies.kinds, copies.marks["backward"]
        kind_of_row = kinds.kind_of_row[: copies.lifetimes.next_row(end)]
        count = max(kind_of_row) + 1
        symbolic = kinds.formulas is not None
        keys = kinds.formulas[:count] if kinds.formulas is not None else [key[1:3] for key in kinds.keys[:count]]
        layouts, formula_of = numbered(keys)
        alive = _most_alive(copies.tape.events[:end], [*map(formula_of.__getitem__, kind_of_row)], len(layouts))
        own, attended, others = list[tuple[int, int]](), list[tuple[int, int]](), list[tuple[int, int]]()
        widths: set[int] = set()
        head_dtypes: set[DType] = set()
        rows, length = batch
        for kind, (_, dtype), most in zip(firsts(formula_of), layouts, alive, strict=True):
            shape = storages.traced(kind)[1]
            place = _symbolic_place(shape) if symbolic else _place(shape, length, rows * length)
            width = +shape[2] if len(shape) == 3 and shape[2].__class__ is not SymInt else 0
            if place < 0:
                others += [(kinds.size_of[kind], most)] * (2 if place == _SEVERAL else 1)
            else:
                (own if place == 1 and width not in heads else attended).append((kinds.size_of[kind], most))
            if len(shape) > 3:
                head_dtypes.add(dtype)
            elif dtype == "float32":
                widths.add(width)
        token_sizes, attended_sizes, fixed = map(Sizes.from_pairs, (own, attended, others))
        return cls(token_sizes, attended_sizes, fixed, frozenset(widths), frozenset(head_dtypes))

    def blocks(self, sizes: Sequence[int], times: int, tokens: tuple[int, int, int]) -> list[tuple[int, int]]:
        """Return the blocks of a pass, as sizes in bytes and numbers of blocks.

        The batch of the pass has `times` as many sequences. `tokens` are the tokens of each sequence in the pass, the
        tokens that it attends to, and the tokens in the forward pass.
        """
        own, attended, length = tokens
        own, attended = own * times, attended * times
        blocks = [(size * own // length + ALLOCATION_ROUNDING, most) for size, most in self.own.counted(sizes)]
        blocks += [
            (size * attended // length + ALLOCATION_ROUNDING, most) for size, most in self.attended.counted(sizes)
        ]
        return blocks + [(size * times, most) for size, most in self.others.counted(sizes)]

    def upper_bound(self, sizes: Sequence[int], times: int, tokens: tuple[int, int, int]) -> tuple[int, int]:
        """Return an upper bound on the bytes of these blocks, and the number of their sizes."""
        own, attended, length = tokens
        token_bytes = self.own.bytes(sizes) * own + self.attended.bytes(sizes) * attended
        total = token_bytes * times // length + self.others.bytes(sizes) * times
        rounding = ALLOCATION_ROUNDING * (sum(self.own.most) + sum(self.attended.most))
        return total + rounding, len(self.own.most) + len(self.attended.most) + len(self.others.most)


def _most_alive(events: Sequence[int], formula_of_row: Sequence[int], formulas: int) -> list[int]:
    """Return the most rows of each formula that are alive at once."""
    alive = [0] * formulas
    most = [*alive]
    count_events(events, formula_of_row, alive, most)
    return most


def _place(shape: Shape, length: int, tokens: int) -> int:
    """Return the place of the number of tokens in a shape if the bytes are a multiple of it, or why they are not.

    A size of the model may have the same value. Then the shape may have several formulas.
    """
    occurrences = shape.count(length)
    if occurrences > 1 or len(shape) < 3:
        return _SEVERAL if occurrences or tokens in shape else _NONE
    if not occurrences:
        return _NONE
    place = shape.index(length)
    dim = shape[place]
    return place if isinstance(dim, Dim) and dim.is_named(LENGTH) else _NONE


def _symbolic_place(shape: Shape) -> int:
    """Return the result of `_place` for a symbolic shape, which has one formula."""
    places = [place for place, dim in enumerate(shape) if isinstance(dim, Dim) and dim.is_named(LENGTH)]
    return places[0] if len(places) == 1 and len(shape) > 2 else _NONE
