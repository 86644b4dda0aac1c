"""The memory of a peak with its overheads, and the verdict on a GPU."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING

from calculator.allocator.reserved_rule import fragmentation, whole_segments
from calculator.common.deferred import Deferred
from calculator.common.total import total_bytes
from calculator.devices import cuda_context, fit, library_workspace
from calculator.devices.verdict import card_of
from calculator.estimation.answer import Memory, Phase, Row, Timeline
from calculator.estimation.history_replay import HistoryReplay
from calculator.inputs.stack import DEFAULT_STACK

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.common.names import PhaseName
    from calculator.common.sourced import Sourced
    from calculator.devices import Fit
    from calculator.devices.colocated_engine import ColocatedEngine
    from calculator.estimation.answer import Component
    from calculator.estimation.device_replay import DeviceReplay
    from calculator.estimation.request import Request
    from calculator.inputs.stack import StackVersions


def memory_and_fit(
    request: Request,
    parts: tuple[Component, ...],
    listed: Callable[[], tuple[Phase, ...]],
    peak: tuple[PhaseName, str],
    reserved: int | None = None,
    line: Callable[[], Timeline] = Timeline.from_moments,
    replay: DeviceReplay | None = None,
    colocated: ColocatedEngine | None = None,
    unsharded: Callable[[int], int] | None = None,
    stack: StackVersions = DEFAULT_STACK,
) -> tuple[Memory, Fit | None]:
    """Return the memory of a peak with its overheads, and the verdict on a GPU.

    `listed` returns the phases, and `peak` is the phase and the operation of the peak. The GPU may also run a
    `colocated` engine. Without `reserved`, allocated memory is rounded up to whole segments. `replay` is the run, for a
    replay on the device. `unsharded` returns the bytes that a GPU needs with any number of GPUs, from those of
    workspaces and context. `stack` decides whether threads keep workspaces.
    """
    card = card_of(request.device)
    workspaces, context = library_workspace(card, stack), cuda_context(card)
    allocated = total_bytes(parts)
    workspace = total_bytes(workspaces)
    if reserved is None:
        reserved = whole_segments(allocated + workspace)
    memory = Memory(
        components=parts,
        listed=listed,
        peak_phase=peak[0],
        peak_operation=peak[1],
        line=line,
        peak_allocated_bytes=allocated,
        library_workspace_bytes=workspace,
        peak_reserved_bytes=reserved,
        required_bytes=reserved + context.bytes,
        listed_overheads=Deferred(partial(_overheads, workspaces, context, reserved, allocated + workspace)),
        history=replay.history if isinstance(replay, HistoryReplay) else None,
        replay=replay,
        colocated=colocated,
        unsharded=unsharded,
    )
    verdict = fit(
        request.device,
        peak_allocated_bytes=allocated,
        library_workspace_bytes=workspace,
        peak_reserved_bytes=reserved,
        context_bytes=context.bytes,
        required_bytes=memory.required_bytes,
        replayed=replay.outcome if replay else None,
        colocated=colocated,
        unsharded=partial(unsharded, workspace + context.bytes) if unsharded else None,
    )
    return memory, verdict


def _overheads(workspaces: tuple[Sourced, ...], context: Sourced, reserved: int, allocated: int) -> tuple[Row, ...]:
    return tuple(map(overhead_row, (*workspaces, fragmentation(reserved, allocated), context)))


@lru_cache(maxsize=256)
def overhead_row(part: Sourced) -> Row:
    """Return a row for an overhead that is not a tensor. The overheads of a GPU are the same in all answers."""
    return Row.build(name=part.name, count=1, bytes=part.bytes, shape=None, dtype="", source=part.source)
