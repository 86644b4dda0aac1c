"""The optimizers of a request, as the HF Trainer makes them, with their states in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


def optimizer_for(name: str, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that `optim=name` stands for, over one group of parameters."""
    if name == "adamw_torch":
        return torch.optim.AdamW(parameters, foreach=True)
    raise NotImplementedError(name)


def states(optimizer: torch.optim.Optimizer) -> Iterator[tuple[torch.nn.Parameter, str, torch.Tensor]]:
    """Every tensor that an optimizer keeps, with its parameter and name."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                yield parameter, name, value


def settled(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter]) -> None:
    """Take one step with any gradients, so that the states exist as they do from the second step on."""
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
