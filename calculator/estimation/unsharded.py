"""The memory of a run that stays on each GPU whatever their number. A verdict derives the number of GPUs from it.

A peak is the largest of its phases. Each phase has a constant part and a part that is sharded over the GPUs. So
the peak is convex in one over that number. The line through the peaks of two numbers, extended to zero, is a lower
bound (see `limit_search/fewest.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.devices.verdict import SHARDED
from calculator.estimation.series import SeriesCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from calculator.estimation.answer import Component
    from calculator.estimation.request import Request
    from calculator.training_step.step import TrainingStep

#: The second number of GPUs is this multiple of the first, and at least this many.
TIMES, LEAST = 16, 64
#: By what fraction a peak may be below its lower bound. The shards of other numbers may be padded less.
PADDED = 1 / 16

#: The components on one GPU that no sharding shards.
_OF_THE_BATCH = ("activations", "logits_and_loss")


def unsharded_bytes(
    request: Request,
    step: TrainingStep,
    parts: Iterable[Component],
    overheads: int,
    step_of: Callable[[Request, SeriesCache], TrainingStep],
) -> int:
    """Return the bytes that a GPU needs with any number of GPUs.

    `overheads` are those of workspaces and of the CUDA context. FSDP2 has a whole 4-bit model on each GPU until all of
    it is sharded (`allocator/sharded_loading.py`).
    """
    device, resident = request.device, step.resident
    if device.sharding not in SHARDED:
        return sum(part.bytes for part in parts if part.name in _OF_THE_BATCH) + overheads
    more = max(LEAST, TIMES * device.count)
    many = step_of(replace(request, device=replace(device, count=more, nodes=1)), SeriesCache())
    few, rest = (max(peak.bytes for peak in training_step.every_peak()) for training_step in (step, many))
    per_part = (few - rest) / (1 / device.count - 1 / more)
    live = int((rest - per_part / more) * (1 - PADDED))
    whole = device.sharding == "fsdp" and resident.prepared.method.facts.quantizes_base
    return max(live + overheads, sum(tensor.bytes for tensor in resident.whole) if whole else 0)
