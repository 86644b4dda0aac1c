"""The number of attention heads, which PEFT reads from a config.json for virtual tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import refusal

if TYPE_CHECKING:
    from calculator.architecture.model import Model

#: Families whose config.json spells the number of heads in a way that PEFT does not read (MPT: n_heads).
#: Source: peft 0.21, peft/utils/other.py, _prepare_prompt_learning_config.
UNKNOWN_HEADS = ("mpt",)


def check(model: Model) -> None:
    """Refuse a family whose heads PEFT can't count.

    Raises:
        PlanError: naming the family.
    """
    if model.model_type in UNKNOWN_HEADS:
        message = f"PEFT can't read the number of heads from a {model.model_type} config: use another method"
        raise refusal("method.name", message, model.model_type)
