"""The peaks of the passes of `generate`, and the tensors that are resident through all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from calculator.architecture.dimension import Dim
from calculator.training_step.generation import Generation

if TYPE_CHECKING:
    from calculator.common.names import PassName
    from calculator.engine.live_tensors import LiveTensors
    from calculator.inference.served_method import ServedMethod
    from calculator.inference.settings import Serving
    from calculator.resident.tensor import ResidentTensor
    from calculator.training_step.generation import Pass
    from calculator.training_step.resident_state import ResidentState


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The peak of one pass: the resident tensors, and those of the pass."""

    name: PassName
    resident_tensors: tuple[ResidentTensor, ...]
    ran: Pass

    @property
    def operation(self) -> str:
        """The operation at the peak."""
        return self.ran.operation

    @property
    def bytes(self) -> int:
        """The bytes alive at the peak."""
        return sum(tensor.bytes for tensor in self.resident_tensors) + self.ran.moment.bytes

    @cached_property
    def alive(self) -> LiveTensors:
        """The tensors alive at the peak."""
        return self.ran.recording.alive(self.ran.moment, self.resident_tensors)


def state(resident: ResidentState, served: ServedMethod, serving: Serving) -> tuple[ResidentTensor, ...]:
    """Return the resident weights, constants and added parameters of all tasks.

    Merged tasks have one model each.
    """
    whole = served.merged or served.method.facts.trains_base
    return tuple(
        [_for_tasks(tensor, serving.tasks) if whole or not tensor.base else tensor for tensor in resident.tensors]
    )


def _for_tasks(tensor: ResidentTensor, tasks: int) -> ResidentTensor:
    return replace(tensor, count=tensor.count * tasks, bytes=tensor.bytes * tasks)


def peaks(resident: ResidentState, served: ServedMethod, serving: Serving) -> tuple[Peak, ...]:
    """Return the peaks of prefill, of the first decoding pass, and of the last one if there is another."""
    tensors = state(resident, served, serving)
    generation = Generation(resident.prepared)
    prefill = generation.prefill()
    ran: list[tuple[PassName, Pass]] = [("prefill", prefill)]
    first = positions(served, serving)
    if serving.max_new_tokens > 1:
        ran.append(("first_decode", generation.decode(first, prefill.cache, first=True)))
    if serving.max_new_tokens > 2:
        last = first + Dim(serving.max_new_tokens - 2, "max_new_tokens - 2")
        ran.append(("last_decode", generation.decode(last, prefill.cache, first=False)))
    return tuple(Peak(name=name, resident_tensors=tensors, ran=pass_) for name, pass_ in ran)


def positions(served: ServedMethod, serving: Serving) -> Dim:
    """Return the cache's length after the prompt."""
    prompt = Dim(serving.context_length, "S")
    return Dim(served.virtual_tokens, "num_virtual_tokens") + prompt if served.virtual_tokens else prompt
