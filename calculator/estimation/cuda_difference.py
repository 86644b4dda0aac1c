"""A difference between the allocations of PyTorch's kernels on CUDA and in a trace on the meta device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.devices.multiprocessors import multiprocessors_of
from calculator.devices.verdict import card_of
from calculator.engine.tape import Tape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.architecture.model import Model
    from calculator.common.names import PhaseName
    from calculator.engine.kinds import Storages
    from calculator.engine.tape import Allocation
    from calculator.estimation.request import Request
    from calculator.training_step.step import TrainingStep


def _no_way_out(_request: Request, _model: Model) -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaDifference:
    """One difference between the allocations of kernels on CUDA and in a trace, as an answer describes it.

    The engine decides by `Tape.cuda` or `Kernels.cuda` what is allocated. This only finds out whether a step has it.
    """

    #: Returns the most bytes by which it changes any moment of a step, whatever device.type the step has. 0 if the step
    #: does not have it. It reads the step's rows, tensors or settings, and interprets nothing.
    most: Callable[[TrainingStep], int]
    #: Returns what is allocated otherwise, in a sentence, from a step with device.type cuda. Empty if that has none.
    sentence: Callable[[TrainingStep], str]
    #: The phases whose peaks it can change.
    phases: tuple[PhaseName, ...] = ("forward", "backward")
    #: Returns how the request avoids it, in a sentence. Empty if it does not.
    way_out: Callable[[Request, Model], str] = _no_way_out


def allocated(step: TrainingStep, allocate: Callable[[Tape], None]) -> int:
    """Return the bytes that a kernel allocates at once on the GPU of a step."""
    tape = Tape(cuda=True)
    tape.multiprocessors = multiprocessors_of(card_of(step.resident.prepared.device))
    tape.capability = step.resident.prepared.kernels.capability
    allocate(tape)
    return sum([size for *_, size in tape.rows])


def kinds_of(step: TrainingStep, name: str) -> Iterator[Allocation]:
    """Yield the kinds of tensors in a micro-batch whose names end with `name`."""
    storages = step.run.storages
    for kind, key in enumerate(storages.kinds.keys):
        if key[0].endswith(name):
            yield storages.allocation(kind)


def largest(step: TrainingStep, name: str) -> int:
    """Return the bytes of the largest tensor in a micro-batch whose name ends with `name`. 0 if there is none."""
    return largest_of(step.run.storages, name)


def largest_of(storages: Storages, name: str) -> int:
    """Return the bytes of the largest storage whose name ends with `name`. 0 if there is none."""
    kinds = [kind for kind, key in enumerate(storages.kinds.keys) if key[0].endswith(name)]
    return max([storages.sizes[storages.kinds.size_of[kind]] for kind in kinds], default=0)
