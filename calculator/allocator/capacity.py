"""A run on a device of limited memory: whether it ends, with how many retries, or where it runs out of memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.allocator.alloc_conf import DEFAULT, AllocConf
from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.loading import UNTOUCHED
from calculator.allocator.out_of_memory import DeviceMemory, OutOfMemoryError
from calculator.allocator.replay import MAX_STEPS
from calculator.allocator.segments import SMALL_SEGMENT, whole_pages

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from calculator.allocator.block_pool import Block
    from calculator.allocator.replay import Replay, ReplayPhase

#: A capacity that no run needs.
_UNLIMITED = 1 << 100


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory:
    """Where a run ends with torch.OutOfMemoryError.

    Attributes:
        step: The training step, from 1; 0 while the model is loaded.
        phase: What runs then.
        tensor: The name of the tensor that is requested.
        requested_bytes: Its block.
        message: PyTorch's own text.
    """

    step: int
    phase: ReplayPhase
    tensor: str
    requested_bytes: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CappedReplay:
    """What a run does on a device.

    Attributes:
        peak_reserved_bytes: What `torch.cuda.max_memory_reserved` reads at its end.
        retries: How often cached blocks were freed for a request, from the load on (`num_alloc_retries`).
        retries_first_step: The same in the first step.
        retries_per_step: The same in a step of its steady state; the most of several, where they differ.
        out_of_memory: Where it ends, if it does not reach its steady state.
        same_from: The least capacity with the same history, bytes.
        same_below: The least capacity above it with another history, if one is known; bytes.
    """

    peak_reserved_bytes: int
    retries: int
    retries_first_step: int
    retries_per_step: int
    out_of_memory: OutOfMemory | None
    same_from: int
    same_below: int | None


def replay_within(run: Replay, device: DeviceMemory, conf: AllocConf = DEFAULT) -> CappedReplay:
    """Replay a run on a device, until a step leaves the allocator as one before it did."""
    allocator = CachingAllocator(conf, capacity=device.capacity, total=device.total)
    run = run.on(allocator)
    retries: list[int] = []
    failure = None
    try:
        steady = _run(run, retries)
    except OutOfMemoryError as error:
        steady, failure = retries[-1:], _event(run, error, device)
    same_from, same_below = _same_history(run, device)
    return CappedReplay(
        peak_reserved_bytes=allocator.max_reserved,
        retries=allocator.retries,
        retries_first_step=retries[0] if retries else 0,
        retries_per_step=max(steady, default=0),
        out_of_memory=failure,
        same_from=same_from,
        same_below=same_below,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Minimum:
    """The smallest device that was found for a run.

    Attributes:
        bytes: The allocator's capacity on which the run reaches its steady state; on 2 MiB less it runs out of memory.
        without_retry_bytes: The same, with no cached block freed on the way.
    """

    bytes: int
    without_retry_bytes: int


def minimum(
    run: Replay, live_bytes: int, device_of: Callable[[int], DeviceMemory], conf: AllocConf = DEFAULT
) -> Minimum:
    """The smallest capacity of a run, found by bisection between what is alive at once and what it reserves at ease.

    Whether a run fits is not always monotonic in the capacity: at the result it fits, at 2 MiB less it does not, and a
    smaller capacity may exist on which it fits by chance. `live_bytes` must not be above the run's live peak.
    `device_of` states the device for a capacity.
    """
    unlimited = replay_within(run, device_of(_UNLIMITED), conf)
    at_ease = whole_pages(unlimited.same_from)

    def least(low: int, high: int, fails: Callable[[CappedReplay], object]) -> int:
        return _least(lambda capacity: replay_within(run, device_of(capacity), conf), fails, low, high)

    fits = least(whole_pages(live_bytes) - SMALL_SEGMENT, at_ease, lambda result: result.out_of_memory)
    # Where every refusal leads to a retry, none is possible on less than what the run reserves at ease.
    if at_ease > unlimited.peak_reserved_bytes or conf.max_split_size or conf.per_process_memory_fraction < 1:
        at_ease = least(fits - SMALL_SEGMENT, at_ease, lambda result: result.out_of_memory or result.retries)
    return Minimum(bytes=fits, without_retry_bytes=at_ease)


def _least(replay: Callable[[int], CappedReplay], fails: Callable[[CappedReplay], object], low: int, high: int) -> int:
    """The least capacity that does not fail, between one that does and one that does not, in pages of 2 MiB."""
    while high - low > SMALL_SEGMENT:
        middle = whole_pages((low + high) // 2)
        result = replay(middle)
        if not fails(result):
            high = min(middle, whole_pages(result.same_from))
        elif result.same_below is None:
            low = middle
        else:
            low = max(middle, min(whole_pages(result.same_below), high) - SMALL_SEGMENT)
    return high


def _run(run: Replay, retries: list[int]) -> list[int]:
    """Run until a step takes nothing more, or repeats an earlier one: the retries of the steps that repeat."""
    run.load()
    layouts: list[object] = []
    while True:
        before, reserved = run.allocator.retries, run.allocator.reserved
        run.step()
        retries.append(run.allocator.retries - before)
        if run.steps >= 2 and not retries[-1] and run.allocator.reserved <= reserved:
            return retries[-1:]
        if any(retries):
            layouts.append(layout(run))
            if layouts[-1] in layouts[:-1]:
                return retries[len(retries) - (len(layouts) - 1 - layouts.index(layouts[-1])) :]
        if run.steps == MAX_STEPS:
            return retries[-1:]


def layout(run: Replay) -> list[list[list[tuple[object, int]]]]:
    """What the requests of the next step depend on: the segments of each pool in order, and their blocks.

    The next step begins by freeing all gradients, so that these count as free; what it frees later is told apart.
    """
    kinds: dict[int, str] = {id(block): "left" for _, block in run.left}
    kinds |= {id(block): "free" for _, block in run.gradients}
    return [[_runs(chain, kinds) for chain in pool.chains()] for pool in run.allocator.pools(0)]


def _runs(chain: list[Block], kinds: Mapping[int, str]) -> list[tuple[object, int]]:
    """The blocks of a segment by kind and size; free ones next to each other are one."""
    runs: list[tuple[object, int]] = []
    for block in chain:
        kind = "free" if block.is_free else kinds.get(id(block), type(block))
        if kind == "free" and runs and runs[-1][0] == "free":
            runs[-1] = (kind, runs[-1][1] + block.size)
        else:
            runs.append((kind, block.size))
    return runs


def _event(run: Replay, error: OutOfMemoryError, device: DeviceMemory) -> OutOfMemory:
    return OutOfMemory(
        step=run.steps + 1 if run.phase != "load" else 0,
        phase=run.phase,
        tensor=error.tensor,
        requested_bytes=error.requested,
        message=error.message(device),
    )


def _same_history(run: Replay, device: DeviceMemory) -> tuple[int, int | None]:
    """The capacities on which the device would have answered every request the same.

    Where the size of the device itself changes the requests, that is this one alone.
    """
    allocator, warmup = run.allocator, run.loading.warmup
    spare = int(device.total - UNTOUCHED) - warmup
    if allocator.allowed is not None or spare < 0:
        return device.capacity, device.capacity + 1
    return max(allocator.most_mapped, device.capacity - spare), allocator.least_refused
