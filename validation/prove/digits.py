"""A small real task: scikit-learn's handwritten digits, and networks trained on them."""

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
#: The number of training images, of 1,797.
TRAINING_IMAGES = 1200

Initial = Literal["uniform", "Gaussian"]


@dataclass(frozen=True, slots=True)
class Task:
    """Images (n, 64) and their digits (n,), for training and for testing."""

    images: Tensor
    digits: Tensor
    test_images: Tensor
    test_digits: Tensor

    def only(self, digits: range) -> Task:
        """Return the images of some digits."""
        train, test = ((labels >= digits.start) & (labels < digits.stop) for labels in (self.digits, self.test_digits))
        return Task(self.images[train], self.digits[train], self.test_images[test], self.test_digits[test])

    def rotated(self) -> Task:
        """Return the task with each image rotated by 90 degrees."""
        return Task(_rotated(self.images), self.digits, _rotated(self.test_images), self.test_digits)


def task(seed: int, device: torch.device) -> Task:
    """Return all ten digits, split at random by a seed."""
    images, digits = _loaded()
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
    images, digits = images[order].to(device), digits[order].to(device)
    return Task(images[:TRAINING_IMAGES], digits[:TRAINING_IMAGES], images[TRAINING_IMAGES:], digits[TRAINING_IMAGES:])


@cache
def _loaded() -> tuple[Tensor, Tensor]:
    images, digits = load_digits(return_X_y=True)
    return torch.tensor(images / images.max(), dtype=torch.float32), torch.tensor(digits)


def _rotated(images: Tensor) -> Tensor:
    return torch.rot90(images.reshape(-1, SIDE, SIDE), 1, (1, 2)).reshape(images.shape)


def network(width: int, device: torch.device, initial: Initial = "uniform") -> nn.Sequential:
    """Return a perceptron with two hidden layers.

    Weights have nn.Linear's initial values, or Gaussian ones of equal std.
    """
    layers = (nn.Linear(SIDE * SIDE, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES))
    model = nn.Sequential(*layers)
    if initial == "Gaussian":
        for layer in linear_layers(model):
            nn.init.normal_(layer.weight, std=float(layer.weight.detach().std()))
    return model.to(device)


def linear_layers(model: nn.Sequential) -> list[nn.Linear]:
    """Return the linear layers."""
    return [layer for layer in model if isinstance(layer, nn.Linear)]


def train(model: nn.Module, parameters: Iterable[nn.Parameter], on: Task, *, steps: int, lr: float) -> None:
    """Train parameters with Adam on the whole training set in each step."""
    optimizer = torch.optim.Adam(parameters, lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(on.images), on.digits).backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, on: Task) -> float:
    """Return the share of test images that are classified correctly."""
    return _share_correct(model, on.test_images, on.test_digits)


@torch.no_grad()
def gap(model: nn.Module, on: Task) -> float:
    """Return the accuracy on training images minus the accuracy on test images."""
    return _share_correct(model, on.images, on.digits) - accuracy(model, on)


def _share_correct(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return float((model(images).argmax(1) == labels).double().mean())
