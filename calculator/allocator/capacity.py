"""A run on a device of limited memory: whether it fits, with how many retries, or where it runs out of memory."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from calculator.allocator.alloc_conf import DEFAULT, AllocConf
from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.flat_replay import FlatReplay, FlatRun
from calculator.allocator.out_of_memory import DeviceMemory, OutOfMemoryError
from calculator.allocator.replay import MAX_STEPS
from calculator.allocator.segments import BLOCK, SMALL_SEGMENT, whole_pages
from calculator.allocator.shared_stages import SharedStages, total_from
from calculator.allocator.stage_cache import StageCache
from calculator.common.garbage import without_collections
from calculator.devices.outcome import OutOfMemory
from calculator.sharding.zero.replayed import OF_UPDATE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from calculator.allocator.block_pool import Block
    from calculator.allocator.flat_device import FlatDevice
    from calculator.allocator.flat_expandable import FlatExpandable
    from calculator.allocator.replay import Replay

#: A capacity that exceeds the need of any run.
_UNLIMITED = 1 << 100
#: The settings besides the default ones for which there are flat devices.
_EXPANDABLE = AllocConf(expandable_segments=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class CappedReplay:
    """The outcome of a run on a device.

    Attributes:
        peak_reserved_bytes: The value of `torch.cuda.max_memory_reserved` at the end of the run.
        retries: How often cached blocks were freed for a request, from the load on (`num_alloc_retries`).
        retries_per_step: The retries in a step of the steady state, the most if steps differ.
        out_of_memory: Where the run fails. None if it reaches its steady state.
        same_from: The smallest capacity with the same history, in bytes.
        same_below: The smallest larger capacity with another history, in bytes. None if it is not known.
        last_refused: The bytes that would have been reserved when the device last refused a segment.
    """

    peak_reserved_bytes: int
    retries: int
    retries_per_step: int
    out_of_memory: OutOfMemory | None
    same_from: int
    same_below: int | None
    last_refused: int | None


def capped(
    device: DeviceMemory,
    allocator: CachingAllocator | FlatDevice | FlatExpandable,
    spare: int,
    *,
    steady: Sequence[int],
    failure: OutOfMemory | None,
    unit: int = BLOCK,
) -> CappedReplay:
    """Return the outcome of a run on a device.

    Args:
        device: The device.
        allocator: Its allocator at the end of the run.
        spare: By how many bytes the device could shrink for the same load. Negative if it is too small for it.
        steady: The number of retries in each step of the steady state.
        failure: Where the run ran out of memory, or None.
        unit: The bytes in which the allocator counts.
    """
    same_from = device.capacity
    same_below: int | None = device.capacity + 1
    if spare >= 0:
        total = total_from(allocator)
        below = [other - device.outside for _, other in allocator.same_totals if other is not None]
        if allocator.least_refused is not None:
            below.append(allocator.least_refused * unit)
        same_from = max(allocator.most_mapped * unit, device.capacity - spare, total - device.outside)
        same_from = min(same_from, device.capacity)
        same_below = max(device.capacity + 1, min(below)) if below else None
    return CappedReplay(
        peak_reserved_bytes=allocator.max_reserved * unit,
        retries=allocator.retries,
        retries_per_step=max(steady, default=0),
        out_of_memory=failure,
        same_from=same_from,
        same_below=same_below,
        last_refused=allocator.last_refused * unit if allocator.last_refused is not None else None,
    )


@without_collections
def replay_within(run: Replay, device: DeviceMemory, conf: AllocConf = DEFAULT) -> CappedReplay:
    """Replay a run on a device until a step leaves the allocator in the state that an earlier step left."""
    return CappedReplays(run, conf).within(device)


class CappedReplays:
    """Replays of a run on devices of several capacities.

    With default settings, or with expandable segments alone, the devices are flat. Replays then share the stages before
    the first request that a device refuses.
    """

    def __init__(
        self, run: Replay, conf: AllocConf = DEFAULT, *, flat: bool = True, peak_reserved_bytes: int | None = None
    ) -> None:
        """Set up replays of a run.

        `peak_reserved_bytes`: the bytes that the run reserves on an unlimited device, if they are known.
        """
        self._run = run
        self._conf = conf
        flat = flat and conf in {DEFAULT, _EXPANDABLE}
        self._flat = FlatRun(run, expandable=conf.expandable_segments) if flat else None
        self._peak = peak_reserved_bytes
        #: The first stages of the run, which all replays share, and the results of other stages that replays share.
        self._shared: SharedStages | None = None
        self._stages: StageCache | None = None

    def share(self) -> None:
        """Let the replays share their first stages, and the results of later stages."""
        if self._flat is not None:
            # A reservation that only the load makes is returned before the first step.
            peak = None if self._peak == self._run.loading.most_reserved else self._peak
            self._stages = None if self._conf.expandable_segments else StageCache(self._flat.pools)
            self._shared = SharedStages(self._flat, peak, self._stages)

    def unlimited_bytes(self, device_of: Callable[[int], DeviceMemory]) -> int:
        """Return the bytes that the run needs on an unlimited device, in whole pages."""
        if self._shared is not None:
            peak, total = self._shared.peak_reserved_bytes, self._shared.total_from
            return whole_pages(max(peak, self._run.loading.warmup, total - device_of(peak).outside))
        if self._peak is None:
            unlimited, fraction = self.within(device_of(_UNLIMITED)), self._conf.per_process_memory_fraction
            if 0 < fraction < 1:
                return whole_pages(ceil(unlimited.peak_reserved_bytes / fraction))
            return whole_pages(unlimited.same_from)
        return whole_pages(max(self._peak, self._run.loading.warmup))

    def missing_bytes(self, device: DeviceMemory) -> int:
        """Return by how many bytes the device is too small for the load to request what it requests on a larger one."""
        return max(0, -self._spare(device))

    def within(self, device: DeviceMemory) -> CappedReplay:
        """Replay the run on a device."""
        run: Replay | FlatReplay
        if self._flat is None:
            run, unit = (
                self._run.for_allocator(CachingAllocator(self._conf, capacity=device.capacity, total=device.total)),
                1,
            )
        else:
            run, unit = self._flat_replay(self._flat, device), BLOCK
        retries = [0] * run.steps
        failure = None
        try:
            steady = _steady(run, retries)
        except OutOfMemoryError as error:
            steady, failure = retries[-1:], _event(run, error, device)
        spare = self._spare(device) if self._conf.per_process_memory_fraction == 1 else -1
        return capped(device, run.allocator, spare, steady=steady, failure=failure, unit=unit)

    def _flat_replay(self, flat: FlatRun, device: DeviceMemory) -> FlatReplay:
        """Return a replay on a flat device.

        It starts anew, or continues from the last state that the device shares with a larger one.
        """
        shared = self._shared.before(device) if self._shared is not None and self._spare(device) >= 0 else None
        run = shared or FlatReplay(flat)
        run.allocator.set_capacity(device.capacity, device.total)
        run.total = device.total
        run.stage_cache = self._stages
        return run

    def _spare(self, device: DeviceMemory) -> int:
        """Return by how many bytes the device could shrink before the load requests something else."""
        return self._run.loading.spare(device.total)


@without_collections
def minimum(
    run: Replay,
    live_bytes: int,
    device_of: Callable[[int], DeviceMemory],
    conf: AllocConf = DEFAULT,
    peak_reserved_bytes: int | None = None,
) -> int:
    """Return the smallest capacity of a run in bytes, found by bisection.

    The search starts between the live bytes and the bytes that the run reserves without a limit. Whether a run fits is
    not always monotonic in the capacity. The run fits at the result, and does not fit with 2 MiB less. By chance, it
    may also fit on a smaller capacity. `live_bytes` must not exceed the run's live peak. `device_of` returns the device
    for a capacity. `peak_reserved_bytes` is what the run reserves without a limit, if that is known.
    """
    replays = CappedReplays(run, conf, peak_reserved_bytes=peak_reserved_bytes)
    replays.share()
    low, high = whole_pages(live_bytes) - SMALL_SEGMENT, replays.unlimited_bytes(device_of)
    missing = replays.missing_bytes(device_of(high))
    if missing and replays.within(device_of(high)).out_of_memory:
        low, high = high, whole_pages(high + missing)
    return _smallest_capacity(lambda capacity: replays.within(device_of(capacity)), low, high)


def _smallest_capacity(replay: Callable[[int], CappedReplay], low: int, high: int) -> int:
    """Return the smallest capacity that does not fail, to a page of 2 MiB.

    `low` fails, and `high` does not. A failed replay gives the capacity on which its last refusal would not have
    occurred. That capacity is tried next (a larger one if such steps are small), then one page less. If this does not
    help, the middle is tried.
    """
    wanted: set[int] = set()
    guess, at_most, step = low, high - SMALL_SEGMENT, SMALL_SEGMENT
    while high - low > SMALL_SEGMENT:
        guessed = low < guess < high
        capacity = guess if guessed else whole_pages((low + high) // 2)
        result = replay(capacity)
        if result.out_of_memory is None:
            high = min(capacity, whole_pages(result.same_from))
            guess, at_most = high - SMALL_SEGMENT if capacity in wanted else low, high
            continue
        step = 2 * step if guessed else SMALL_SEGMENT
        want = max(whole_pages(result.last_refused or 0), capacity + step)
        low = capacity
        if result.same_below is not None:
            low = max(capacity, min(whole_pages(result.same_below), high) - SMALL_SEGMENT)
        guess = low if want in wanted else min(want, at_most)
        wanted.add(want)
    return high


def _steady(run: Replay | FlatReplay, retries: list[int]) -> list[int]:
    """Run until a step reserves nothing more, or repeats an earlier step.

    Return the retries of the steps that repeat.
    """
    if run.phase == "load":
        run.load()
    layouts: list[object] = []
    while True:
        before = run.allocator.retries
        reserved = run.begun if isinstance(run, FlatReplay) and run.stage else run.allocator.reserved
        run.step()
        retries.append(run.allocator.retries - before)
        if run.steps >= 2 and not retries[-1] and run.allocator.reserved <= reserved:
            return retries[-1:]
        if any(retries):
            layouts.append(run.layout() if isinstance(run, FlatReplay) else layout(run))
            if layouts[-1] in layouts[:-1]:
                return retries[len(retries) - (len(layouts) - 1 - layouts.index(layouts[-1])) :]
        if run.steps == MAX_STEPS:
            return retries[-1:]


def layout(run: Replay) -> list[list[list[tuple[object, int]]]]:
    """Return the state that the next step's requests depend on: the segments of each pool in order, and their blocks.

    The next step begins by freeing all gradients, so gradients count as free. Blocks that it frees later are marked as
    `left`.
    """
    kinds: dict[int, str] = {id(block): "left" for _, block in run.left}
    kinds |= {id(block): "free" for _, block in run.gradients}
    return [[_parts_of_segment(chain, kinds) for chain in pool.chains()] for pool in run.allocator.every_pool()]


def _parts_of_segment(chain: list[Block], kinds: Mapping[int, str]) -> list[tuple[object, int]]:
    """Return the parts of a segment by kind and size.

    Adjacent blocks of one kind are one part, except blocks in `left`.
    """
    runs: list[tuple[object, int]] = []
    for block in chain:
        kind = "free" if block.is_free else kinds.get(id(block), type(block))
        if kind != "left" and runs and runs[-1][0] == kind:
            runs[-1] = (kind, runs[-1][1] + block.size)
        else:
            runs.append((kind, block.size))
    return runs


def _event(run: Replay | FlatReplay, error: OutOfMemoryError, device: DeviceMemory) -> OutOfMemory:
    return OutOfMemory(
        step=run.steps + 1 if run.phase != "load" else 0,
        phase="optimizer_step" if error.tensor in OF_UPDATE else run.phase,
        tensor=error.tensor,
        requested_bytes=error.requested,
        message=error.message(device),
    )
