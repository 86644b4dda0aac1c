"""The settings of PEFT's EvaConfig (peft 0.21, tuners/lora/config.py) that change memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Their names.
SETTINGS = ("rho",)


def rho_of(config: Mapping[str, float] | None) -> float:
    """The most that a rank grows by: `rho` of EvaConfig."""
    return (config or {}).get("rho", 2.0)


def components(r: int, rho: float) -> int:
    """The singular vectors that EVA looks for to choose a rank from."""
    return round(r * rho)
