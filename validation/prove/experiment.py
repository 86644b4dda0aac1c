"""An experiment: claims that are tested together, on one device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from validation.prove.claim import Claim
    from validation.prove.drawing import Curve, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The device of an experiment, whether it is the quick version, and a callback after each step."""

    device: torch.device
    quick: bool
    step: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The results of an experiment."""

    claims: tuple[Claim, ...]
    curves: tuple[Curve, ...] = ()
    tables: tuple[Table, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the results file."""
        return {
            "claims": [claim.to_json() for claim in self.claims],
            "curves": [curve.to_json() for curve in self.curves],
            "tables": [table.to_json() for table in self.tables],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A name, the lesson's section, the number of steps (given whether it is quick), and a function that runs it."""

    name: str
    title: str
    section: str
    steps: Callable[[bool], int]
    run: Callable[[Setting], Findings]
