"""Methods and the peak's components in words, as forms, charts, bars and tables share them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.estimate.answer import Component, Memory


#: Each method in words.
METHOD_LABELS: dict[str, str] = {name: cls.facts.label for name, cls in METHODS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentLabel:
    """What a component is called, and what it is; its colour is `--NAME` in the style sheet."""

    name: str
    label: str
    meaning: str


COMPONENTS: dict[str, ComponentLabel] = {
    component.name: component
    for component in (
        ComponentLabel(name="base_weights", label="Base weights", meaning="the model itself, as it is stored"),
        ComponentLabel(
            name="quantization_constants", label="Quantisation constants", meaning="what 4-bit blocks are scaled by"
        ),
        ComponentLabel(name="adapter_weights", label="Added weights", meaning="parameters that the method adds"),
        ComponentLabel(name="gradients", label="Gradients", meaning="one for each trained parameter"),
        ComponentLabel(
            name="optimizer_states", label="Optimizer states", meaning="what the optimizer remembers of each"
        ),
        ComponentLabel(
            name="activations", label="Activations", meaning="kept from the forward pass for the backward pass"
        ),
        ComponentLabel(
            name="kv_cache", label="Cached keys and values", meaning="of every token before, in every layer"
        ),
        ComponentLabel(
            name="logits_and_loss", label="Logits and loss", meaning="a score for each token of the vocabulary"
        ),
        ComponentLabel(name="workspace", label="Workspace", meaning="temporaries of what runs at that moment"),
        ComponentLabel(name="overhead", label="Beyond the tensors", meaning="allocator, CUDA libraries and context"),
    )
}

PHASES = {"forward": "forward pass", "backward": "backward pass", "optimizer_step": "optimizer step"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A component's share of what a card must hold."""

    component: ComponentLabel
    bytes: int


def parts(memory: Memory) -> tuple[Part, ...]:
    """What `required_bytes` is made of: the components at the peak, then what is beyond the tensors."""
    return filled(memory.components, memory.required_bytes)


def filled(components: Iterable[Component], required_bytes: int) -> tuple[Part, ...]:
    """The same of components at any peak."""
    alive: dict[str, int] = {component.name: component.bytes for component in components}
    alive["overhead"] = required_bytes - sum(alive.values())
    every_part = (Part(component=component, bytes=alive.get(name, 0)) for name, component in COMPONENTS.items())
    return tuple(part for part in every_part if part.bytes)
