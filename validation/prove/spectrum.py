"""The singular values of a weight's update, and how much of its energy the first of them hold."""

from __future__ import annotations

import torch
from torch import Tensor


def singular_values(update: Tensor) -> Tensor:
    """From the largest down, as shares of the largest: (min(d, k),)."""
    values = torch.linalg.svdvals(update.double())
    return values / values[0]


def energy(update: Tensor) -> Tensor:
    """The share of the squared Frobenius norm that the first r singular values hold, for each r: (min(d, k),)."""
    squares = singular_values(update).square()
    return squares.cumsum(0) / squares.sum()
