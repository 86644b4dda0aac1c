"""Freeze all parameters of a model but those of some names, as axolotl's freeze_layers_except does."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import nn


def freeze_all_but(model: nn.Module, patterns: Sequence[str]) -> None:
    """Train the parameters whose names a pattern matches; the gradients of rows outside its range are zeroed."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        for pattern in patterns:
            rows = re.fullmatch(r"(.+)\[(\d*)(?::(\d*))?\]", pattern)
            if not re.match((rows[1] if rows else pattern).replace(".", r"\."), name):
                continue
            parameter.requires_grad_(True)
            if rows:
                start = int(rows[2] or 0)
                end = start + 1 if rows[3] is None else int(rows[3] or len(parameter))
                parameter.register_hook(_zeroing(start, end))


def _zeroing(start: int, end: int) -> Callable[[torch.Tensor], None]:
    def zero(gradient: torch.Tensor) -> None:
        gradient[:start].zero_()
        gradient[end:].zero_()

    return zero
