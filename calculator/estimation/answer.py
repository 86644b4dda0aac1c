"""The answer of an estimate, which is one object for the pages, the JSON API and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, overload

from calculator.estimation.row_form import RowForm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.architecture.dimension import Shape
    from calculator.common.names import ComponentName, PhaseName, TaskName
    from calculator.devices import Fit
    from calculator.devices.colocated_engine import ColocatedEngine
    from calculator.engine.symbolic_sizes import Digits
    from calculator.estimation.device_replay import DeviceReplay
    from calculator.estimation.interval import MemoryInterval
    from calculator.estimation.traced.grade import EngineName, Grade, TraceSummary
    from calculator.methods import Method
    from calculator.sharding.communication import Collective


#: The number of terms that a component's formula spells out.
SHOWN_TERMS = 6


class Row:
    """One kind of storage alive at the peak: its form, and the total bytes of its storages.

    Each storage is rounded up to 512 bytes, so `bytes` can exceed the product of the form. `digits` has the sizes of
    the run if the form's dimensions are symbolic.
    """

    __slots__ = ("_substituted", "bytes", "digits", "form", "json")

    def __init__(self, form: RowForm, size: int, digits: Digits | None = None) -> None:
        self.form = form
        self.bytes = size
        self.digits = digits
        self._substituted: str | None = None
        #: The serialized JSON, cached by the serializer. Many answers share rows of resident tensors.
        self.json: str | None = None

    @classmethod
    def build(cls, *, name: str, count: int, bytes: int, shape: Shape | None, dtype: str, source: str) -> Row:  # noqa: A002
        """Return a row with a form of its own.

        `shape` is None for an overhead that is not a tensor.
        """
        return cls(RowForm(name, count, shape, dtype, source), bytes)

    @property
    def name(self) -> str:
        """The name of the storages."""
        return self.form.name

    @property
    def count(self) -> int:
        """The number of storages."""
        return self.form.count

    @property
    def shape(self) -> Shape | None:
        """The named dimensions of each storage. None for an overhead that is not a tensor."""
        return self.form.shape if self.digits is None else self.form.shape_in(self.digits)

    @property
    def dtype(self) -> str:
        """The data type. Empty for an overhead that is not a tensor."""
        return self.form.dtype

    @property
    def source(self) -> str:
        """The source of the formula."""
        return self.form.source

    @property
    def formula(self) -> str:
        """The arithmetic with names: `B × S × hidden_size × 2`. The last factor is the bytes of an element."""
        return f"{self.bytes:,}" if self.form.shape is None else self.form.formula

    @property
    def substituted(self) -> str:
        """The arithmetic with numbers. It is cached, because a component also shows that of its first rows."""
        if self._substituted is None:
            self._substituted = f"{self.bytes:,}" if self.form.shape is None else self.form.substituted(self.digits)
        return self._substituted

    def _compared(self) -> tuple[object, ...]:
        return self.name, self.count, self.bytes, self.shape, self.dtype, self.source

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Row) and self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash(self._compared())

    def __repr__(self) -> str:
        return f"Row{self._compared()}"


@dataclass(slots=True, kw_only=True)
class Component:
    """A subtotal of the peak: the sum of its rows, or the result of a rule that counts no storages.

    `listed` creates the rows when they are first read. `rule` is the rule's arithmetic, with names and with numbers. A
    component is never changed, except for its cached JSON.
    """

    name: ComponentName
    bytes: int
    source: str
    listed: Callable[[], tuple[Row, ...]] = tuple
    rule: tuple[str, str] | None = None
    #: The serialized JSON, cached by the serializer. Runs on other GPUs have the same components.
    json: str | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The storages, the largest first."""
        return self.listed()

    @property
    def formula(self) -> str:
        """The arithmetic with names."""
        return self.rule[0] if self.rule else _sum(self.rows, "formula")

    @property
    def substituted(self) -> str:
        """The arithmetic with numbers."""
        return self.rule[1] if self.rule else _sum(self.rows, "substituted")


def _sum(rows: tuple[Row, ...], attribute: str) -> str:
    more = len(rows) - SHOWN_TERMS
    terms = [getattr(row, attribute) for row in rows[:SHOWN_TERMS]]
    return " + ".join([*terms, f"… ({more} more rows)"] if more > 0 else terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A phase of the step, and its peak."""

    name: PhaseName
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A point of the step's timeline: the operation, and the bytes alive."""

    phase: PhaseName
    operation: str
    bytes: int


class TimelineForm:
    """A timeline without its bytes: the phase and the operation of each moment.

    Runs with other sizes share it.
    """

    __slots__ = ("json", "operations")

    def __init__(self, operations: tuple[tuple[PhaseName, str], ...]) -> None:
        self.operations = operations
        #: The serialized JSON with placeholders for the bytes, cached by the serializer.
        self.json: str | None = None


class Timeline(Sequence[Moment]):
    """The moments of a step in order: a form, and the bytes of each moment."""

    __slots__ = ("bytes", "form")

    def __init__(self, form: TimelineForm, sizes: tuple[int, ...]) -> None:
        self.form = form
        self.bytes = sizes

    @classmethod
    def from_moments(cls, moments: Sequence[Moment] = ()) -> Timeline:
        """Return a timeline with a form of its own."""
        operations = tuple([(moment.phase, moment.operation) for moment in moments])
        return cls(TimelineForm(operations), tuple([moment.bytes for moment in moments]))

    @overload
    def __getitem__(self, index: int) -> Moment: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Moment, ...]: ...
    def __getitem__(self, index: int | slice) -> Moment | tuple[Moment, ...]:
        return tuple(self)[index]

    def __iter__(self) -> Iterator[Moment]:
        for (phase, operation), size in zip(self.form.operations, self.bytes, strict=True):
            yield Moment(phase=phase, operation=operation, bytes=size)

    def __len__(self) -> int:
        return len(self.bytes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Timeline{tuple(self)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedHistory:
    """The peak bytes that one history reserves, and the first step that reserves them. Steps count from 1."""

    seed: int
    peak_reserved_bytes: int
    peak_step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The memory that micro-batches of different lengths reserve.

    Attributes:
        worst_seed: The seed whose history reserves the most.
        peak_step: The first step of that history that reserves the most. Steps count from 1.
        constant_reserved_bytes: The bytes that the run reserves if every micro-batch is the longest one.
        reserved_by_step: The most bytes that are reserved in each step of that history.
        micro_batches: The padded lengths of each step's micro-batches.
        seeds: The result of each seed.
    """

    worst_seed: int
    peak_step: int
    constant_reserved_bytes: int
    reserved_by_step: tuple[int, ...]
    micro_batches: tuple[tuple[int, ...], ...]
    seeds: tuple[SeedHistory, ...]

    @property
    def added_bytes(self) -> int:
        """The bytes that the order of lengths adds to the longest micro-batch.

        It is negative if cached blocks are freed.
        """
        return max(seed.peak_reserved_bytes for seed in self.seeds) - self.constant_reserved_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The memory at the peak of one step, and the memory that the run needs on a GPU.

    `listed`, `line` and `listed_overheads` create the phases, the timeline and the overheads when they are first read.
    With sample lengths, the step is that of the longest micro-batch, and reserved memory is that of the worst
    `history`.
    """

    components: tuple[Component, ...]
    listed: Callable[[], tuple[Phase, ...]]
    peak_phase: PhaseName
    peak_operation: str
    line: Callable[[], Timeline]
    peak_allocated_bytes: int
    library_workspace_bytes: int
    peak_reserved_bytes: int
    required_bytes: int
    listed_overheads: Callable[[], tuple[Row, ...]]
    history: History | None = None
    #: The bytes of host memory of one rank under offload. None without offload.
    host_bytes: int | None = None
    #: The bytes of host memory of all ranks of a node.
    node_host_bytes: int | None = None
    #: The run, for replays on other GPUs. None if reserved memory follows the rule.
    replay: DeviceReplay | None = field(default=None, compare=False, repr=False)
    #: The engine that generates on the same GPU, if there is one.
    colocated: ColocatedEngine | None = None
    #: Computes the bytes that a GPU needs with any number of GPUs, from its overheads. None if all memory may be
    #: sharded.
    unsharded: Callable[[int], int] | None = field(default=None, compare=False, repr=False)
    #: The interval of the figures, which are its high end. None if the figures are not an interval.
    interval: MemoryInterval | None = field(default=None, compare=False, repr=False)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of the step in order."""
        return self.listed()

    @property
    def overheads(self) -> tuple[Row, ...]:
        """What the run needs in addition to the live tensors: workspaces, fragmentation and the CUDA context."""
        return self.listed_overheads()

    @property
    def timeline(self) -> Timeline:
        """The peak of each part of the step in order."""
        return self.line()


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCounts:
    """The numbers of parameters: of the base model, added by the method, trained, and in total."""

    base: int
    added: int
    trainable: int
    total: int

    @classmethod
    def from_parts(cls, base: int, added: int, trainable: int) -> ParameterCounts:
        """Return the counts with their total."""
        return cls(base=base, added=added, trainable=trainable, total=base + added)

    @property
    def trainable_fraction(self) -> float:
        """The fraction of all parameters that is trained, from 0 to 1."""
        return self.trainable / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """The model of an answer."""

    id: str | None
    model_type: str | None
    parameters: int
    task: TaskName = "causal_lm"


class Remarks(NamedTuple):
    """The assumptions and the warnings of an answer."""

    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]


class StoredBytes(NamedTuple):
    """The bytes of the file with the trained parameters, of the base model, and of what the method adds to it."""

    saved: int
    base: int = 0
    added: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The answer to a request. It repeats the request's method, `accounting` and `reserved`.

    `remarks` writes the assumptions and the warnings when they are first read, and `stored` adds up bytes.
    """

    model: ModelSummary
    method: Method
    accounting: Literal["exact", "textbook"]
    reserved: Literal["rule", "replay"]
    parameters: ParameterCounts
    memory: Memory
    fit: Fit | None
    stored: Callable[[], StoredBytes]
    remarks: Callable[[], Remarks]
    #: The bytes that one GPU sends to the others in a step, by collective. None for a run on one GPU.
    communication: tuple[Collective, ...] | None = None
    #: The engine that computed the figures.
    engine: EngineName = "calculator"
    #: The grade of confidence in the figures. None for rules of thumb.
    grade: Grade | None = "modelled"
    #: The trace that the figures are from. None for figures of the calculator.
    trace: TraceSummary | None = None

    @property
    def saved_bytes(self) -> int:
        """The bytes of the file with the trained parameters, without its header: an adapter, or a whole model."""
        return self.stored().saved

    @property
    def base_bytes(self) -> int:
        """The bytes of the base model on all GPUs together."""
        return self.stored().base

    @property
    def added_bytes(self) -> int:
        """The bytes of what the method adds to the base model, on all GPUs together."""
        return self.stored().added

    @property
    def assumptions(self) -> tuple[str, ...]:
        """The assumptions of the figures."""
        return self.remarks().assumptions

    @property
    def warnings(self) -> tuple[str, ...]:
        """The risks that a user should know."""
        return self.remarks().warnings

    @property
    def sent_bytes(self) -> int:
        """The bytes that one GPU sends to the others in a step, over all collectives."""
        return sum(collective.sent_bytes for collective in self.communication or ())
