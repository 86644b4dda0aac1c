"""The cache of a pass after earlier tokens, whose tensors get their shapes from those that the pass computes.

A layer appends its own keys and values to those of earlier tokens. These differ from its own in their length alone. So
the pass needs no pass of the prompts before it.
"""

from __future__ import annotations

from itertools import chain, compress
from typing import TYPE_CHECKING

from calculator.engine.tape import Storage, Tensor
from calculator.layers.cache import Cache

if TYPE_CHECKING:
    from calculator.engine.tape import Allocation, Tape
    from calculator.layers.context import Context


class EarlierTokens(Cache):
    """The keys and values of `context.past` tokens in layers of which each caches one pair, and has no window."""

    __slots__ = ("_classes", "_first", "_interpreted", "_name", "_past", "_tape")

    def __init__(self, context: Context) -> None:
        """Allocate the keys and values of every layer. Those of layers that are not interpreted stay alive."""
        tape, layers = context.tape, context.layers
        caches = [layer.kind.attention != "mlp" for layer in layers]
        cached = [*compress(range(len(layers)), caches)]
        self._tape: Tape = tape
        self._past, self._name = context.past, f"{tape.scope}cached before"
        self._first = len(tape.rows)
        #: The classes of the layers that cache a pair.
        self._classes = [*compress(context.classes, caches)]
        #: The places of the interpreted ones among them.
        self._interpreted = [cached.index(number) for number in context.repetition.numbers if caches[number]]
        end = self._first + 2 * len(cached)
        without_shape: Allocation = (self._name, (), "bool", "kv_cache", 0)
        tape.rows += [without_shape] * (2 * len(cached))
        tape.events += range(self._first, end)
        pairs = [[self._tensor(self._first + 2 * place + part) for part in (0, 1)] for place in self._interpreted]
        super().__init__(pairs, windowed=True, given=(), component="kv_cache")

    def _tensor(self, row: int) -> Tensor:
        return Tensor(self._tape, Storage.from_row(row, self._tape.events), (), "bool", None)

    def update(self, key: Tensor, value: Tensor, *, windowed: bool, one_dtype: bool = False) -> tuple[Tensor, Tensor]:
        """Append keys and values to those of earlier tokens, which differ from them in their length alone."""
        for before, own in zip(self.before[0], (key, value), strict=True):
            assert before is not None
            self._shape(before, own)
        del before
        return super().update(key, value, windowed=windowed, one_dtype=one_dtype)

    def _shape(self, before: Tensor, own: Tensor) -> None:
        shape, dtype, tape = (*own.shape[:2], self._past, own.shape[3]), own.dtype, self._tape
        before.shape, before.dtype = shape, dtype
        assert before.storage is not None
        tape.rows[before.storage.row] = (self._name, shape, dtype, self.component, tape.sizes[shape, dtype])

    def shape_others(self, rows: list[Allocation]) -> None:
        """Give the tensors of all layers in a tape's rows the shapes of those of an interpreted layer like them."""
        assert not self.before
        pairs = {}
        for place in reversed(self._interpreted):
            row = self._first + 2 * place
            pairs[self._classes[place]] = rows[row : row + 2]
        rows[self._first : self._first + 2 * len(self._classes)] = chain.from_iterable(
            map(pairs.__getitem__, self._classes)
        )
