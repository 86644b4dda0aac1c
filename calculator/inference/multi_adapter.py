"""What lies on a card where each request may ask for another task: the base, every task's module, and a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.devices import cuda_context
from calculator.devices.verdict import card_of
from calculator.inference.inference import inference
from calculator.inference.request import InferenceRequest
from calculator.inference.settings import Serving
from calculator.methods import Full

if TYPE_CHECKING:
    from calculator.estimate.answer import Estimate
    from calculator.estimate.request import ModelReference
    from calculator.inference.answer import Inference
    from calculator.inputs.training import Device, Training


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiAdapterFootprint:
    """Every task held at once, in bytes: the base as it is trained, one task's module, the process's own share.

    `request_bytes` are what one request of `tokens` takes beside them: its cache, activations and workspaces.
    """

    tasks: int
    tokens: int
    base_bytes: int
    task_bytes: int
    context_bytes: int
    request_bytes: int
    usable_bytes: int

    @property
    def bytes(self) -> int:
        """All of it; further requests and their caches come on top."""
        return self.fixed_bytes + self.tasks * self.task_bytes

    @property
    def fixed_bytes(self) -> int:
        """What is there without any task."""
        return self.base_bytes + self.context_bytes + self.request_bytes

    @property
    def short_bytes(self) -> int:
        """By how much it exceeds what the card offers; not positive where it is held."""
        return self.bytes - self.usable_bytes

    @property
    def held(self) -> bool:
        """Whether the card holds it."""
        return self.short_bytes <= 0

    @property
    def most(self) -> int:
        """The most tasks that the card would hold; 0 where the base alone fills it."""
        return max(0, (self.usable_bytes - self.fixed_bytes) // self.task_bytes)


def request_bytes(reference: ModelReference, device: Device, training: Training, *, four_bits: bool) -> int:
    """What one request as long as the sequences takes beside the base's weights and the process's own share."""
    served = inference(
        InferenceRequest(
            model=reference,
            method=Full(),
            serving=Serving(
                context_length=training.sequence_length,
                dtype=training.dtype,
                storage="nf4" if four_bits else "dtype",
            ),
            device=device,
            length_given=False,
        )
    )
    weights = held(served, "base_weights") + held(served, "quantization_constants")
    return served.memory.required_bytes - weights - cuda_context(card_of(device)).bytes


def base_bytes(answer: Estimate) -> int:
    """The base model as it is held in training."""
    return held(answer, "base_weights") + held(answer, "quantization_constants")


def task_bytes(answer: Estimate) -> int:
    """What one task adds: the trained module as it is held, or for full fine-tuning the model."""
    return base_bytes(answer) if answer.method.facts.trains_base else held(answer, "adapter_weights")


def held(answer: Estimate | Inference, component: str) -> int:
    """A component's bytes at the peak."""
    return sum(each.bytes for each in answer.memory.components if each.name == component)
