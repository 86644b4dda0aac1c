"""The singular values of a weight's update, and the share of its energy in the first of them."""

from __future__ import annotations

import torch
from torch import Tensor


def singular_values(update: Tensor) -> Tensor:
    """Singular values in descending order, divided by the largest: (min(d, k),)."""
    values = torch.linalg.svdvals(update.double())
    return values / values[0]


def energy(update: Tensor) -> Tensor:
    """Return the share of the squared Frobenius norm in the first r singular values, for each r: (min(d, k),)."""
    squares = singular_values(update).square()
    return squares.cumsum(0) / squares.sum()
