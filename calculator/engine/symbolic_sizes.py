"""Symbolic integers. They are sizes that stay symbolic while a step is traced.

Expressions are built from them, and comparisons of them become guards. The trace holds for all other sizes that satisfy
its guards, as in torch.fx.experimental.symbolic_shapes.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from functools import partial
from itertools import chain, zip_longest
from operator import add, eq, floordiv, ge, gt, itemgetter, le, lt, mod, mul, ne, sub
from typing import TYPE_CHECKING, Any, Self

from calculator.architecture.dimension import Dim, ceil_div

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    #: A function of two integers.
    Function = Callable[[int, int], int]

    #: An expression: the index of its value, the function that computes it, and the indices of its two arguments.
    Expression = tuple[int, Function, int, int]


#: A text with placeholders for digits. It alternates between the text before a placeholder, the index of a value, and
#: its format.
_OPEN, _BETWEEN, _CLOSE = "\x02", "\x1f", "\x03"
_PLACE = re.compile(f"{_OPEN}(\\d+){_BETWEEN}([^{_CLOSE}]*){_CLOSE}")


class ShapeEnv:
    """The values that a trace computes from its symbolic sizes, by index. The symbolic sizes come first."""

    __slots__ = ("_known_dependents", "constants", "expressions", "guards", "known", "values", "writes_places")

    def __init__(self) -> None:
        #: Every value, computed with the sizes of this trace.
        self.values: list[int] = []
        #: The expressions that depend on the symbolic sizes, in the order in which to compute them.
        self.expressions: list[Expression] = []
        #: The indices of the values that the trace branched on. Their values must not change.
        self.guards: set[int] = set()
        #: The index of each constant and of each expression.
        self.known: dict[object, int] = {}
        #: The indices of constants.
        self.constants: set[int] = set()
        #: Whether the text of a size is a place for digits, which `Texts` fills. Otherwise the text is a guard on the
        #: size.
        self.writes_places = False
        self._known_dependents: dict[object, tuple[list[Expression], set[int]]] = {}

    def create_symint(self, size: int) -> SymInt:
        """Make a size symbolic. Create all of them before any other value has an index."""
        return SymInt(self, self._append(size), None)

    def alias(self, size: Dim) -> SymInt:
        """Return a size with the value and name of another, which `with_alias` can replace.

        Values that depend on it must be computed after this call.
        """
        source = self.index(size)
        index = self._append(self.values[source])
        self.expressions.append((index, _first, source, source))
        return SymInt(self, index, size.name_parts if isinstance(size, SymInt) else size.name)

    def index(self, number: int) -> int:
        """Return the index of a number. A constant gets one when it is first used."""
        if number.__class__ is SymInt:
            return number.index
        index = self.known.get(number)
        if index is None:
            index = self.known[number] = self._append(number)
            self.constants.add(index)
        return index

    def apply(self, function: Function, left: int, right: int) -> int:
        """Record a function of two numbers and return the index of its result."""
        return self.applied(function, self.index(left), self.index(right))

    def applied(self, function: Function, first: int, second: int) -> int:
        """Record a function of the values with two indices and return the index of its result."""
        key = (function, first, second)
        index = self.known.get(key)
        if index is None:
            index = self.known[key] = self._append(function(self.values[first], self.values[second]))
            self.expressions.append((index, function, first, second))
        return index

    def can_be_equal(self, shape: Sequence[int], other: Sequence[int]) -> bool:
        """Return whether two shapes, as indices, can be equal for some sizes: whether their constants are the same."""
        constants = self.constants
        return len(shape) == len(other) and all(
            a == b or a not in constants or b not in constants for a, b in zip(shape, other, strict=True)
        )

    def guard(self, index: int) -> int:
        """Return a value and guard on it: the trace holds only for sizes that give the same value."""
        self.guards.add(index)
        return self.values[index]

    def eliminate_dead_code(self, outputs: Iterable[int]) -> None:
        """Drop every expression that neither the outputs nor the guards need."""
        needed, kept = {*outputs, *self.guards}, []
        for expression in reversed(self.expressions):
            if expression[0] in needed:
                needed.update(expression[2:])
                kept.append(expression)
        self.expressions = kept[::-1]

    def evaluate(self, sizes: Sequence[int]) -> list[int] | None:
        """Return every value for other sizes, or None if a guard fails."""
        traced = self.values
        values = [*sizes, *traced[len(sizes) :]]
        try:
            for index, function, left, right in self.expressions:
                values[index] = function(values[left], values[right])
        except ZeroDivisionError:
            return None
        return values if all(values[index] == traced[index] for index in self.guards) else None

    def with_aliases(self, values: Sequence[int], sources: Mapping[int, int]) -> list[int] | None:
        """Return the values if aliases have the values of other sources, or None if a guard fails.

        `sources` has the index of the source for that of each alias.
        """
        evaluated, traced = [*values], self.values
        for alias, source in sources.items():
            evaluated[alias] = values[source]
        expressions, guards = self._dependents(tuple(sources))
        try:
            for index, function, left, right in expressions:
                evaluated[index] = function(evaluated[left], evaluated[right])
        except ZeroDivisionError:
            return None
        return evaluated if all(evaluated[index] == traced[index] for index in guards) else None

    def only_grows(self, alias: int) -> bool:
        """Return whether every value that depends on an alias grows with it, or stays, and none is guarded."""
        expressions, guards = self._dependents((alias,))
        return not guards and all(function in _GROWING for _, function, _, _ in expressions)

    def _dependents(self, aliases: tuple[int, ...]) -> tuple[list[Expression], set[int]]:
        """Return the expressions and the guards that depend on aliases. They are cached."""
        key = (aliases, len(self.expressions), len(self.guards))
        known = self._known_dependents.get(key)
        if known is None:
            changed, expressions = {*aliases}, []
            for expression in self.expressions[bisect_right(self.expressions, min(aliases), key=itemgetter(0)) :]:
                if (expression[2] in changed or expression[3] in changed) and expression[0] not in aliases:
                    changed.add(expression[0])
                    expressions.append(expression)
            known = self._known_dependents[key] = expressions, changed & self.guards
        return known

    def extended(self, values: Sequence[int]) -> list[int]:
        """Return the values together with those of indices that were added after they were computed."""
        count = len(values)
        extended_values = [*values, *self.values[count:]]
        start = bisect_left(self.expressions, count, key=itemgetter(0))
        for index, function, left, right in self.expressions[start:]:
            extended_values[index] = function(extended_values[left], extended_values[right])
        return extended_values

    def _append(self, value: int) -> int:
        self.values.append(int(value))
        return len(self.values) - 1


def _first(value: int, _: int) -> int:
    return value


#: Functions of sizes that grow with each of their arguments, or stay.
_GROWING: tuple[Function, ...] = (_first, add, mul)


class Digits(dict[int, str]):
    """The digits of the values of a `ShapeEnv`, by index. They are cached, since many shapes share a dimension."""

    __slots__ = ("values_by_index",)

    def __init__(self, values: Sequence[int]) -> None:
        super().__init__()
        self.values_by_index = values

    def __missing__(self, index: int) -> str:
        digits = self[index] = f"{self.values_by_index[index]:,}"
        return digits


class SymInt(Dim):
    """A dimension whose size is symbolic, or an expression of symbolic sizes.

    Sums, differences, products, floor divisions and remainders become expressions. Comparisons become guards on their
    result. Every other method of an int, such as its hash or its digits, guards on the size itself.

    C code that reads an int without calling one of its methods bypasses the guard. The code of a step must not pass a
    size to such code: `range`, an index, a slice, a function that needs a C integer, or a float or a bool as the left
    operand.
    """

    #: The environment that the size belongs to.
    shape_env: ShapeEnv
    #: The index of its value in the environment.
    index: int
    #: The name, or an operator and the names of its operands. None if the size has no name but its digits.
    name_parts: str | tuple[str, int, int] | None

    def __new__(cls, shape_env: ShapeEnv, index: int, name_parts: str | tuple[str, int, int] | None) -> Self:
        """Wrap the value at an index."""
        self = int.__new__(cls, shape_env.values[index])
        self.shape_env, self.index, self.name_parts = shape_env, index, name_parts
        return self

    @property
    def name(self) -> str:
        """The name of what the size counts."""
        value = self.evaluate(self.shape_env.values)
        return value.name if isinstance(value, Dim) else f"{value:,}"

    def renamed(self, name: str) -> SymInt:
        """Return the same size under another name."""
        return SymInt(self.shape_env, self.index, name)

    def is_named(self, name: str) -> bool:
        """Return whether the size has a name that is no expression."""
        return self.name_parts == name

    def divided(self, count: Dim) -> SymInt:
        """Return the size of the largest of `count` equal parts. The last part may be smaller."""
        return self.binary(ceil_div, "/", self, count)

    def evaluate(self, values: Sequence[int]) -> int:
        """Return the dimension for other values of its environment."""
        parts = self.name_parts
        if parts is None:
            return values[self.index]
        if isinstance(parts, tuple) and _is_constant(parts):
            self.name_parts = parts = self._name_for(values)
        return Dim(values[self.index], parts if isinstance(parts, str) else partial(self._name_for, values))

    @property
    def has_constant_name(self) -> bool:
        """Whether its name is the same for all values."""
        return _is_constant(self.name_parts)

    def _name_for(self, values: Sequence[int]) -> str:
        assert isinstance(self.name_parts, tuple)
        sign, *parts = self.name_parts
        left, right = (part.evaluate(values) if isinstance(part, SymInt) else part for part in parts)
        return Dim(0, (sign, left, right)).name

    def binary(self, function: Function, sign: str, left: int, right: int) -> SymInt:
        """Apply a function to two numbers, one of which is this size. `sign` joins their names."""
        shape_env = self.shape_env
        first = left.index if left.__class__ is SymInt else shape_env.index(left)
        second = right.index if right.__class__ is SymInt else shape_env.index(right)
        name_parts = (sign, left, right) if sign and (_is_named(left) or _is_named(right)) else None
        return SymInt(shape_env, shape_env.applied(function, first, second), name_parts)

    def compare(self, function: Function, other: int) -> bool:
        """Compare with a number and guard on the result."""
        return bool(self.shape_env.guard(self.shape_env.apply(function, self, other)))

    def guard(self) -> int:
        """Return the size as a plain int and guard on it."""
        return self.shape_env.guard(self.index)

    def __pos__(self) -> SymInt:
        return self if self.name_parts is None else SymInt(self.shape_env, self.index, None)

    def __neg__(self) -> SymInt:
        return self.binary(sub, "", 0, self)

    def __bool__(self) -> bool:
        return self.compare(ne, 0)

    def __format__(self, spec: str) -> str:
        if self.shape_env.writes_places:
            return f"{_OPEN}{self.index}{_BETWEEN}{spec}{_CLOSE}"
        return format(self.guard(), spec)


class Texts:
    """Texts that contain symbolic sizes. They are filled with any values of these."""

    __slots__ = ("_parts", "_texts")

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = tuple(texts)
        #: The parts of each text with placeholders, by its number. They alternate between the text before a
        #: placeholder, the index of a value, and its format.
        self._parts = {number: _PLACE.split(text) for number, text in enumerate(self._texts) if _OPEN in text}

    @property
    def indices(self) -> set[int]:
        """The indices of the values that the texts contain."""
        return {int(index) for parts in self._parts.values() for index in parts[1::3]}

    def with_values(self, values: Sequence[int]) -> tuple[str, ...]:
        """Return the texts with these values of the environment."""
        if not self._parts:
            return self._texts
        texts = [*self._texts]
        for number, parts in self._parts.items():
            digits = [format(values[int(index)], spec) for index, spec in zip(parts[1::3], parts[2::3], strict=True)]
            texts[number] = "".join(chain.from_iterable(zip_longest(parts[::3], digits, fillvalue="")))
        return tuple(texts)


def _is_constant(parts: str | tuple[str, int, int] | None) -> bool:
    """Return whether a name is the same for all values, because it contains no digits of a size."""
    if isinstance(parts, tuple):
        return all(_is_constant(part.name_parts) for part in parts[1:] if isinstance(part, SymInt))
    return parts is not None


def _is_named(size: int) -> bool:
    kind = size.__class__
    return size.name_parts is not None if kind is SymInt else kind is Dim  # type: ignore[attr-defined]


def _arithmetic(function: Function, sign: str) -> tuple[Callable[[SymInt, Any], Any], Callable[[SymInt, Any], Any]]:
    """Return the methods of an operator with the symbolic size as its left and as its right operand."""

    def left(self: SymInt, other: Any) -> Any:
        return self.binary(function, sign, self, other) if isinstance(other, int) else function(self.guard(), other)

    def right(self: SymInt, other: Any) -> Any:
        return self.binary(function, sign, other, self) if isinstance(other, int) else function(other, self.guard())

    return left, right


def _comparison(function: Function) -> Callable[[SymInt, Any], Any]:
    def compare(self: SymInt, other: Any) -> Any:
        return self.compare(function, other) if isinstance(other, int) else function(self.guard(), other)

    return compare


def _guarded(name: str) -> Callable[..., Any]:
    """Return a method of int that guards on the size."""

    def method(self: SymInt, *others: Any) -> Any:
        return getattr(self.guard(), name)(*[other.guard() if isinstance(other, SymInt) else other for other in others])

    return method


for _function, _sign in ((add, "+"), (sub, ""), (mul, "×"), (floordiv, ""), (mod, "")):
    _left, _right = _arithmetic(_function, _sign)
    setattr(SymInt, f"__{_function.__name__}__", _left)
    setattr(SymInt, f"__r{_function.__name__}__", _right)
for _function in (eq, ne, lt, le, gt, ge):
    setattr(SymInt, f"__{_function.__name__}__", _comparison(_function))

#: Methods of int that don't read its value, or that make a new int.
_VALUE_FREE = {"__new__", "__getattribute__", "__getnewargs__", "__sizeof__", "from_bytes"}
for _name in {*vars(int)} - {*vars(SymInt), *_VALUE_FREE}:
    if callable(getattr(int, _name)):
        setattr(SymInt, _name, _guarded(_name))
