"""A small real task: the handwritten digits that scikit-learn ships, and networks trained on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    from collections.abc import Iterable

SIDE, CLASSES = 8, 10
#: How many of the 1,797 images are trained on.
TRAINED_ON = 1200

Initial = Literal["uniform", "Gaussian"]


@dataclass(frozen=True, slots=True)
class Task:
    """Images (n, 64) and their digits (n,), for training and for testing."""

    images: Tensor
    digits: Tensor
    test_images: Tensor
    test_digits: Tensor

    def only(self, digits: range) -> Task:
        """The part of some classes."""
        train, test = ((found >= digits.start) & (found < digits.stop) for found in (self.digits, self.test_digits))
        return Task(self.images[train], self.digits[train], self.test_images[test], self.test_digits[test])

    def turned(self) -> Task:
        """The same with each image turned by a right angle."""
        return Task(_turned(self.images), self.digits, _turned(self.test_images), self.test_digits)


def task(seed: int, device: torch.device) -> Task:
    """All ten digits, split by a seed."""
    images, digits = _loaded()
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
    images, digits = images[order].to(device), digits[order].to(device)
    return Task(images[:TRAINED_ON], digits[:TRAINED_ON], images[TRAINED_ON:], digits[TRAINED_ON:])


@cache
def _loaded() -> tuple[Tensor, Tensor]:
    images, digits = load_digits(return_X_y=True)
    return torch.tensor(images / images.max(), dtype=torch.float32), torch.tensor(digits)


def _turned(images: Tensor) -> Tensor:
    return torch.rot90(images.reshape(-1, SIDE, SIDE), 1, (1, 2)).reshape(images.shape)


def network(width: int, device: torch.device, initial: Initial = "uniform") -> nn.Sequential:
    """A perceptron of two hidden layers; weights begin as nn.Linear draws them, or from a Gaussian of that spread."""
    layers = (nn.Linear(SIDE * SIDE, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES))
    model = nn.Sequential(*layers)
    if initial == "Gaussian":
        for layer in linear_layers(model):
            nn.init.normal_(layer.weight, std=float(layer.weight.detach().std()))
    return model.to(device)


def linear_layers(model: nn.Sequential) -> list[nn.Linear]:
    """The layers that have weights."""
    return [layer for layer in model if isinstance(layer, nn.Linear)]


def train(model: nn.Module, parameters: Iterable[nn.Parameter], on: Task, *, steps: int, lr: float) -> None:
    """Train parameters by Adam, the whole training set in each step."""
    optimizer = torch.optim.Adam(parameters, lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(on.images), on.digits).backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, on: Task) -> float:
    """The share of the test images that are told right."""
    return _right(model, on.test_images, on.test_digits)


@torch.no_grad()
def gap(model: nn.Module, on: Task) -> float:
    """By how much more of the training images are told right than of the test images."""
    return _right(model, on.images, on.digits) - accuracy(model, on)


def _right(model: nn.Module, images: Tensor, told: Tensor) -> float:
    return float((model(images).argmax(1) == told).double().mean())
