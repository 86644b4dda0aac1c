"""What is alive in each pass, and the state that lies on the card through all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from calculator.architecture.dimension import Dim
from calculator.methods import Full
from calculator.resident.module_spec import Treated
from calculator.resident.tensors import Stored, stored
from calculator.training_step.generation import Generation

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.common.names import PassName
    from calculator.engine.live_tensors import Alive
    from calculator.inference.served_method import Served
    from calculator.inference.settings import Serving
    from calculator.layers.kernels import Kernels
    from calculator.training_step.generation import Pass


@dataclass(frozen=True, kw_only=True)
class Peak:
    """A pass's peak: what is stored throughout, and what the pass itself made or was given."""

    name: PassName
    stored: tuple[Stored, ...]
    ran: Pass

    @property
    def operation(self) -> str:
        """What ran when it was reached."""
        return self.ran.operation

    @property
    def bytes(self) -> int:
        """Everything that is alive."""
        return sum(tensor.bytes for tensor in self.stored) + self.ran.moment.bytes

    @cached_property
    def alive(self) -> Alive:
        """Everything that is alive."""
        return self.ran.recording.alive(self.ran.moment, self.stored)


def state(treated: Treated, served: Served, serving: Serving) -> tuple[Stored, ...]:
    """Weights, constants and added parameters: those of every task, or every task's own model."""
    own = stored(treated)
    whole = served.merged or isinstance(served.method, Full)
    return tuple(_for_tasks(tensor, serving.tasks) if whole or not tensor.base else tensor for tensor in own)


def _for_tasks(tensor: Stored, tasks: int) -> Stored:
    return replace(tensor, count=tensor.count * tasks, bytes=tensor.bytes * tasks)


def peaks(model: Model, served: Served, serving: Serving, kernels: Kernels) -> tuple[Peak, ...]:
    """Each pass's: the prompt's, the token's after it, the last token's where there is another."""
    treated = Treated(model, served, serving.training)
    held = state(treated, served, serving)
    generation = Generation(treated, kernels=kernels)
    prefill = generation.prefill()
    ran: list[tuple[PassName, Pass]] = [("prefill", prefill)]
    first = positions(served, serving)
    if serving.max_new_tokens > 1:
        ran.append(("first_decode", generation.decode(first, prefill.cache, first=True)))
    if serving.max_new_tokens > 2:
        last = first + Dim(serving.max_new_tokens - 2, "max_new_tokens - 2")
        ran.append(("last_decode", generation.decode(last, prefill.cache, first=False)))
    return tuple(Peak(name=name, stored=held, ran=each) for name, each in ran)


def positions(served: Served, serving: Serving) -> Dim:
    """Tokens that the cache has seen after the prompt."""
    prompt = Dim(serving.context_length, "S")
    return Dim(served.virtual_tokens, "num_virtual_tokens") + prompt if served.virtual_tokens else prompt
