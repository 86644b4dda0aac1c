"""Replay traced cases in two ways, and try the smallest device that an answer states for each.

Each case is answered with its reserved memory by replay, whatever its request says. The fast replay reserves what the
plain one does, event by event. On the capacity of `fit.minimum_bytes` the plain replay runs, and on 2 MiB less it ends
out of memory. Prints a line for each case that differs or is refused; exits with 1 if one differs or ends in an error.
"""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.capacity import CappedReplays
from calculator.allocator.fast_replay import peak_reserved
from calculator.allocator.out_of_memory import DeviceMemory
from calculator.allocator.replay import Replay, full_peak_reserved
from calculator.allocator.segments import SMALL_SEGMENT
from calculator.common.errors import PlanError
from calculator.estimation.device_replay import DeviceReplay
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from validation.cli.files import read_lines

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

#: How a refusal begins: some traced requests are refused.
_REFUSED = "refused"
#: The device of a request that names none.
GPU = "h100-sxm5-80gb"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("paths", nargs="*", default=["tests/cases"], help="files of cases, or folders of such files")
    parser.add_argument("--count", type=int, default=0, help="the number of random cases (all)")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the draw")


def run(args: argparse.Namespace) -> int:
    """Check the cases and print a line for each that differs; returns 1 if one does."""
    cases = drawn([*named_cases(map(Path, args.paths))], args.count, args.seed)
    start, differences = time.perf_counter(), 0
    for name, request in cases:
        error = difference(request)
        differences += bool(error) and not error.startswith(_REFUSED)
        if error:
            print(f"{name}: {error}", flush=True)
    print(f"{len(cases)} cases, {differences} differ, {time.perf_counter() - start:.0f} s")
    return int(differences > 0)


def named_cases(paths: Iterable[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the request of every answered case in files of JSON lines, or in all such files of folders."""
    for path in paths:
        for file in sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]:
            for number, case in enumerate(read_lines(str(file)), 1):
                if "refused" not in case.get("expected", {}):
                    yield f"{file.name} {case.get('id', number)}", case["request"]


def drawn(cases: list[Any], count: int, seed: int) -> list[Any]:
    """Draw `count` cases at random and return them in order; all if `count` is 0."""
    return (
        [cases[n] for n in sorted(Random(seed).sample(range(len(cases)), min(count, len(cases))))] if count else cases
    )


def replayed(body: dict[str, Any]) -> dict[str, Any]:
    """Return a training request whose reserved memory is replayed, on a device."""
    return {key: value for key, value in body.items() if key not in {"reserved", "run"}} | {
        "device": {"gpu": GPU} | body.get("device", {})
    }


def difference(body: dict[str, Any]) -> str:
    """Return how a case's replays differ, or why it has no answer; empty if they agree, or the case is not replayed."""
    try:
        replay = estimate(parse_request(replayed(body)), SeriesCache()).memory.replay
    except PlanError as error:
        return f"{_REFUSED}: {error}"
    except Exception as error:  # noqa: BLE001  (any error of a case is a finding)
        return f"{type(error).__name__}: {error}"
    if type(replay) is not DeviceReplay:
        return ""
    fast = peak_reserved(replay.resident, replay.workspaces)
    plain = full_peak_reserved(replay.resident, replay.workspaces)
    return f"the fast replay reserves {fast - plain:+,} bytes" if fast != plain else _minimum_error(replay)


def _minimum_error(replay: DeviceReplay) -> str:
    """Return a sentence about an error of the smallest device of a run, or nothing."""
    least = replay.outcome(1 << 60).minimum_bytes() - replay.context_bytes
    run = Replay(CachingAllocator(), replay.resident, replay.workspaces)
    replays = CappedReplays(run, replay.conf, flat=False)
    for capacity, runs in ((least, True), (least - SMALL_SEGMENT, False)):
        device = DeviceMemory(capacity=capacity, total=capacity + replay.context_bytes, context=replay.context_bytes)
        if (replays.within(device).out_of_memory is None) != runs:
            return f"{'ends out of memory' if runs else 'runs'} on {capacity:,} bytes; the minimum is {least:,}"
    return ""
