"""The answer to an inference's request: one object that page, JSON and command line all show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.common.names import PassName
    from calculator.devices import Fit
    from calculator.estimate.answer import Component, ModelSummary, Row
    from calculator.inference.settings import Serving
    from calculator.methods import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class PassPeak:
    """A pass of `generate` and the most that was alive in it."""

    name: PassName
    peak_bytes: int
    operation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingMemory:
    """What is alive at the peak of all passes, and what that takes of a card."""

    components: tuple[Component, ...]
    passes: tuple[PassPeak, ...]
    peak_pass: PassName
    peak_operation: str
    peak_allocated_bytes: int
    library_workspace_bytes: int
    peak_reserved_bytes: int
    required_bytes: int
    overheads: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """Parameters on the card: the base's, those that one task adds, and all of them together."""

    base: int
    added_per_task: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Something that serving takes: of the base model alone, and how much the tuned one takes more.

    `formula` and `substituted` are of what is added.
    """

    name: str
    unit: str
    base: int
    added: int
    formula: str
    substituted: str
    source: str

    @property
    def share(self) -> float:
        """What is added, over the base."""
        return self.added / self.base if self.base else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """Merging low-rank updates into the weights as PEFT does it, before anything is served.

    `rows` are what the peak has beside the model and its adapter, at `module`. `loss` is what rounding takes, if any.
    """

    peak_bytes: int
    module: str
    rows: tuple[Row, ...]
    loss: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """The whole answer."""

    model: ModelSummary
    method: Method
    serving: Serving
    parameters: Resident
    memory: ServingMemory
    costs: tuple[Cost, ...]
    merge: Merge | None
    fit: Fit | None
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
