"""Run sharded requests on real processes on the CPU (gloo) and compare each rank with its trace on the fake group.

Attention kernels are emulated there too and return no values, so that DeepSpeed finds an overflow and skips the step: a
request for ZeRO needs attention eager. Numbers of up to 8 bytes are left out on both sides: the optimizers keep their
step counts on the CPU.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from contextlib import ExitStack, contextmanager
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol

from calculator.estimation.sharded_request import parse_sharded_request
from validation.cli.files import read_request
from validation.sharding.streams import Streams
from validation.sharding.trace import trace, trace_in_group
from validation.tracing.silence import silence_libraries

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from calculator.estimation.sharded_request import ShardedRequest
    from validation.tracing.trace import Trace

#: Storages of up to this many bytes hold one number.
NUMBER = 8

#: Collectives that the libraries call from Python. FSDP2 calls those that end in `single` in PyTorch 2.13.
COLLECTIVES = (
    *("all_gather_into_tensor", "reduce_scatter_tensor", "all_reduce"),
    *(name for name in ("all_gather_single", "reduce_scatter_single") if hasattr(dist, name)),
)

#: How often each request is run. What a thread of gloo frees late adds to a peak, so that the least one counts.
RUNS = 3

#: The most seconds to wait until a thread of gloo frees the tensors of a finished collective. `wait` may return before
#: that (ProcessGroupGloo::runLoop drops its work after it has marked it as done).
RELEASE_SECONDS = 0.2

#: The references to the storage of a single tensor: its own, and that of the object that counts them.
OWN_REFERENCES = 2


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("requests", nargs="+", help="files of requests with device.count and device.sharding")


def run(args: argparse.Namespace) -> int:
    """Run, compare and print; returns 1 if a rank's bytes differ."""
    silence_libraries()
    results = compared([read_request(name) for name in args.requests])
    for name, ranks in zip(args.requests, results, strict=True):
        for rank, (real, fake) in enumerate(ranks):
            for phase, peak in real.items():
                difference = fake[phase] - peak
                print(f"{name}, rank {rank}, {phase}: {peak:,} in a process, {fake[phase]:,} traced, {difference:+,}")
    return int(any(real != fake for ranks in results for real, fake in ranks))


def compared(bodies: list[Any]) -> list[list[tuple[dict[str, int], dict[str, int]]]]:
    """For each request, each rank's peaks by phase in its process and in its trace, and what is alive before the step.

    The processes are forks of this one, which must not have run a backward pass: autograd refuses to run in forks then.

    Raises:
        PlanError: if the libraries refuse a request.
    """
    torch.set_num_threads(1)
    requests = [parse_sharded_request(body) for body in bodies]
    real = [[_peaks_by_rank(request) for _ in range(RUNS)] for request in requests]
    fake = [[peaks(trace(request, rank)) for rank in range(request.sharding.count)] for request in requests]
    return [list(zip(map(_smallest_peaks, *runs), ranks, strict=True)) for runs, ranks in zip(real, fake, strict=True)]


def _smallest_peaks(*runs: dict[str, int]) -> dict[str, int]:
    """Return the least peak of each phase of a rank."""
    return {phase: min(run[phase] for run in runs) for phase in runs[0]}


def _peaks_by_rank(sharded: ShardedRequest) -> list[dict[str, int]]:
    """Return the peaks of each rank, each run in its process."""
    context, count = multiprocessing.get_context("fork"), sharded.sharding.count
    with tempfile.TemporaryDirectory() as folder:
        processes = [context.Process(target=_run_rank, args=(sharded, rank, folder)) for rank in range(count)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise RuntimeError("a process failed; its message is above")
        return [json.loads((Path(folder) / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(count)]


def _run_rank(sharded: ShardedRequest, rank: int, folder: str) -> None:
    """Trace one rank in this process, and write its peaks to a file of the folder."""
    store = dist.FileStore(f"{folder}/store", sharded.sharding.count)
    dist.init_process_group("gloo", rank=rank, world_size=sharded.sharding.count, store=store)
    try:
        with _released_collectives():
            rank_peaks = peaks(trace_in_group(sharded, torch.device("cpu"), Streams()))
    finally:
        dist.destroy_process_group()
    (Path(folder) / f"{rank}.json").write_text(json.dumps(rank_peaks), encoding="utf-8")


@contextmanager
def _released_collectives() -> Iterator[None]:
    """Let each collective free its tensors before the step goes on, as a stream would."""

    def released(collective: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(collective)
        def run(*args: Any, **options: Any) -> Any:
            tensors = [arg for arg in (*args, *options.values()) if isinstance(arg, torch.Tensor)]
            before = _references(tensors)
            work = collective(*args, **options)
            if work is None:
                _await(tensors, before)
            return work

        return run

    def waited(tensor: torch.Tensor) -> Any:
        result = wait_tensor(tensor)
        _await([tensor], OWN_REFERENCES)
        return result

    wait_tensor = funcol.wait_tensor
    with ExitStack() as stack:
        stack.enter_context(patch.object(funcol, "wait_tensor", waited))
        for name in COLLECTIVES:
            stack.enter_context(patch.object(dist, name, released(getattr(dist, name))))
        yield


def _await(tensors: list[torch.Tensor], references: int) -> None:
    """Wait until the storages of some tensors have no more than a number of references, but not for long."""
    until = time.monotonic() + RELEASE_SECONDS
    while _references(tensors) > references and time.monotonic() < until:
        time.sleep(0.001)


def _references(tensors: list[torch.Tensor]) -> int:
    """Return the number of tensors, of Python or of a thread of gloo, that share the storages of these."""
    return sum(torch._C._storage_Use_Count(tensor.untyped_storage()._cdata) for tensor in tensors)


def peaks(traced: Trace) -> dict[str, int]:
    """Return the most bytes alive in each phase and before the step (`resident`), without single numbers."""
    ledger, by_phase = traced.ledger, {"resident": 0}
    sizes = [storage.bytes if storage.nbytes > NUMBER else 0 for storage in ledger.storages]
    starts = [*ledger.phase_starts, (len(ledger.events), "end")]
    live = sum(sizes[number] for number in ledger.events[: starts[0][0]])
    by_phase["resident"] = live
    for (start, phase), (end, _) in pairwise(starts):
        by_phase[phase] = max(by_phase.get(phase, 0), live)
        for event in ledger.events[start:end]:
            live += sizes[event] if event >= 0 else -sizes[~event]
            by_phase[phase] = max(by_phase[phase], live)
    return by_phase
