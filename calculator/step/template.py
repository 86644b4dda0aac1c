"""A run of a micro-batch that tells of others: plans that differ in sizes alone go the same way."""

from __future__ import annotations

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
    from calculator.step.tape import Born
    from calculator.training import Training

#: The most ways that are remembered of plans that differ in sizes alone.
MOST_WAYS = 8


class Template:
    """A run with open sizes.

    `names`, `shape_of`, `dtypes`, `components` and `places` are of its rows: which of the shapes each has and where its
    bytes are. `shapes` are right where nothing in them is open; `open_shapes` tells of the others which of the
    dimensions they have, and `opened` which of those are open.
    """

    __slots__ = (
        "components",
        "dims",
        "dtypes",
        "formulas",
        "names",
        "open_shapes",
        "opened",
        "places",
        "run",
        "shape_of",
        "shapes",
    )

    def __init__(self, formulas: Formulas, run: Run) -> None:
        self.formulas = formulas
        self.run = run._replace(tape=_with_rows(run.tape, []), kept=None)
        self.names, shapes, self.dtypes, self.components, sizes = zip(*run.tape.rows, strict=True)
        self.places = [formulas.place(size) for size in sizes]
        known = {id(dim): dim for shape in shapes for dim in shape}
        numbers = {name: number for number, name in enumerate(known)}
        self.dims = [*known.values()]
        self.opened = [(number, dim) for number, dim in enumerate(self.dims) if isinstance(dim, Open)]
        spelled = [tuple([numbers[id(dim)] for dim in shape]) for shape in shapes]
        distinct = {told: number for number, told in enumerate(dict.fromkeys(spelled))}
        self.shape_of = [distinct[told] for told in spelled]
        self.shapes = [tuple([self.dims[number] for number in told]) for told in distinct]
        opened = {number for number, _ in self.opened}
        self.open_shapes = [(number, told) for told, number in distinct.items() if not opened.isdisjoint(told)]
        formulas.cut([*self.places, *[size.place for _, size in self.opened]])

    def filled(self, sizes: Sequence[int]) -> Run | None:
        """The run with other sizes, or nothing where it goes another way."""
        values = self.formulas.worked_out(sizes)
        if values is None:
            return None
        dims, shapes = [*self.dims], [*self.shapes]
        for number, size in self.opened:
            dims[number] = size.at(values)
        for number, told in self.open_shapes:
            shapes[number] = tuple([dims[dim] for dim in told])
        shape_of, bytes_of = map(shapes.__getitem__, self.shape_of), map(values.__getitem__, self.places)
        rows = [*zip(self.names, shape_of, self.dtypes, self.components, bytes_of, strict=True)]
        return self.run._replace(tape=_with_rows(self.run.tape, rows))


def _with_rows(like: Tape, rows: list[Born]) -> Tape:
    """A tape on which the same happened as on another, to other rows."""
    tape = Tape()
    tape.rows, tape.events, tape.marks, tape.passed = rows, [*like.events], like.marks, like.passed
    return tape


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
