"""What is alive before a step: weights, constants, states, and what the step before left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bitsandbytes as bnb

from validation.reference.optimizers import states

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from validation.reference.build import Built
    from validation.reference.step import Step
    from validation.tracing.memory_tracker import Watch


def adopt_model(watch: Watch, built: Built) -> None:
    """Book a model's parameters, buffers and quantisation constants."""
    for name, parameter in built.named_parameters():
        watch.adopt(name, parameter, "base_weights" if name in built.base else "adapter_weights")
        for constant, tensor in quantization_constants(getattr(parameter, "quant_state", None)):
            watch.adopt(f"{name}.{constant}", tensor, "quantization_constants")
    for name, buffer in built.named_buffers():
        watch.adopt(name, buffer, "base_weights")


def quantization_constants(state: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """A quantisation state's tensors; the code book that bitsandbytes quantised the constants with stays alive too."""
    if state is None:
        return
    for field in ("absmax", "code", "offset"):
        if getattr(state, field, None) is not None:
            yield field, getattr(state, field)
    if state.nested:
        yield from ((f"state2.{field}", tensor) for field, tensor in quantization_constants(state.state2))
        yield "name2qmap", bnb.functional.name2qmap["dynamic"]


def adopt_step(watch: Watch, step: Step) -> None:
    """Book the optimizer's states, the batch, and what the last loss keeps alive."""
    names = {id(parameter): name for name, parameter in step.trained.items()}
    for parameter, name, tensor in states(step.optimizer):
        watch.adopt(f"{names[id(parameter)]}.{name}", tensor, "optimizer_states")
    for name, tensor in (("input_ids", step.input_ids), ("attention_mask", step.mask), ("loss", step.loss)):
        if tensor is not None:
            watch.adopt(name, tensor, "activations")
    for leaf in _leaves(step.loss):
        watch.adopt("loss: a leaf of its graph", leaf, "activations")
        if leaf.grad is not None:
            watch.adopt("loss: the gradient of a leaf of its graph", leaf.grad, "activations")


def _leaves(loss: torch.Tensor) -> Iterator[torch.Tensor]:
    """Every leaf that a loss's graph refers to after backward, such as embeddings that were made to need a gradient."""
    seen, todo = set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        todo += (following for following, _ in node.next_functions)
