"""The fewest GPUs on which a sharded run fits: the smallest `device.count`, with everything else fixed.

What a GPU requires is not monotonic in the number of GPUs. Shards are padded to equal sizes, ZeRO's partitions end
within tensors, and fragmentation varies. The live tensors have a bound, however. In each phase they have a constant
part and a part that is divided by the number of GPUs. The peak is the largest of the phases, so it is convex in one
over the number. The line through the peaks of two numbers is therefore a lower bound for every number that is not
between them.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, get_args

from calculator.allocator.out_of_memory import format_size
from calculator.common.errors import refusal
from calculator.inputs.sharding import MODELED, ShardingName
from calculator.limit_search.bounds import Bound, excess_of
from calculator.limit_search.limit import Limit
from calculator.limit_search.replays import search_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.estimation.request import Request
    from calculator.limit_search.probes import ProbeResult, Probes
    from calculator.limit_search.replays import Replays

#: The fewest GPUs of a sharded run, and the most that are tried.
LEAST = 2
MOST = 4096

#: The numbers that are tried first: powers of two, and three times these.
FIRST = sorted(count for step in (2, 3) for power in range(12) if (count := step << power) <= MOST)

#: By what fraction of the GPU's memory a peak may be below its lower bound. The numbers from which the bound follows
#: may have more padding than the others.
PADDED = 1 / 16

#: Up to this many numbers are all tried. Of more numbers, only multiples of one of these are tried.
ALL = 128
MULTIPLES = (1, 8, 64)

#: By sharding, what reduces the memory of a run that fits on no number of GPUs.
_GATHERS = (
    "each GPU still gathers whole layers and has its own activations: reduce these (training.gradient_checkpointing, "
    "micro_batch_size, sequence_length), or use a GPU with more memory"
)
WAYS_OUT: dict[ShardingName, str] = {
    "ddp": "DistributedDataParallel divides no weights, gradients or optimizer states: set device.sharding to fsdp, "
    "zero1 or zero2",
    "zero1": "zero1 divides optimizer states only: set device.sharding to zero2 or fsdp, or reduce the activations "
    "(training.gradient_checkpointing, micro_batch_size, sequence_length)",
    "zero2": "zero2 divides gradients and optimizer states, not weights: set device.sharding to fsdp, or reduce the "
    "activations (training.gradient_checkpointing, micro_batch_size, sequence_length)",
    "zero3": _GATHERS,
    "fsdp": _GATHERS,
}

#: What reduces the memory of a 4-bit model that runs out of memory while it is loaded. Source:
#: accelerate/utils/fsdp_utils.py, fsdp2_prepare_model, whose state dict refers to the whole weights until all of them
#: are sharded.
WHILE_LOADED = (
    "accelerate keeps the whole 4-bit model on each GPU until all of it is sharded, so that more GPUs do not help: use "
    "a GPU with more memory"
)


def on_one_node(request: Request) -> Request:
    """Return the request with all GPUs in one node. It needs the same memory on each of them."""
    return replace(request, device=replace(request.device, nodes=1))


def fewest(request: Request) -> Limit:
    """Return the smallest number of GPUs that fits.

    Raises:
        PlanError: if the run is not sharded, or refused.
    """
    sharding = request.device.sharding
    if sharding == "none":
        shardings = ", ".join(name for name in get_args(ShardingName) if name in MODELED - {"none"})
        message = f"a run without sharding has one GPU: to solve for count, set device.sharding to one of {shardings}"
        raise refusal("device.sharding", message, sharding)
    if request.device.nodes > 1:
        message = "the fewest GPUs are searched on one node, because memory does not depend on it: leave nodes out"
        raise refusal("device.nodes", message, request.device.nodes)
    search = search_of(request, "count")
    if search.fits(LEAST):
        return _least_required(search, sharding)
    if replace(request.device, count=LEAST).sharded_over is None:
        return _nothing(search, sharding, "Every number of GPUs requires the same of each")
    end = _first_fit(search)
    if end is None:
        return _nothing(search, sharding, _without_end(search.ruled))
    return _bisect(search, end)


def _least_required(search: Probes | Replays, sharding: ShardingName) -> Limit:
    reason = f"{sharding} needs {LEAST} GPUs or more"
    bound = Bound(by="sharding", limit=LEAST, reason=reason)
    guarantee = f"{LEAST} fits, and {reason}."
    return Limit(solve_for="count", bound=bound, at=search.point(LEAST), above=None, guarantee=guarantee)


def _nothing(search: Probes | Replays, sharding: ShardingName, tried: str) -> Limit:
    """Return the answer if no number fits. It contains the run that requires the least memory on each GPU."""
    value = min(search.ruled.tried.values(), key=lambda probe: (probe.excess, probe.value)).value
    least = search.point(value)
    required, usable = least.estimate.memory.required_bytes, search.ruled.usable
    ended = least.estimate.fit.out_of_memory if least.estimate.fit else None
    way_out = WHILE_LOADED if sharding == "fsdp" and ended and ended.phase == "load" else WAYS_OUT[sharding]
    reason = (
        f"the least that was found is {format_size(required)} on each of {value:,} GPUs, of the "
        f"{format_size(usable)} that a GPU offers; {way_out}"
    )
    bound = Bound(by="memory", limit=usable, reason=reason)
    return Limit(solve_for="count", bound=bound, at=None, above=None, below=least, guarantee=f"{tried}.")


def _first_fit(search: Probes | Replays) -> int | None:
    """Return the first number that fits.

    Return None if none does, or if the live tensors don't fit with any larger number.
    """
    for count in FIRST:
        if search.fits(count):
            return count
        if not _may_fit(search.ruled, None):
            break
    return None


def _without_end(probes: Probes) -> str:
    last = max(probes.tried)
    tried = f"None fits of the powers of two and three times these, up to {last:,}"
    if last < MOST:
        return f"{tried}. With any larger number, not even the live tensors fit"
    return f"{tried}. No larger number was tried"


def _may_fit(probes: Probes, count: int | None) -> bool:
    """Return whether the live tensors may fit with a number of GPUs, or with any larger than those tried."""
    room = probes.usable * (1 + PADDED)
    return all(least <= room for least in _least_live(probes, count))


def _least_live(probes: Probes, count: int | None) -> Iterator[float]:
    """Yield lower bounds of a GPU's live tensors with a number of GPUs, or with any larger than those tried."""
    tried = [probes.tried[count] for count in FIRST if count in probes.tried and _is_power_of_two(count)]
    part = 1 / count if count else 0.0
    for few, many in pairwise(tried):
        if count is None or not few.value < count < many.value:
            live, fewer = probes.usable + many.least_excess, probes.usable + few.least_excess
            slope = (fewer - live) / (1 / few.value - 1 / many.value)
            yield live + slope * (part - 1 / many.value)


def _is_power_of_two(count: int) -> bool:
    """Return whether a number is a power of two. Its shards are padded the least."""
    return count.bit_count() == 1


def _bisect(search: Probes | Replays, end: int) -> Limit:
    """Return the smallest number that fits. `end` fits, and none of the first numbers below it does."""
    probes = search.ruled
    possible = [count for count in range(LEAST, end) if count not in probes.tried and _may_fit(probes, count)]
    multiple = next(multiple for multiple in MULTIPLES if multiple == MULTIPLES[-1] or len(possible) <= ALL * multiple)
    value = next((count for count in possible if count % multiple == 0 and search.fits(count)), end)
    while value > LEAST and search.fits(value - 1):
        value -= 1
    below = search.point(value - 1)
    return Limit(
        solve_for="count",
        bound=_memory(below, probes.usable),
        at=search.point(value),
        above=None,
        below=below,
        guarantee=_guarantee(value, multiple),
    )


def _memory(below: ProbeResult, usable: int) -> Bound:
    required = below.estimate.memory.required_bytes
    reason = f"each of {below.value:,} GPUs would require {excess_of(required, usable, 'a card')}"
    return Bound(by="memory", limit=usable, reason=reason)


def _guarantee(value: int, multiple: int) -> str:
    which = "every smaller number" if multiple == 1 else f"every smaller multiple of {multiple}"
    return (
        f"{value:,} fits and {value - 1:,} does not. {which.capitalize()} was tried, except those with which not even "
        "the live tensors fit."
    )
