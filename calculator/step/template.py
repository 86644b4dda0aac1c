"""A run of a micro-batch that tells of others: plans that differ in sizes alone go the same way."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from calculator.dimension import elements
from calculator.dtype import ITEMSIZE, allocated
from calculator.sizes import others, resized, sizes
from calculator.step.context import Context
from calculator.step.formulas import Formulas, Open
from calculator.step.interpretation import Run, ran
from calculator.step.tape import Sizes, Tape
from calculator.treatment import Treated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.dimension import Shape
    from calculator.dtype import DType
    from calculator.model import Model
    from calculator.step.kernels import Kernels
    from calculator.training import Training

#: The most ways that are remembered of plans that differ in sizes alone.
MOST_WAYS = 8


class Template:
    """A run with open sizes."""

    __slots__ = ("dims", "formulas", "kinds", "opened", "rows", "run")

    def __init__(self, formulas: Formulas, run: Run) -> None:
        self.formulas = formulas
        self.dims: list[int] = []
        self.opened: list[tuple[int, Open]] = []
        self.kinds: list[tuple[tuple[int, ...], int]] = []
        tape = Tape()
        tape.events, tape.marks, tape.passed = [*run.tape.events], run.tape.marks, run.tape.passed
        self.run = run._replace(tape=tape, kept=None)
        numbers: dict[int, int] = {}
        kinds: dict[object, int] = {}
        self.rows = []
        for name, shape, dtype, component, size in run.tape.rows:
            kind = (tuple([self._number(dim, numbers) for dim in shape]), formulas.place(size))
            if kind not in kinds:
                kinds[kind] = len(self.kinds)
                self.kinds.append(kind)
            self.rows.append((name, kinds[kind], dtype, component))
        formulas.cut([*[place for _, place in self.kinds], *[size.place for _, size in self.opened]])

    def _number(self, dim: int, numbers: dict[int, int]) -> int:
        """Which of the dimensions one is."""
        if id(dim) not in numbers:
            numbers[id(dim)] = len(self.dims)
            if isinstance(dim, Open):
                self.opened.append((len(self.dims), dim))
            self.dims.append(dim)
        return numbers[id(dim)]

    def filled(self, sizes: Sequence[int]) -> Run | None:
        """The run with other sizes, or nothing where it goes another way."""
        values = self.formulas.worked_out(sizes)
        if values is None:
            return None
        dims = [*self.dims]
        for place, size in self.opened:
            dims[place] = size.at(values)
        shapes = [tuple([dims[number] for number in shape]) for shape, _ in self.kinds]
        bytes_of = [values[place] for _, place in self.kinds]
        told, tape = self.run.tape, Tape()
        tape.events, tape.marks, tape.passed = told.events, told.marks, told.passed
        tape.rows = [
            (name, shapes[kind], dtype, component, bytes_of[kind]) for name, kind, dtype, component in self.rows
        ]
        first = copy(self.run.first)
        if first is not None:
            first.size = tape.rows[first.row][4]
        return self.run._replace(tape=tape, first=first)


class Series:
    """The ways of plans that differ in sizes alone, of the last such plans, by whether the first layer is run too."""

    __slots__ = ("alike", "model", "ways")

    def __init__(self) -> None:
        self.model: Model | None = None
        self.alike: tuple[object, ...] = ()
        self.ways: dict[bool, list[Template]] = {}

    def told(self, treated: Treated, training: Training, kernels: Kernels, *, whole: bool) -> Run | None:
        """A plan's run, told of another's; nothing where none of the kind was asked for before, or too many were.

        The second plan of a kind is run with open sizes.
        """
        given = [*sizes(training), *sizes(treated.method)]
        alike = (others(treated.method), others(training), kernels)
        if treated.model is not self.model or alike != self.alike:
            self.model, self.alike, self.ways = treated.model, alike, {}
        if whole not in self.ways:
            self.ways[whole] = []
            return None
        ways = self.ways[whole]
        told = next(filter(None, (way.filled(given) for way in ways)), None)
        if told is None and len(ways) < MOST_WAYS:
            ways.append(_template(treated, training, kernels, whole=whole))
            told = ways[-1].filled(given)
        return told


def _template(treated: Treated, training: Training, kernels: Kernels, *, whole: bool) -> Template:
    """The plan's run with its sizes left open."""
    formulas = Formulas()
    training = resized(training, formulas.opened)
    method = resized(treated.method, formulas.opened)
    context = Context(Treated(treated.model, method, training), training=training, kernels=kernels)
    context.tape.sizes = _OpenSizes(formulas)
    return Template(formulas, ran(context, whole=whole))


class _OpenSizes(Sizes):
    """The same of shapes that may be open, which are looked up by the places of their dimensions."""

    __slots__ = ("formulas",)

    def __init__(self, formulas: Formulas) -> None:
        super().__init__()
        self.formulas = formulas

    def __getitem__(self, key: tuple[Shape, DType]) -> int:
        shape, dtype = key
        known = tuple([self.formulas.place(dim) for dim in shape]), dtype
        if known not in self:
            self[known] = self._bytes(elements(shape), ITEMSIZE[dtype])
        return self.get(known, 0)

    def _bytes(self, count: int, itemsize: int) -> int:
        if isinstance(count, Open):
            return count.by(allocated, "", count, itemsize)
        return allocated(count, itemsize)
