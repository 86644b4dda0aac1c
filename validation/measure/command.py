"""Measure real layers and training steps on a device and compare them with the calculator.

Layers are bitsandbytes' 4-bit layers, PEFT's LoRA, bottleneck adapters, prefixes and prompts at real sizes. Steps are
whole models, which a GPU loads from checkpoints of zeros; nothing is downloaded. A GPU also runs verdicts, with the
process's memory capped above, close to and below the prediction, histories of micro-batches that differ in length, the
`train()` of real trainers, one rank's steps of runs on several GPUs, whose other ranks are missing, what loads and the
steps after them reserve, and `generate`. On the CPU only storages are compared, because it has no caching allocator to
read peaks from.

With --stub-gpu, no GPU is needed: PyTorch's CUDA code runs on a stub of the CUDA runtime (see `stub_gpu`).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validation.cli.progress import Progress
from validation.stub_gpu.process import add_arguments, run_on_stub
from validation.tracing.silence import silence_libraries

if TYPE_CHECKING:
    import argparse

    from validation.measure.agenda import Entry
    from validation.measure.results import Results


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--device", default=None, help="cuda, cuda:1 or cpu (default: cuda if available)")
    add_arguments(parser)
    parser.add_argument(
        "--quick", action="store_true", help="measure one layer size and one small model, with every method"
    )
    parser.add_argument("--seed", type=int, help="measure random steps of this seed only, on a GPU or a stub")
    parser.add_argument("--count", type=int, default=20, help="how many random steps to draw (20)")
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="start no case after this many minutes")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="SECTION",
        choices=("layers", "steps", "verdicts", "histories", "trainers", "sharded", "loads", "served"),
        default=None,
    )
    parser.add_argument("--match", default="", metavar="TEXT", help="only cases whose name contains this text")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("build/measured.json"),
        help="the results file to write, and to resume from",
    )


def run(args: argparse.Namespace) -> int:
    """Measure the missing cases; returns 1 if a storage or verdict differs from the prediction, 2 on wrong usage."""
    if args.stub_gpu is not None:
        return _on_stub(args)
    silence_libraries()
    import torch  # noqa: PLC0415  (takes seconds to import)

    from validation.measure.agenda import SECTIONS, agenda, random_agenda  # noqa: PLC0415
    from validation.measure.environment import environment, machine  # noqa: PLC0415
    from validation.measure.report import summary  # noqa: PLC0415
    from validation.measure.results import AnotherEnvironmentError, Results  # noqa: PLC0415

    name = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        print(f"--device {name}: torch {torch.__version__} sees no CUDA device; use --device cpu", file=sys.stderr)
        return 2
    device = torch.device("cuda:0" if name == "cuda" else name)
    described = environment(device)
    try:
        results = Results(args.results, described, SECTIONS)
    except AnotherEnvironmentError as error:
        print(f"--results: {error}", file=sys.stderr)
        return 2
    if args.seed is None:
        drawn = agenda(device, machine(described), quick=args.quick)
    else:
        drawn = random_agenda(args.seed, args.count, device, machine(described))
    entries = [entry for entry in drawn if entry.section in (args.only or SECTIONS) and args.match in entry.name]
    results.write()
    left = _measure(entries, results, args.budget)
    print("\n".join(summary(results)))
    if left:
        print(f"{left} cases are left when the time is up; run the same command to continue")
    print(f"written to {args.results}")
    return int(not _as_predicted(results))


def _on_stub(args: argparse.Namespace) -> int:
    """Run this command again on a stub."""
    command = ["measure", "--device", "cuda", "--results", str(args.results), "--match", args.match]
    command += ["--quick"] if args.quick else []
    command += ["--budget", str(args.budget)] if args.budget is not None else []
    command += ["--seed", str(args.seed), "--count", str(args.count)] if args.seed is not None else []
    return run_on_stub(args, [*command, "--only", *args.only] if args.only else command)


def _measure(entries: list[Entry], results: Results, budget: float | None) -> int:
    """Measure until the time is up; returns the number of cases left."""
    from validation.measure.report import LINES  # noqa: PLC0415

    start = time.monotonic()
    todo = [entry for entry in entries if (entry.section, entry.name) not in results]
    progress = Progress(len(todo), "cases")
    for done, entry in enumerate(todo):
        if budget is not None and time.monotonic() - start > budget * 60:
            progress.close()
            return len(todo) - done
        row: dict[str, Any] = {"name": entry.name, **entry.measure()}
        results.add(entry.section, row)
        progress.close()
        print(f"{entry.section:8} {LINES[entry.section](row)}", flush=True)
        progress.step()
    progress.close()
    return 0


def _as_predicted(results: Results) -> bool:
    """Return whether every measured storage and verdict is as predicted."""
    moments = (moment for row in results.rows("layers") for moment in row["moments"].values())
    storages = all(moment["measured"]["allocated"] == moment["predicted"]["allocated"] for moment in moments)
    runs = (run for row in results.rows("verdicts") for run in row["runs"])
    return storages and all(run["should_run"] == run["ran"] for run in runs)
