"""The answer to a request: one object that pages, JSON and command line all show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from calculator.architecture.dimension import Shape, substituted, symbolic
from calculator.common.dtype import ITEMSIZE, DType

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.common.names import ComponentName, PhaseName
    from calculator.devices import Fit
    from calculator.methods import Method


#: Terms of a component's formula that are written out; the rest is told in number.
SHOWN_TERMS = 6


@dataclass(slots=True, kw_only=True)
class Row:
    """One kind of storage alive at the peak: its name, how many there are, and their bytes together.

    `shape` is in named dimensions, and None for an overhead that is no tensor. Each storage is rounded up to 512 bytes,
    so `bytes` can exceed the product. Not frozen: an answer has a hundred, and frozen ones take twice as long to make.
    """

    name: str
    count: int
    bytes: int
    shape: Shape | None
    dtype: str
    source: str

    @property
    def formula(self) -> str:
        """The arithmetic in names: `B × S × hidden_size × 2`, the last factor being an element's bytes."""
        return f"{self.bytes:,}" if self.shape is None else self._times(symbolic(self.shape))

    @property
    def substituted(self) -> str:
        """The same with numbers."""
        return f"{self.bytes:,}" if self.shape is None else self._times(substituted(self.shape))

    def _times(self, product: str) -> str:
        size = ITEMSIZE[cast("DType", self.dtype)]
        return f"{self.count:,} × {product} × {size}" if self.count != 1 else f"{product} × {size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A subtotal of the peak: the rows that it folds, or the rule that it follows where it counts no storages.

    `listed` gives the rows, which are made when they are read. `rule` is such a rule's arithmetic, in names and with
    numbers.
    """

    name: ComponentName
    bytes: int
    source: str
    listed: Callable[[], tuple[Row, ...]] = tuple
    rule: tuple[str, str] | None = None

    @property
    def rows(self) -> tuple[Row, ...]:
        """The storages, the largest first."""
        return self.listed()

    @property
    def formula(self) -> str:
        """The arithmetic in names."""
        return self.rule[0] if self.rule else _sum([row.formula for row in self.rows])

    @property
    def substituted(self) -> str:
        """The same with numbers."""
        return self.rule[1] if self.rule else _sum([row.substituted for row in self.rows])


def _sum(terms: list[str]) -> str:
    more = len(terms) - SHOWN_TERMS
    tail = [f"… ({more} more rows)"] if more > 0 else []
    return " + ".join((*terms[:SHOWN_TERMS], *tail))


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A part of the step and the most that was alive in it."""

    name: PhaseName
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A point on the step's timeline: what ran, and the bytes alive while it ran."""

    phase: PhaseName
    operation: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is alive at the peak of one step, and what that takes of a card. `line` gives the timeline, once read."""

    components: tuple[Component, ...]
    phases: tuple[Phase, ...]
    peak_phase: PhaseName
    peak_operation: str
    line: Callable[[], tuple[Moment, ...]]
    peak_allocated_bytes: int
    library_workspace_bytes: int
    peak_reserved_bytes: int
    required_bytes: int
    overheads: tuple[Row, ...]

    @property
    def timeline(self) -> tuple[Moment, ...]:
        """The most that is alive in each stretch of the step, in order."""
        return self.line()


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCounts:
    """Parameters of the base model, added by the method, trained, and all together."""

    base: int
    added: int
    trainable: int
    total: int

    @property
    def trainable_fraction(self) -> float:
        """The share of all parameters that is trained, 0 to 1."""
        return self.trainable / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """What the answer says of its model."""

    id: str | None
    model_type: str | None
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The whole answer, with the method and the accounting that it is of, and how `reserved` memory was found.

    `saved_bytes` is the file of what is trained, less its header: an adapter, or for full fine-tuning a model.
    """

    model: ModelSummary
    method: Method
    accounting: Literal["exact", "textbook"]
    reserved: Literal["rule", "replay"]
    parameters: ParameterCounts
    memory: Memory
    fit: Fit | None
    saved_bytes: int
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
