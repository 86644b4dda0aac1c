"""A process of this package that runs on a stub of a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from calculator.common.errors import PlanError
from calculator.devices import gpu
from calculator.devices.multiprocessors import multiprocessors_of
from validation.stub_gpu.library import NoStubError, build, environment

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence


def add_arguments(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Declare the arguments that choose a stub."""
    parser.add_argument(
        "--stub-gpu", metavar="GPU", required=required, help="run on a stub of this GPU of the catalogue, e.g. h100"
    )
    parser.add_argument(
        "--multiprocessors", type=int, help="the stub's multiprocessors (default: those of the GPU, or of an A100)"
    )


def run_on_stub(args: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Run a command of this package on the stub that was chosen. Return its status, or 2 if there can be no stub."""
    with TemporaryDirectory() as folder:
        try:
            card = gpu(args.stub_gpu)
            count = args.multiprocessors or multiprocessors_of(card).count
            environ = environment(build(Path(folder)), card, count)
        except PlanError:
            print(
                f"--stub-gpu {args.stub_gpu}: it is not in calculator/catalogue/gpus.json, which lists the names",
                file=sys.stderr,
            )
            return 2
        except NoStubError as error:
            print(f"--stub-gpu {args.stub_gpu}: {error}", file=sys.stderr)
            return 2
        command = [sys.executable, "-m", "validation", *arguments]
        return subprocess.run(command, env=environ, check=False).returncode  # noqa: S603  its own command
