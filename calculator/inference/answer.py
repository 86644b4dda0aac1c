"""The answer to an inference request, which the page, the JSON API and the command line all show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.common.names import PassName
    from calculator.devices import Fit
    from calculator.estimation.answer import Component, ModelSummary, Row
    from calculator.estimation.request import ReservedBy
    from calculator.inference.settings import Serving
    from calculator.methods import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class PassPeak:
    """The peak of one pass of `generate`."""

    name: PassName
    peak_bytes: int
    operation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingMemory:
    """The memory at the peak of all passes, and the memory that serving needs on a GPU."""

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
    """The parameters on the GPU: those of the base, those that one task adds, and the total."""

    base: int
    added_per_task: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """A cost of serving: that of the base model, and how much the fine-tuned model adds."""

    name: str
    unit: str
    base: int
    added: int
    #: The formula of `added`, with names and with numbers.
    formula: str
    substituted: str
    source: str

    @property
    def share(self) -> float:
        """The ratio of `added` to `base`."""
        return self.added / self.base if self.base else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """Merging added parameters into the weights, as PEFT does before the model is served."""

    peak_bytes: int
    #: The module at which the peak is reached.
    module: str
    #: The tensors alive at the peak in addition to the model and its adapter.
    rows: tuple[Row, ...]
    #: The precision that the merged weights lose, in words.
    loss: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """The answer."""

    model: ModelSummary
    method: Method
    serving: Serving
    parameters: Resident
    memory: ServingMemory
    costs: tuple[Cost, ...]
    merge: Merge | None
    fit: Fit | None
    #: The way in which reserved memory was computed, and the reason for the rule if a replay was requested.
    reserved: ReservedBy
    reserved_reason: str | None
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
