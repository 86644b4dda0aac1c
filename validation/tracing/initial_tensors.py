"""The tensors that are alive before a step: weights, quantization constants, optimizer states, and the last loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bitsandbytes as bnb
import torch

from validation.reference.bases import SCALES, constants, parts
from validation.reference.methods import added_buffers
from validation.reference.module_paths import unwrapped
from validation.reference.optimizers import states

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from calculator.common.names import ComponentName
    from validation.reference.build import ReferenceModel
    from validation.tracing.memory_tracker import MemoryTracker


def track_model(tracker: MemoryTracker, reference: ReferenceModel) -> None:
    """Track a model's parameters, buffers and quantization constants."""
    for name, parameter in reference.named_parameters():
        stored = parts(parameter)
        for part, tensor in stored.items():
            is_weight = part == "qdata"
            component: ComponentName = "base_weights" if is_weight else "quantization_constants"
            tracker.track_external(name if is_weight else f"{name}.{part}", tensor, component)
        if stored:
            continue
        component_of_weights: ComponentName = "base_weights" if name in reference.base else "adapter_weights"
        tracker.track_external(
            name, parameter, "quantization_constants" if name.endswith(SCALES) else component_of_weights
        )
        for constant, tensor in quantization_constants(getattr(parameter, "quant_state", None)):
            tracker.track_external(f"{name}.{constant}", tensor, "quantization_constants")
    for path, module in reference.model.named_modules():
        if isinstance(module, bnb.nn.Linear8bitLt):
            name = f"{unwrapped(path, reference.root)}.weight.SCB"
            scales = module.state.SCB if module.weight.SCB is None else module.weight.SCB
            tracker.track_external(name, scales, "quantization_constants")
        if hasattr(module, "W_q"):
            _track_hqq(tracker, unwrapped(path, reference.root), module)
    track_buffers(tracker, reference)


def track_buffers(tracker: MemoryTracker, reference: ReferenceModel) -> None:
    """Track a model's buffers: its own, those that a method added, and quantization constants."""
    components: dict[int, ComponentName] = dict.fromkeys(added_buffers(reference.model), "adapter_weights")
    components |= dict.fromkeys(constants(reference.model), "quantization_constants")
    for name, buffer in reference.named_buffers():
        tracker.track_external(name, buffer, components.get(id(buffer), "base_weights"))


def _track_hqq(tracker: MemoryTracker, path: str, module: Any) -> None:
    """Track what HQQLinear keeps as attributes."""
    for name in ("scale", "zero"):
        tracker.track_external(f"{path}.meta.{name}", module.meta[name], "quantization_constants")
    if module.bias is not None:
        tracker.track_external(f"{path}.bias", module.bias, "base_weights")


def track_attributes(tracker: MemoryTracker, reference: ReferenceModel) -> None:
    """Track what modules keep as plain attributes from their first forward pass on, as scaled rotary embeddings do."""
    for path, module in reference.model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                tracker.track_external(unwrapped(f"{path}.{name}", reference.root), value, "activations")


def quantization_constants(state: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a QuantState, and the code book that bitsandbytes keeps after it quantized the constants."""
    if state is None:
        return
    for field in ("absmax", "code", "offset"):
        if getattr(state, field, None) is not None:
            yield field, getattr(state, field)
    if state.nested:
        yield from ((f"state2.{field}", tensor) for field, tensor in quantization_constants(state.state2))
        yield "name2qmap", bnb.functional.name2qmap["dynamic"]


def track_optimizer(
    tracker: MemoryTracker, optimizer: torch.optim.Optimizer, trainable: Mapping[str, torch.nn.Parameter]
) -> None:
    """Track the optimizer states, each under the name of its parameter."""
    names = {id(parameter): name for name, parameter in trainable.items()}
    for parameter, name, tensor in states(optimizer):
        tracker.track_external(f"{names.get(id(parameter), 'frozen')}.{name}", tensor, "optimizer_states")


def track_loss(tracker: MemoryTracker, loss: torch.Tensor) -> None:
    """Track the loss of the step before, and the leaves that its graph keeps alive."""
    tracker.track_external("loss", loss, "activations")
    for node in _nodes(loss):
        for kept in (*(getattr(node, "tensors", None) or ()), getattr(node, "offs", None)):
            if isinstance(kept, torch.Tensor):
                tracker.track_external("loss: an attribute of its graph", kept, "activations")
        if not hasattr(node, "variable"):
            continue
        leaf = node.variable
        tracker.track_external("loss: a leaf of its graph", leaf, "activations")
        if leaf.grad is not None:
            tracker.track_external("loss: the gradient of a leaf of its graph", leaf.grad, "activations")


def _nodes(loss: torch.Tensor) -> Iterator[Any]:
    """Yield every node of a loss's graph.

    After backward it still refers to leaves, such as embeddings that require a gradient, and to what functions keep as
    attributes, as the inputs of 8-bit layers and the offsets of experts.
    """
    seen, todo = set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        todo += (next_node for next_node, _ in node.next_functions)
