"""Prove the lesson's claims: run each on real modules, say whether it holds, and write the results file.

Everything runs on the CPU, or on a GPU where there is one, with seeds that are fixed: another run gives the same
figures, but for those of time. Without a NAME every experiment is run; with one, the others in the file are kept.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validation.prove.results import RESULTS, AnotherEnvironmentError, before, document, write
from validation.tracing.silence import quieten

if TYPE_CHECKING:
    import argparse

    import torch


class UsageError(Exception):
    """Something is asked for that isn't there."""


#: The experiments, in the lesson's order.
NAMES: tuple[str, ...] = ("identity", "merging", "nf4", "intrinsic", "overhead", "savings")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these of: {', '.join(NAMES)}")
    parser.add_argument("--device", default=None, help="cuda, cuda:1, cpu (by default a GPU where there is one)")
    parser.add_argument("--quick", action="store_true", help="small forms of all, in seconds; nothing is written")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads on the CPU (1)")
    parser.add_argument(
        "--write", type=Path, default=None, metavar="FILE", help=f"where results go ({RESULTS}; nowhere with --quick)"
    )


def run(told: argparse.Namespace) -> int:
    """Prove what is named; 2 on wrong usage. A claim that does not hold is a finding, not a failure."""
    quieten()
    import torch  # noqa: PLC0415  (takes seconds to import)

    from validation.prove.environment import environment  # noqa: PLC0415

    threads = torch.get_num_threads()
    try:
        device = _checked(told)
        torch.set_num_threads(told.threads)
        return _run(told, device, environment(device))
    except (UsageError, AnotherEnvironmentError) as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        torch.set_num_threads(threads)


def _checked(told: argparse.Namespace) -> torch.device:
    """The device that is asked for, where all that is asked for is there."""
    import torch  # noqa: PLC0415

    unknown = [name for name in told.names if name not in NAMES]
    if unknown:
        raise UsageError(f"NAME {unknown[0]}: there is no such experiment; there are {', '.join(NAMES)}")
    if told.threads < 1:
        raise UsageError(f"--threads {told.threads}: take 1 or more")
    there = ["cpu", "cuda"][: 1 + torch.cuda.is_available()]
    there += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    name = told.device or there[1 if len(there) > 1 else 0]
    if name not in there:
        raise UsageError(f"--device {name}: torch {torch.__version__} has no such device; it has {', '.join(there)}")
    return torch.device(name)


def _run(told: argparse.Namespace, device: torch.device, found: dict[str, Any]) -> int:
    """Run the experiments, tell what they find, and write it."""
    from validation.prove.running import proven  # noqa: PLC0415

    path = told.write or (None if told.quick else RESULTS)
    kept = before(path, found, quick=told.quick) if path and told.names else []
    for experiment in proven(told.names or NAMES, device, quick=told.quick):
        print("\n".join(lines(experiment)), flush=True)
        kept.append(experiment)
    if path:
        write(document(found, kept, NAMES, quick=told.quick), path)
        print(f"written to {path}")
    return 0


def lines(told: dict[str, Any]) -> list[str]:
    """An experiment for people: each claim and how it ends."""
    shown = [f"{told['title']} ({told['seconds']} s)"]
    for claim in told["claims"]:
        shown += [f"  {claim['lesson']}", f"    {claim['verdict']['words']}"]
        shown += [f"    {claim['remark']}"] * bool(claim["remark"])
    return shown
