"""A method with the settings that a plan chooses, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.methods import Method


def label(method: Method) -> str:
    """A method's name and size: LoRA, r 16 on every linear layer."""
    return ", ".join((method.facts.label, *method.label_parts))
