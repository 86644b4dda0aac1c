"""What lies on a card where each request may ask for another task: the base, and every task's module beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.devices import cuda_context
from calculator.devices.verdict import card_of

if TYPE_CHECKING:
    from calculator.answer import Estimate
    from calculator.training import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Every task held at once, in bytes: the base as it is trained, one task's module, and the process's own share."""

    tasks: int
    base_bytes: int
    task_bytes: int
    context_bytes: int
    usable_bytes: int

    @property
    def bytes(self) -> int:
        """All of it; requests and their caches come on top."""
        return self.base_bytes + self.tasks * self.task_bytes + self.context_bytes

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
        return max(0, (self.usable_bytes - self.context_bytes - self.base_bytes) // self.task_bytes)


def together(answer: Estimate, device: Device, tasks: int) -> Together | None:
    """So many tasks of what an estimate trains, on its device; None where it names none."""
    if answer.fit is None:
        return None
    return Together(
        tasks=tasks,
        base_bytes=base_bytes(answer),
        task_bytes=task_bytes(answer),
        context_bytes=cuda_context(card_of(device)).bytes,
        usable_bytes=answer.fit.usable_bytes,
    )


def base_bytes(answer: Estimate) -> int:
    """The base model as it is held in training."""
    return held(answer, "base_weights") + held(answer, "quantization_constants")


def task_bytes(answer: Estimate) -> int:
    """What one task adds: the trained module as it is held, or for full fine-tuning the model."""
    return base_bytes(answer) if answer.method.name == "full" else held(answer, "adapter_weights")


def held(answer: Estimate, component: str) -> int:
    """A component's bytes at the peak."""
    return sum(each.bytes for each in answer.memory.components if each.name == component)
