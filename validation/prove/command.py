"""Test the lesson's claims on real modules, print whether each holds, and write the results file.

Everything runs on a GPU if there is one, otherwise on the CPU. Seeds are fixed, so another run gives the same figures,
except for timings. Without a NAME every experiment runs; with one, the other experiments in the file are kept.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validation.prove.results import RESULTS, AnotherEnvironmentError, document, recorded, write
from validation.tracing.silence import silence_libraries

if TYPE_CHECKING:
    import argparse

    import torch


class UsageError(Exception):
    """An argument names something that does not exist."""


#: The experiments, in the lesson's order.
NAMES: tuple[str, ...] = ("identity", "merging", "nf4", "intrinsic", "overhead", "savings")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"experiments to run, of: {', '.join(NAMES)}")
    parser.add_argument("--device", default=None, help="cuda, cuda:1 or cpu (default: cuda if available)")
    parser.add_argument("--quick", action="store_true", help="run small versions, in seconds, and write nothing")
    parser.add_argument("--threads", type=int, default=1, help="the number of PyTorch's CPU threads (1)")
    parser.add_argument(
        "--write",
        type=Path,
        default=None,
        metavar="FILE",
        help=f"the results file to write ({RESULTS}; none with --quick)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the experiments; returns 2 on wrong usage. A claim that does not hold is a finding, not a failure."""
    silence_libraries()
    import torch  # noqa: PLC0415  (takes seconds to import)

    from validation.prove.environment import environment  # noqa: PLC0415

    threads = torch.get_num_threads()
    try:
        device = _device(args)
        torch.set_num_threads(args.threads)
        return _run(args, device, environment(device))
    except (UsageError, AnotherEnvironmentError) as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        torch.set_num_threads(threads)


def _device(args: argparse.Namespace) -> torch.device:
    """Return the requested device, after all arguments are checked."""
    import torch  # noqa: PLC0415

    unknown = [name for name in args.names if name not in NAMES]
    if unknown:
        raise UsageError(f"NAME {unknown[0]}: no such experiment; choose from {', '.join(NAMES)}")
    if args.threads < 1:
        raise UsageError(f"--threads {args.threads}: use 1 or more")
    available = ["cpu", "cuda"][: 1 + torch.cuda.is_available()]
    available += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    name = args.device or available[1 if len(available) > 1 else 0]
    if name not in available:
        raise UsageError(
            f"--device {name}: torch {torch.__version__} has no such device; it has {', '.join(available)}"
        )
    return torch.device(name)


def _run(args: argparse.Namespace, device: torch.device, results: dict[str, Any]) -> int:
    """Run the experiments, print their findings, and write the results file."""
    from validation.prove.running import run_experiments  # noqa: PLC0415

    path = args.write or (None if args.quick else RESULTS)
    kept = recorded(path, results, quick=args.quick) if path and args.names else []
    for experiment in run_experiments(args.names or NAMES, device, quick=args.quick):
        print("\n".join(lines(experiment)), flush=True)
        kept.append(experiment)
    if path:
        write(document(results, kept, NAMES, quick=args.quick), path)
        print(f"written to {path}")
    return 0


def lines(experiment: dict[str, Any]) -> list[str]:
    """Return an experiment as lines of text: each claim and its verdict."""
    shown = [f"{experiment['title']} ({experiment['seconds']} s)"]
    for claim in experiment["claims"]:
        shown += [f"  {claim['lesson']}", f"    {claim['verdict']['words']}"]
        shown += [f"    {claim['remark']}"] * bool(claim["remark"])
    return shown
