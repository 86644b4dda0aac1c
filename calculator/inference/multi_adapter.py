"""The footprint of many tasks on one GPU: the base, every task's adapter, and one request."""

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
    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import ModelReference
    from calculator.inference.answer import Inference
    from calculator.inputs.device import Device
    from calculator.inputs.training import Training


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiAdapterFootprint:
    """The bytes of a base model with the adapters of all tasks, serving one request."""

    tasks: int
    #: The request's length.
    tokens: int
    #: The base model in the storage that it has in training.
    base_bytes: int
    #: One task's adapter.
    task_bytes: int
    #: The CUDA context.
    context_bytes: int
    #: One request's cache, activations and workspaces.
    request_bytes: int
    usable_bytes: int

    @property
    def bytes(self) -> int:
        """The total, without further requests and their caches."""
        return self.fixed_bytes + self.tasks * self.task_bytes

    @property
    def fixed_bytes(self) -> int:
        """The total without any task."""
        return self.base_bytes + self.context_bytes + self.request_bytes

    @property
    def short_bytes(self) -> int:
        """The bytes missing on the GPU. Zero or negative if it fits."""
        return self.bytes - self.usable_bytes

    @property
    def fits(self) -> bool:
        """Whether it fits the GPU."""
        return self.short_bytes <= 0

    @property
    def max_tasks(self) -> int:
        """The largest number of tasks that fits the GPU. 0 if the base alone fills it."""
        return max(0, (self.usable_bytes - self.fixed_bytes) // self.task_bytes)


def request_bytes(reference: ModelReference, device: Device, training: Training, *, four_bits: bool) -> int:
    """Return the bytes of a request as long as a training sequence.

    It does not include the base's weights and the CUDA context.
    """
    answer = inference(
        InferenceRequest(
            model=reference,
            method=Full(),
            serving=Serving(
                context_length=training.sequence_length,
                dtype=training.dtype,
                storage="nf4" if four_bits else "dtype",
            ),
            device=device,
            reserved="rule",
            length_given=False,
        )
    )
    weights = component_bytes(answer, "base_weights") + component_bytes(answer, "quantization_constants")
    return answer.memory.required_bytes - weights - cuda_context(card_of(device)).bytes


def task_bytes(answer: Estimate) -> int:
    """Return the bytes that one task adds to a served base: its adapter, or a model for full fine-tuning."""
    return answer.base_bytes if answer.method.facts.trains_base else answer.added_bytes


def component_bytes(answer: Estimate | Inference, component: str) -> int:
    """Return a component's bytes at the peak."""
    return sum(part.bytes for part in answer.memory.components if part.name == component)
