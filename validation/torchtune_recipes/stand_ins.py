"""Stand-ins for the files and the GPU of a recipe, on the meta device: weights, a tokenizer and rows of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from validation.reference.optimizers import optimizer_for

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

    from calculator.common.names import OptimizerName


class Tokenizer:
    """A tokenizer for recipes, which read only its padding."""

    pad_id = 0


class Rows:
    """Rows of `tokens` tokens, all of them labels."""

    def __init__(self, _tokenizer: Tokenizer, rows: int, length: int) -> None:
        self._rows, self._length = rows, length

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, _index: int) -> dict[str, list[int]]:
        return {"tokens": [1] * self._length, "labels": [1] * self._length}


class Logger:
    """A logger of metrics that writes none."""

    def log_config(self, _config: Any) -> None:
        """Write nothing."""

    def log_dict(self, _payload: dict[str, Any], step: int) -> None:
        """Write nothing."""


def optimizer(parameters: Iterable[torch.nn.Parameter], name: OptimizerName) -> torch.optim.Optimizer:
    """Return the optimizer of a request, over all parameters, as a recipe creates it."""
    return optimizer_for(name, [*parameters])
