"""The lesson's accounting and its formulas, from parameter counts to bytes.

Rules of thumb: 2 bytes per weight, 2 bytes per gradient, 4 + 4 bytes of Adam states per trained parameter, 4-bit
weights at exactly half a byte, no activations. Source: the lesson "Parameter-Efficient Fine-Tuning (PEFT)".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.estimation.answer import Component, Remarks

if TYPE_CHECKING:
    from calculator.common.names import ComponentName

WEIGHT_BYTES = 2
GRADIENT_BYTES = 2
ADAM_BYTES = 4 + 4

SOURCE = 'the lesson "Parameter-Efficient Fine-Tuning (PEFT)", its rules of thumb'

ASSUMPTIONS = (
    "Textbook accounting: 2 bytes per weight, 2 bytes per gradient, 4 + 4 bytes of Adam states per trained parameter",
    "Textbook accounting leaves out activations, logits and temporaries",
    "Library workspaces, the allocator's segments and the CUDA context are in required_bytes, but in no component",
    "Textbook accounting stores 4-bit weights at exactly half a byte, without their quantization constants",
)


def remarks(gpus_needed: int) -> Remarks:
    """Return the assumptions, with a warning if the memory takes several GPUs."""
    if gpus_needed == 1:
        return Remarks(ASSUMPTIONS, ())
    sharded = (
        f"{gpus_needed:,} GPUs are enough only if the run is sharded: otherwise each GPU needs all of this memory."
    )
    warning = (
        f"{sharded} Exact accounting with device.sharding zero3 or fsdp gives what each of device.count GPUs needs."
    )
    return Remarks(ASSUMPTIONS, (warning,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounting:
    """A run's memory by the lesson's rules, in bytes."""

    base_weights: Component
    adapter_weights: Component
    gradients: Component
    optimizer_states: Component

    @property
    def components(self) -> tuple[Component, ...]:
        """The parts that are not empty."""
        parts = (self.base_weights, self.adapter_weights, self.gradients, self.optimizer_states)
        return tuple(part for part in parts if part.bytes)

    @property
    def bytes(self) -> int:
        """The sum of the parts."""
        return sum(part.bytes for part in self.components)


def accounting(*, base: int, added: int, trainable: int, quantized: int = 0) -> Accounting:
    """Return a run's memory by the lesson's rules.

    `base` is the number of the base model's parameters, `quantized` the number of those in 4 bits, `added` the number
    of the method's own parameters, and `trainable` the number of all trained parameters.
    """
    return Accounting(
        base_weights=_base_weights(base, quantized),
        adapter_weights=_part("adapter_weights", "added", added, WEIGHT_BYTES),
        gradients=_part("gradients", "trainable", trainable, GRADIENT_BYTES),
        optimizer_states=_part("optimizer_states", "trainable", trainable, ADAM_BYTES),
    )


def _base_weights(base: int, quantized: int) -> Component:
    if not quantized:
        return _part("base_weights", "base", base, WEIGHT_BYTES)
    kept = base - quantized
    return Component(
        name="base_weights",
        bytes=-(-quantized // 2) + WEIGHT_BYTES * kept,
        source=SOURCE,
        rule=(
            f"quantized × 0.5 + (base − quantized) × {WEIGHT_BYTES}",
            f"{quantized:,} × 0.5 + {kept:,} × {WEIGHT_BYTES}",
        ),
    )


def _part(name: ComponentName, counted: str, count: int, size: int) -> Component:
    return Component(
        name=name,
        bytes=count * size,
        source=SOURCE,
        rule=(f"{counted} × {size}", f"{count:,} × {size}"),
    )


def lora_parameters(d: int, k: int, r: int) -> int:
    """Return the parameters of a rank-r update of a d × k matrix: B is d × r, A is r × k."""
    return r * (d + k)


def compression(d: int, k: int, r: int) -> float:
    """Return the ratio of the parameters of a d × k matrix to those of its rank-r update."""
    return d * k / lora_parameters(d, k, r)


def adapter_parameters(d: int, r: int) -> int:
    """Return the parameters of a bottleneck adapter on d features: down and up projections with biases."""
    return 2 * d * r + r + d


def prefix_parameters(p: int, d: int, L: int) -> int:
    """Return the parameters of p learned keys and values of d features in each of L layers."""
    return 2 * p * d * L


def prompt_parameters(p: int, d: int) -> int:
    """Return the parameters of p learned input embeddings of d features."""
    return p * d


def fewest_gpus(total_bytes: int, gpu_bytes: int) -> int:
    """Return the minimum number of GPUs with this total memory."""
    return -(-total_bytes // gpu_bytes)
