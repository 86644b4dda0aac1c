"""The settings of PEFT's EvaConfig (peft 0.21, tuners/lora/config.py) that change memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The names of these settings.
SETTINGS = ("rho",)


def rho_of(config: Mapping[str, float] | None) -> float:
    """Return `rho` of EvaConfig, the factor by which a rank may grow."""
    return (config or {}).get("rho", 2.0)


def components(r: int, rho: float) -> int:
    """Return the number of singular vectors from which EVA chooses a rank."""
    return round(r * rho)
