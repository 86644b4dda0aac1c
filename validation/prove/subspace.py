"""Training in a random subspace of a network's parameters (Li et al. 2018, equation 2)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The share of full fine-tuning's accuracy that defines the intrinsic dimension (Li et al. 2018, section 2).
ENOUGH = 0.9


class Subspace(nn.Module):
    """A network of parameters θ₀ + P·z: θ₀ frozen, P (D, d) random with columns of length one, z (d,) trained."""

    def __init__(self, network: nn.Module, d: int) -> None:
        super().__init__()
        self.network = [network]  # in a list, so that its parameters are not this module's
        self.start = {name: parameter.detach() for name, parameter in network.named_parameters()}
        self.sizes = [parameter.numel() for parameter in self.start.values()]
        device = next(iter(self.start.values())).device
        directions = torch.randn(sum(self.sizes), d)
        self.directions = (directions / directions.norm(dim=0)).to(device)
        self.z = nn.Parameter(torch.zeros(d, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output with the parameters θ₀ + P·z."""
        steps = (self.directions @ self.z).split(self.sizes)
        moved = {
            name: start + step.view_as(start) for (name, start), step in zip(self.start.items(), steps, strict=True)
        }
        out: Tensor = torch.func.functional_call(self.network[0], moved, (x,))
        return out


def intrinsic_dimension(accuracies: Mapping[int, float], full: float) -> float:
    """d90: the smallest dimension tried that reaches 90 % of full fine-tuning's accuracy; infinite if none does."""
    return min((d for d, accuracy in accuracies.items() if accuracy >= ENOUGH * full), default=inf)
