"""The loop over parameters in an optimizer's step, on a tape of its own.

Local variables of such a loop live until the next parameter assigns them new values, so temporaries of consecutive
parameters are alive together.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from calculator.engine.frame_snapshots import without_frame_snapshots
from calculator.engine.tape import Tape
from calculator.resident.tensor import ResidentTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from calculator.devices.kernels import Kernels
    from calculator.engine.tape import Allocation
    from calculator.resident.optimizer import Optimizer

    #: The loop of an optimizer's step over the parameters of a group.
    Loop = Callable[[Tape, list[ResidentTensor], Optimizer], None]


@without_frame_snapshots
def temporaries(
    loop: Loop, trained: Sequence[ResidentTensor], optimizer: Optimizer, kernels: Kernels
) -> tuple[ResidentTensor, ...]:
    """Return the temporaries that are alive at the step's peak, without the optimizer's states."""
    tape = Tape(cuda=kernels.cuda)
    tape.multiprocessors = kernels.multiprocessors
    tape.component = "workspace"
    loop(tape, list(_sequence(trained)), optimizer)
    return tuple(
        ResidentTensor(name=name, shape=shape, dtype=dtype, component=component, count=count)
        for (name, shape, dtype, component, _), count in _peak_tensors(tape).items()
    )


def _sequence(trained: Sequence[ResidentTensor]) -> Iterator[ResidentTensor]:
    """Yield the parameters in the optimizer's order.

    Those of a layer come twice, so that every pair of consecutive parameters occurs.
    """
    layers: list[ResidentTensor] = []
    for tensor in trained:
        if tensor.count > 1:
            layers.append(tensor)
            continue
        yield from layers * 2
        layers = []
        yield tensor
    yield from layers * 2


def _peak_tensors(tape: Tape) -> Counter[Allocation]:
    alive: Counter[int] = Counter()
    total, most, best = 0, -1, Counter[int]()
    for event in tape.events:
        row = event if event >= 0 else ~event
        total += tape.rows[row][4] * (1 if event >= 0 else -1)
        alive[row] += 1 if event >= 0 else -1
        if total > most:
            most, best = total, +alive
    return Counter(tape.rows[row] for row in best)
