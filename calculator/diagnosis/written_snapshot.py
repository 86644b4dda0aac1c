"""A snapshot of the replayed run in PyTorch's format, for pytorch.org/memory_viz.

Source: torch/cuda/memory.py of PyTorch, _snapshot, for the fields.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.out_of_memory import OutOfMemoryError
from calculator.diagnosis.journal import STEPS, RecordedReplay

if TYPE_CHECKING:
    from calculator.allocator.block_pool import Block
    from calculator.estimation.device_replay import DeviceReplay

#: The file name in the frames of a snapshot, because the tensors belong to no line of code.
FILE = "headroom"


def written(replay: DeviceReplay, capacity: int, total: int) -> bytes:
    """Return the pickled snapshot of a run on a device: when it runs out of memory, or after its second step."""
    run = RecordedReplay(replay, CachingAllocator(replay.conf, capacity=capacity, total=total))
    failed = None
    try:
        run.load()
        for _ in range(STEPS):
            run.step()
    except OutOfMemoryError as error:
        failed = {"action": "oom", "device_free": error.free, "size": error.requested, "stream": 0, "frames": []}
    return pickle.dumps(_snapshot(run, failed), protocol=4)


def _snapshot(run: RecordedReplay, failed: dict[str, Any] | None) -> dict[str, Any]:
    segments = [
        _segment(run, chain, kind, stream)
        for stream in run.allocator.streams
        for pool, kind in zip(run.allocator.pools(stream), ("small", "large"), strict=True)
        for chain in pool.chains()
    ]
    trace = [_event(run, event) for event in run.journal.log]
    return {"segments": segments, "device_traces": [[*trace, failed] if failed else trace]}


def _segment(run: RecordedReplay, chain: list[Block], kind: str, stream: int) -> dict[str, Any]:
    blocks = [_block(run, block) for block in chain]
    used = sum(block["size"] for block in blocks if block["state"] != "inactive")
    return {
        "device": 0,
        "address": chain[0].address,
        "total_size": sum(block.size for block in chain),
        "allocated_size": used,
        "active_size": used,
        "requested_size": sum(block["requested_size"] for block in blocks if block["state"] != "inactive"),
        "stream": stream,
        "segment_type": kind,
        "segment_pool_id": (0, 0),
        "is_expandable": run.allocator.conf.expandable_segments,
        "frames": [],
        "blocks": blocks,
    }


def _block(run: RecordedReplay, block: Block) -> dict[str, Any]:
    number = run.journal.owners.get(id(block))
    frames = [] if number is None else _frames(run, number)
    return {
        "address": block.address,
        "size": block.size,
        "requested_size": block.size if number is None else run.journal.requests[number].size,
        "state": "inactive" if number is None else "active_allocated",
        "frames": frames,
    }


def _event(run: RecordedReplay, event: int) -> dict[str, Any]:
    number = max(event, ~event)
    return {
        "action": "alloc" if event >= 0 else "free_completed",
        "addr": run.journal.addresses[number],
        "size": run.journal.sizes[number],
        "stream": run.journal.streams[number],
        "frames": _frames(run, number) if event >= 0 else [],
    }


def _frames(run: RecordedReplay, number: int) -> list[dict[str, Any]]:
    return [{"filename": FILE, "line": 0, "name": run.journal.requests[number].kind.name}]
