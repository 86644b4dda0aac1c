"""Labels of the memory components and phases, shared by charts, bars and tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.estimation.answer import Component, Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentLabel:
    """The label and meaning of a component. Its color is `--NAME` in the style sheet."""

    name: str
    label: str
    meaning: str


COMPONENTS: dict[str, ComponentLabel] = {
    component.name: component
    for component in (
        ComponentLabel(
            name="base_weights", label="Base weights", meaning="weights of the model, in their storage format"
        ),
        ComponentLabel(
            name="quantization_constants", label="Quantization constants", meaning="scales of the 4-bit blocks"
        ),
        ComponentLabel(name="adapter_weights", label="Added weights", meaning="parameters that the method adds"),
        ComponentLabel(name="gradients", label="Gradients", meaning="one for each trained parameter"),
        ComponentLabel(name="optimizer_states", label="Optimizer states", meaning="those of each trained parameter"),
        ComponentLabel(
            name="activations", label="Activations", meaning="saved in the forward pass for the backward pass"
        ),
        ComponentLabel(name="kv_cache", label="KV cache", meaning="keys and values of earlier tokens, in every layer"),
        ComponentLabel(
            name="logits_and_loss", label="Logits and loss", meaning="a score for each token of the vocabulary"
        ),
        ComponentLabel(name="workspace", label="Workspace", meaning="temporary tensors of the current operation"),
        ComponentLabel(name="overhead", label="Allocator and CUDA", meaning="cached blocks, CUDA libraries, context"),
    )
}

PHASES = {
    "generation": "generation",
    "forward": "forward pass",
    "backward": "backward pass",
    "optimizer_step": "optimizer step",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A component's share of the required memory."""

    component: ComponentLabel
    bytes: int


def parts(memory: Memory) -> tuple[Part, ...]:
    """Return the parts of `required_bytes`: the components at the peak, then the memory of the allocator and CUDA."""
    return parts_of(memory.components, memory.required_bytes)


def parts_of(components: Iterable[Component], required_bytes: int) -> tuple[Part, ...]:
    """Return the parts of a requirement with these components at its peak."""
    sizes: dict[str, int] = {component.name: component.bytes for component in components}
    sizes["overhead"] = required_bytes - sum(sizes.values())
    every_part = (Part(component=component, bytes=sizes.get(name, 0)) for name, component in COMPONENTS.items())
    return tuple(part for part in every_part if part.bytes)
