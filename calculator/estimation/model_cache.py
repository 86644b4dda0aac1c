"""The cache of keys and values that a model returns in a training step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.families import forward_of
from calculator.trainers import trainer_of

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.inputs.stack import StackVersions
    from calculator.inputs.training import Training
    from calculator.methods.base import Method


def returns_cache(model: Model, training: Training, method: Method, stack: StackVersions) -> bool:
    """Return whether the model returns a cache.

    It does if its config sets use_cache, and neither the trainer nor checkpointing nor the method unsets it.
    """
    if method.needs_no_cache:
        return False
    caches = bool(model.config.get("use_cache")) and forward_of(model).is_causal
    return caches and trainer_of(training).uses_cache(model, stack) and not training.gradient_checkpointing
