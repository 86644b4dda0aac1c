"""Sizes that are left open while a step is run: what is worked out of them, and what was decided by them.

The run tells of every other size by which the same is decided.
"""

from __future__ import annotations

from functools import partial
from operator import add, eq, floordiv, ge, gt, le, lt, mod, mul, ne, sub
from typing import TYPE_CHECKING, Any, Self

from calculator.architecture.dimension import Dim

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    #: Of two numbers another.
    Function = Callable[[int, int], int]

    #: Where a number is put, and the function and the places of the two that it is worked out of.
    Step = tuple[int, Function, int, int]


class Formulas:
    """Every number that is worked out of the open sizes, each at a place of its own; the open sizes come first.

    `values`: the numbers of this run. `decided`: the places of those that decided something.
    """

    __slots__ = ("decided", "known", "steps", "values")

    def __init__(self) -> None:
        self.values: list[int] = []
        self.steps: list[Step] = []
        self.decided: set[int] = set()
        self.known: dict[object, int] = {}

    def opened(self, size: int) -> SymInt:
        """A size that is left open, before any other number has its place."""
        return SymInt(self, self._put(size), None)

    def place(self, number: int) -> int:
        """Where a number is."""
        if isinstance(number, SymInt):
            return number.place
        if number not in self.known:
            self.known[number] = self._put(number)
        return self.known[number]

    def applied(self, function: Function, left: int, right: int) -> int:
        """Where the result of a function is."""
        first, second = self.place(left), self.place(right)
        key = (function, first, second)
        if key not in self.known:
            place = self._put(function(self.values[first], self.values[second]))
            self.known[key] = place
            self.steps.append((place, function, first, second))
        return self.known[key]

    def fix(self, place: int) -> int:
        """Have a number decide something: it must be the same where this run is to tell of other sizes."""
        self.decided.add(place)
        return self.values[place]

    def cut(self, asked: Iterable[int]) -> None:
        """Leave out what neither the numbers at these places nor the decisions need."""
        needed, kept = {*asked, *self.decided}, []
        for step in reversed(self.steps):
            if step[0] in needed:
                needed.update(step[2:])
                kept.append(step)
        self.steps = kept[::-1]

    def worked_out(self, sizes: Sequence[int]) -> list[int] | None:
        """The numbers of other open sizes, or nothing where they decide otherwise."""
        was = self.values
        values = [*sizes, *was[len(sizes) :]]
        try:
            for place, function, left, right in self.steps:
                values[place] = function(values[left], values[right])
        except ZeroDivisionError:
            return None
        return values if all(values[place] == was[place] for place in self.decided) else None

    def _put(self, value: int) -> int:
        self.values.append(int(value))
        return len(self.values) - 1


class SymInt(Dim):
    """A dimension whose size is left open, or worked out of such sizes.

    Sums, differences, products, whole quotients and remainders are worked out again for other sizes, and comparisons
    must come out the same. Whatever else Python asks of an int (its hash, its digits) fixes it. What is taken without
    asking can't be seen, and a step's code must not take it of a size: `range`, an index, a slice, functions in C that
    want a whole number, a float or a bool on the left of an operator.
    """

    formulas: Formulas
    place: int
    told: str | tuple[str, int, int] | None

    def __new__(cls, formulas: Formulas, place: int, told: str | tuple[str, int, int] | None) -> Self:
        """The number at a place; what it counts is told, or nothing where it has its digits for a name."""
        self = super().__new__(cls, formulas.values[place], "")
        self.formulas, self.place, self.told = formulas, place, told
        return self

    @property
    def name(self) -> str:
        """What it counts."""
        own = self.at(self.formulas.values)
        return own.name if isinstance(own, Dim) else f"{own:,}"

    def called(self, name: str) -> SymInt:
        """The same size by another name."""
        return SymInt(self.formulas, self.place, name)

    def at(self, values: Sequence[int]) -> int:
        """The dimension where these are the formulas' numbers."""
        if self.told is None:
            return values[self.place]
        return Dim(values[self.place], self.told if isinstance(self.told, str) else partial(self._named, values))

    def _named(self, values: Sequence[int]) -> str:
        assert isinstance(self.told, tuple)
        sign, *parts = self.told
        left, right = (part.at(values) if isinstance(part, SymInt) else part for part in parts)
        return Dim(0, (sign, left, right)).name

    def by(self, function: Function, sign: str, left: int, right: int) -> SymInt:
        """What a function makes of two numbers, this one among them; a sign between their names is its own."""
        told = (sign, left, right) if sign and (_is_named(left) or _is_named(right)) else None
        return SymInt(self.formulas, self.formulas.applied(function, left, right), told)

    def decides(self, function: Function, other: int) -> bool:
        """A comparison, which must come out the same for other sizes."""
        return bool(self.formulas.fix(self.formulas.applied(function, self, other)))

    def fix(self) -> int:
        """Have the size decide something: it must be the same."""
        return self.formulas.fix(self.place)

    def __pos__(self) -> SymInt:
        return SymInt(self.formulas, self.place, None)

    def __neg__(self) -> SymInt:
        return self.by(sub, "", 0, self)

    def __bool__(self) -> bool:
        return self.decides(ne, 0)


def _is_named(size: int) -> bool:
    return size.told is not None if isinstance(size, SymInt) else isinstance(size, Dim)


def _working_out(function: Function, sign: str) -> tuple[Callable[[SymInt, Any], Any], Callable[[SymInt, Any], Any]]:
    """A method for an operator where the open size is on its left, and one where it is on its right."""

    def left(self: SymInt, other: Any) -> Any:
        return self.by(function, sign, self, other) if isinstance(other, int) else function(self.fix(), other)

    def right(self: SymInt, other: Any) -> Any:
        return self.by(function, sign, other, self) if isinstance(other, int) else function(other, self.fix())

    return left, right


def _deciding(function: Function) -> Callable[[SymInt, Any], Any]:
    def compared(self: SymInt, other: Any) -> Any:
        return self.decides(function, other) if isinstance(other, int) else function(self.fix(), other)

    return compared


def _fixing(name: str) -> Callable[..., Any]:
    def asked(self: SymInt, *others: Any) -> Any:
        return getattr(self.fix(), name)(*[other.fix() if isinstance(other, SymInt) else other for other in others])

    return asked


for _function, _sign in ((add, "+"), (sub, ""), (mul, "×"), (floordiv, ""), (mod, "")):
    _left, _right = _working_out(_function, _sign)
    setattr(SymInt, f"__{_function.__name__}__", _left)
    setattr(SymInt, f"__r{_function.__name__}__", _right)
for _function in (eq, ne, lt, le, gt, ge):
    setattr(SymInt, f"__{_function.__name__}__", _deciding(_function))

#: What asks nothing of an int's value, or makes a new one.
_ASKING_NOTHING = {"__new__", "__getattribute__", "__getnewargs__", "__sizeof__", "from_bytes"}
for _name in {*vars(int)} - {*vars(SymInt), *_ASKING_NOTHING}:
    if callable(getattr(int, _name)):
        setattr(SymInt, _name, _fixing(_name))
