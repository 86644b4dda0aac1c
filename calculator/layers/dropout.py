"""Dropout as a module, whose calls are marked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.module_calls import enter, leave

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor


def dropout(x: Tensor, probability: float, name: str) -> Tensor:
    """Call `torch.nn.Dropout`. `name` is the name of its output."""
    path = f"{x.tape.scope}{name}"
    return leave(path, ops.dropout(enter(path, x), probability, name))
