"""An experiment: claims that are proven together, on one device."""

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
    """Where an experiment runs, whether in its quick form, and what it calls when a step is done."""

    device: torch.device
    quick: bool
    step: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What an experiment found."""

    claims: tuple[Claim, ...]
    curves: tuple[Curve, ...] = ()
    tables: tuple[Table, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As the results file has it."""
        return {
            "claims": [claim.to_json() for claim in self.claims],
            "curves": [curve.to_json() for curve in self.curves],
            "tables": [table.to_json() for table in self.tables],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A name, what of the lesson it is about, how many steps it takes (whole or quick), and how it is run."""

    name: str
    title: str
    section: str
    steps: Callable[[bool], int]
    run: Callable[[Setting], Findings]
