"""The keys of BAdam and LISA in the files of tools that have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.interop.exports.part import differs
from app.interop.imports.active_layers import UNCHECKPOINTED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.interop.exports.exported import NotExpressed
    from app.interop.exports.planned import Planned
    from calculator.methods import Full


def badam_keys(method: Full) -> dict[str, Any]:
    """Return LLaMA-Factory's keys of BAdam."""
    start = {} if method.badam_start_block is None else {"badam_start_block": method.badam_start_block}
    return {
        "use_badam": True,
        "badam_mode": method.badam_mode,
        "badam_switch_mode": method.badam_switch_mode,
        "badam_switch_interval": method.badam_switch_interval,
        **start,
    }


def badam_differences(planned: Planned, method: Full) -> Iterator[NotExpressed]:
    """Yield settings of BAdam for which LLaMA-Factory has no key."""
    for name in ("include_embedding", "include_lm_head"):
        if getattr(method, name):
            yield differs(f"method.{name}", True, "LLaMA-Factory has no key for it: only layers are blocks")
    if planned.request.training.gradient_checkpointing:
        yield differs("training.gradient_checkpointing", True, UNCHECKPOINTED)


def lisa_keys(planned: Planned, method: Full) -> dict[str, Any]:
    """Return axolotl's keys of LISA."""
    return {
        "lisa_n_layers": method.lisa_n_layers,
        "lisa_step_interval": method.lisa_step_interval,
        "lisa_layers_attribute": planned.model.decoder.name,
    }


def missing_setting(method: Full, tool: str) -> NotExpressed:
    """Return the setting of full fine-tuning that a tool lacks."""
    name = "use_badam" if method.use_badam else "lisa_n_layers"
    return differs(f"method.{name}", getattr(method, name), f"{tool} has no {method.title}: every weight is trained")
