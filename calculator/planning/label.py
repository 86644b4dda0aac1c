"""The label of a method with the settings that a plan chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.methods import Method


def label(method: Method) -> str:
    """Return a method's name and size, such as "LoRA, r 16 on every linear layer"."""
    return ", ".join((method.label, *method.label_parts))
