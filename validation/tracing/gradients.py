"""Gradients, labeled in the ledger as soon as autograd has accumulated them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch

    from validation.tracing.memory_tracker import MemoryTracker


@contextmanager
def gradients_labeled(tracker: MemoryTracker, trainable: Mapping[str, torch.nn.Parameter]) -> Iterator[None]:
    """Label each parameter's gradient inside the context."""
    hooks = [p.register_post_accumulate_grad_hook(_labeller(tracker, name)) for name, p in trainable.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _labeller(tracker: MemoryTracker, name: str) -> Callable[[torch.Tensor], None]:
    def label(parameter: torch.Tensor) -> None:
        if parameter.grad is None:  # freed by an optimizer that steps in the backward pass
            return
        # A DTensor's storage is its shard's.
        tracker.label(f"{name}.grad", getattr(parameter.grad, "_local_tensor", parameter.grad), "gradients")

    return label
