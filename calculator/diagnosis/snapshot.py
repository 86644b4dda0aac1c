"""A snapshot of PyTorch's allocator: its blocks, and what its history contains.

Source: torch/cuda/memory.py of PyTorch, _snapshot, for the fields. A snapshot without history only has its blocks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from calculator.allocator.out_of_memory import format_size
from calculator.allocator.segments import segment_bytes
from calculator.common.dtype import rounded
from calculator.common.errors import PlanError, refusal
from calculator.diagnosis.message import Message, RoundedSize
from calculator.diagnosis.plain_pickle import LOC, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: The maximum number of blocks and events that are read.
MOST = 4_000_000

#: The number of points of a snapshot's line over its history.
POINTS = 200

_NO_SNAPSHOT = "the pickle is no snapshot of torch.cuda.memory._dump_snapshot()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The part of a snapshot that belongs to one device.

    Attributes:
        device: Its number.
        blocks: The number of blocks in use of each size, as requested and rounded to 512 bytes.
        allocated_bytes: The bytes of blocks in use.
        reserved_bytes: The bytes of segments.
        line: The bytes in use over its history: the maximum in each of up to 200 parts. Empty without history.
        failed_bytes: The request that failed, if the history has one.
        free_bytes: The free bytes of the device at that request.
    """

    device: int
    blocks: Counter[int]
    allocated_bytes: int
    reserved_bytes: int
    line: tuple[int, ...]
    failed_bytes: int | None
    free_bytes: int

    def message(self) -> Message:
        """Return the out-of-memory message of the request that failed.

        Raises:
            PlanError: if the history has none.
        """
        if self.failed_bytes is None:
            message = (
                "the snapshot records no request that failed: give the text of the error as message too, or call"
                " torch.cuda.memory._record_memory_history() before the run"
            )
            raise refusal(LOC, message)
        segment = segment_bytes(rounded(self.failed_bytes))
        return Message(
            requested=_exact(segment),
            gpu=self.device,
            total=_exact(self.reserved_bytes + self.free_bytes),
            free=_exact(self.free_bytes),
            allocated=_exact(self.allocated_bytes),
            unallocated=_exact(self.reserved_bytes - self.allocated_bytes),
            in_use=None,
            allowed=None,
            found=1,
        )


def _exact(size: int) -> RoundedSize:
    return RoundedSize(text=format_size(size), bytes=size, rounding=0)


def read_snapshot(raw: bytes) -> Snapshot:
    """Read a pickled snapshot, and return its device that reserves the most.

    Raises:
        PlanError: if the pickle holds more than plain values, or is no snapshot.
    """
    value = plain(raw)
    try:
        segments = value["segments"]
        devices = Counter[int]()
        for segment in segments:
            devices[_int(segment.get("device", 0))] += _int(segment["total_size"])
        if not devices:
            raise refusal(LOC, "the snapshot has no segments: nothing was allocated on a GPU")
        device = max(devices, key=lambda number: devices[number])
        return _device_snapshot(value, device, devices[device])
    except PlanError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise refusal(LOC, f"{_NO_SNAPSHOT}: a field is missing or of another type ({error})") from error


def _device_snapshot(value: dict[str, Any], device: int, reserved: int) -> Snapshot:
    blocks: Counter[int] = Counter()
    allocated = 0
    for block in _blocks(value["segments"], device):
        if block["state"] != "inactive":
            size = _int(block["size"])
            allocated += size
            blocks[min(size, rounded(_int(block.get("requested_size", size))))] += 1
    traces = value.get("device_traces") or []
    trace = traces[device] if device < len(traces) else []
    if len(trace) > MOST:
        raise _too_long()
    failed = [event for event in trace if event["action"] == "oom"]
    return Snapshot(
        device=device,
        blocks=blocks,
        allocated_bytes=allocated,
        reserved_bytes=reserved,
        line=_line(trace, allocated),
        failed_bytes=_int(failed[-1]["size"]) if failed else None,
        free_bytes=_int(failed[-1].get("device_free", 0)) if failed else 0,
    )


def _blocks(segments: Iterable[Any], device: int) -> Iterator[Any]:
    count = 0
    for segment in segments:
        if segment.get("device", 0) == device:
            count += len(segment["blocks"])
            if count > MOST:
                raise _too_long()
            yield from segment["blocks"]


def _too_long() -> PlanError:
    return refusal(LOC, f"the snapshot has more than {MOST:,} blocks or events: record a shorter history")


def _line(trace: list[Any], allocated: int) -> tuple[int, ...]:
    """Return the bytes in use over a history that ends with `allocated`."""
    steps = [
        _int(event["size"]) * (1 if event["action"] == "alloc" else -1)
        for event in trace
        if event["action"] in ("alloc", "free_completed")
    ]
    current = allocated - sum(steps)
    sizes = []
    for step in steps:
        current += step
        sizes.append(current)
    width = -(-len(sizes) // POINTS)
    return tuple(max(sizes[start : start + width]) for start in range(0, len(sizes), width)) if sizes else ()


def _int(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"a {type(value).__name__} is no size")
    if not 0 <= value < 1 << 62:
        raise ValueError(f"{value} is no size")
    return value
