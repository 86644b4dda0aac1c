"""Compare the calculator's caching allocator with PyTorch's own for random requests, on a stub of the CUDA runtime.

Each stream of requests runs with random settings of PYTORCH_CUDA_ALLOC_CONF, on up to three streams, on a device that
may be too small. The two must agree on the bytes reserved after each event, on the retries, and on the request that
fails, with the text of its error.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.out_of_memory import DeviceMemory, OutOfMemoryError
from validation.stub_gpu.process import add_arguments, run_on_stub
from validation.stub_gpu.request_stream import KINDS, Event, Kind, RequestStream, request_stream

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from calculator.allocator.alloc_conf import AllocConf

#: Settings that undo those of an earlier stream in the same process.
_UNDO = {"expandable_segments": "False", "roundup_power2_divisions": "1"}
#: The start of the advice in the text of an error, which differs between releases.
_ADVICE = " If reserved but"


class Outcome(NamedTuple):
    """The bytes reserved after each event, the retries, and the text of the error that ended the stream."""

    reserved: tuple[int, ...]
    most_reserved: int
    retries: int
    error: str | None


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_arguments(parser, required=True)
    parser.add_argument("--seed", type=int, default=0, help="the seed of the first stream (0)")
    parser.add_argument("--count", type=int, default=100, help="the number of streams of each kind of settings (100)")
    parser.add_argument("--kind", choices=get_args(Kind), help="only this kind of settings, in a process on the stub")


def run(args: argparse.Namespace) -> int:
    """Compare the allocators; returns 1 if a stream differs, 2 if there can be no stub."""
    if args.kind is None:
        given = ["allocator", "--stub-gpu", args.stub_gpu, "--seed", str(args.seed), "--count", str(args.count)]
        differing = 0
        for kind in KINDS:
            status = run_on_stub(args, [*given, "--kind", kind])
            if status > 1:
                return status
            differing = max(differing, status)
        return differing
    return _compare(args.kind, range(args.seed, args.seed + args.count))


def _compare(kind: Kind, seeds: Sequence[int]) -> int:
    import torch  # noqa: PLC0415  (takes seconds to import)

    torch.cuda.init()
    free, total = torch.cuda.mem_get_info(0)
    context = total - free

    def needed(events: tuple[Event, ...], conf: AllocConf) -> int:
        return played(
            events, CachingAllocator(conf), DeviceMemory(capacity=free, total=total, context=context)
        ).most_reserved

    ends: Counter[str] = Counter()
    differing = 0
    for seed in seeds:
        stream = request_stream(seed, kind, free, needed)
        device = DeviceMemory(capacity=stream.capacity, total=total, context=context)
        allocator = CachingAllocator(stream.conf, capacity=stream.capacity, total=total)
        ours, theirs = played(stream.events, allocator, device), played_by_torch(stream, free)
        ends["out of memory" if theirs.error else "with retries" if theirs.retries else "without retries"] += 1
        if ours != theirs:
            differing += 1
            print(f"seed {seed}, {stream.settings or 'default settings'}: {_difference(ours, theirs)}")
    ended = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
    print(f"torch {torch.__version__}, {kind}: {len(seeds) - differing} of {len(seeds)} streams agree ({ended})")
    return int(differing > 0)


def played(events: tuple[Event, ...], allocator: CachingAllocator, device: DeviceMemory) -> Outcome:
    """Play a stream in the calculator's allocator."""
    live: dict[int, Any] = {}
    reserved: list[int] = []
    error: str | None = None
    for event in events:
        if event.size:
            try:
                live[event.row] = allocator.allocate(event.size, event.stream)
            except OutOfMemoryError as raised:
                error = raised.message(device)
                break
        else:
            pool, block = live.pop(event.row)
            pool.free(block)
        reserved.append(allocator.reserved)
    return Outcome(tuple(reserved), allocator.max_reserved, allocator.retries, _without_advice(error))


def played_by_torch(stream: RequestStream, free: int) -> Outcome:
    """Play a stream in PyTorch's allocator, on a device of which `free` bytes are free without other processes."""
    import torch  # noqa: PLC0415

    cuda, fraction = torch.cuda, stream.conf.per_process_memory_fraction
    set_others = ctypes.CDLL(None).stub_gpu_set_others
    set_others(ctypes.c_uint64(free - stream.capacity))
    _set(stream.settings)
    if fraction < 1:
        cuda.set_per_process_memory_fraction(fraction, 0)
    cuda.reset_peak_memory_stats(0)
    before = cuda.memory_stats(0).get("num_alloc_retries", 0)
    streams = [cuda.default_stream(0), *(cuda.Stream(0) for _ in range(stream.streams - 1))]
    live: dict[int, int] = {}
    reserved: list[int] = []
    error: str | None = None
    for event in stream.events:
        if event.size:
            try:
                live[event.row] = cuda.caching_allocator_alloc(event.size, 0, streams[event.stream])
            except torch.OutOfMemoryError as raised:
                error = str(raised)
                break
        else:
            cuda.caching_allocator_delete(live.pop(event.row))
        reserved.append(cuda.memory_reserved(0))
    stats = cuda.memory_stats(0)
    for pointer in live.values():
        cuda.caching_allocator_delete(pointer)
    cuda.empty_cache()
    set_others(ctypes.c_uint64(0))
    retries = stats["num_alloc_retries"] - before
    return Outcome(tuple(reserved), stats["reserved_bytes.all.peak"], retries, _without_advice(error))


def _set(settings: str) -> None:
    """Set the allocator of the process."""
    from validation.measure.meter import set_allocator  # noqa: PLC0415  (imports torch)

    named = [f"{key}:{value}" for key, value in _UNDO.items() if key not in settings]
    text = ",".join([*named, settings] if settings else named)
    set_allocator(text)


def _without_advice(error: str | None) -> str | None:
    return None if error is None else error.split(_ADVICE)[0].split(" expandable_segments is")[0]


def _difference(ours: Outcome, theirs: Outcome) -> str:
    """Return where two outcomes differ first."""
    pairs = zip(ours.reserved, theirs.reserved, strict=False)
    at = next((n for n, (own, other) in enumerate(pairs) if own != other), None)
    if at is not None:
        return f"event {at} leaves {ours.reserved[at]:,} bytes reserved here and {theirs.reserved[at]:,} in PyTorch"
    if len(ours.reserved) != len(theirs.reserved):
        return f"{len(ours.reserved)} events are served here and {len(theirs.reserved)} in PyTorch"
    return f"{ours[1:]} here and {theirs[1:]} in PyTorch"
