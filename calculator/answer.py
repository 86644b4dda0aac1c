"""The answer to a request: one object that pages, JSON and command line all show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from calculator.devices import Fit

ComponentName = Literal[
    "base_weights",
    "quantization_constants",
    "adapter_weights",
    "gradients",
    "optimizer_states",
    "activations",
    "logits_and_loss",
    "workspace",
]

PhaseName = Literal["forward", "backward", "optimizer_step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kind of storage alive at the peak: its name, how many there are, their bytes together and the arithmetic.

    `formula` is the shape in named dimensions times the bytes of an element (`B × S × hidden_size × 2`); `substituted`
    is the same with numbers. Each storage is rounded up to 512 bytes, so `bytes` can exceed the product.
    """

    name: str
    count: int
    bytes: int
    formula: str
    substituted: str
    dtype: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A subtotal of the peak, with the rows that it folds."""

    name: ComponentName
    bytes: int
    formula: str
    substituted: str
    source: str
    rows: tuple[Row, ...]


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
    """What is alive at the peak of one step, and what that takes of a card."""

    components: tuple[Component, ...]
    phases: tuple[Phase, ...]
    peak_phase: PhaseName
    peak_operation: str
    timeline: tuple[Moment, ...]
    peak_allocated_bytes: int
    library_workspace_bytes: int
    peak_reserved_bytes: int
    required_bytes: int
    overheads: tuple[Row, ...]


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
    """The whole answer."""

    model: ModelSummary
    parameters: ParameterCounts
    memory: Memory
    fit: Fit | None
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
