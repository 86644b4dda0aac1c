"""A tensor of a phase outside the training steps that an out-of-memory error may refer to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.estimation.answer import Row
    from calculator.run.answer import RunPhaseName


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseMatch:
    """A tensor of a phase outside the steps, of the size that was requested.

    Attributes:
        phase: The phase.
        tensor: The name. `*` stands for the number of the layer.
        batch: The number of the evaluation's batch among those that are gathered together. None in other phases.
        count: How often it is requested there.
        formula, substituted: Its shape times its element size, with names and with numbers. Empty if it has none.
        segment_bytes: The size of the segment that the device allocates for it.
        allocated_bytes: The bytes in use before the request of it that is closest to the error's figure.
        difference_bytes: `allocated_bytes` less the error's figure.
        same_allocated: Whether the two are equal in the error's notation.
        alive: What the phase has allocated before it, the largest first.
    """

    phase: RunPhaseName
    tensor: str
    batch: int | None
    count: int
    formula: str
    substituted: str
    segment_bytes: int
    allocated_bytes: int
    difference_bytes: int
    same_allocated: bool
    alive: tuple[Row, ...]
