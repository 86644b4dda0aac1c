"""What of a run's memory stays on each GPU however many there are, for the number of GPUs that a verdict states.

A peak is the largest of its phases, and each is a constant and a part that is divided by the number of GPUs: it is
convex in one over the number. So the line through the peaks of two numbers, extended to no part at all, is a lower
bound (see `limit_search/fewest.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.devices.verdict import DIVIDED
from calculator.estimation.series import SeriesCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from calculator.estimation.answer import Component
    from calculator.estimation.request import Request
    from calculator.training_step.step import TrainingStep

#: How many times as many GPUs the second number has, and the fewest that it has.
TIMES, LEAST = 16, 64
#: How far below its lower bound a peak may be, as a fraction of it: shards of other numbers may be padded less.
PADDED = 1 / 16

#: What no sharding divides, of the tensors on one GPU.
_OF_THE_BATCH = ("activations", "logits_and_loss")


def undivided_bytes(
    request: Request,
    step: TrainingStep,
    parts: Iterable[Component],
    overheads: int,
    step_of: Callable[[Request, SeriesCache], TrainingStep],
) -> int:
    """Bytes that a GPU needs with any number of GPUs; `overheads` are those of workspaces and of the CUDA context.

    FSDP2 has a whole model in 4 bits on each GPU until all of it is sharded (`allocator/sharded_loading.py`).
    """
    device, resident = request.device, step.resident
    if device.sharding not in DIVIDED:
        return sum(part.bytes for part in parts if part.name in _OF_THE_BATCH) + overheads
    more = max(LEAST, TIMES * device.count)
    many = step_of(replace(request, device=replace(device, count=more, nodes=1)), SeriesCache())
    few, rest = (max(peak.bytes for peak in each.every_peak()) for each in (step, many))
    per_part = (few - rest) / (1 / device.count - 1 / more)
    live = int((rest - per_part / more) * (1 - PADDED))
    whole = device.sharding == "fsdp" and resident.prepared.method.facts.quantizes_base
    return max(live + overheads, sum(each.bytes for each in resident.whole) if whole else 0)
