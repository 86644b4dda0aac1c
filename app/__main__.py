"""The command line: `python -m app COMMAND ...`; each command tells its options with --help.

Exit status: 0 where the plan fits, or nothing was asked to fit; 1 where it is tight or does not fit; 2 where the usage
is wrong or the request has no answer. What that means of a grid's many plans is said by sweep --help.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from app.cli import COMMANDS
from calculator.common.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

#: The exit status where the usage is wrong or the request has no answer, as argparse has it.
WRONG = 2

#: The exit status of a process that its reader or its user stopped: 128 and the signal's number.
CLOSED, INTERRUPTED = 141, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    if not argv:
        parser.print_help(sys.stderr)
        return WRONG
    args = parser.parse_args(argv)
    module = import_module(COMMANDS[args.command])
    own = argparse.ArgumentParser(
        prog=f"python -m app {args.command}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.arguments(own)
    return _run(module.run, own.parse_args(args.arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m app", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=f"one of {', '.join(COMMANDS)}")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the command's own options")
    return parser


def _run(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    try:
        status = int(run(args))
        sys.stdout.flush()
    except PlanError as error:
        return _refused(f"{problem.loc}: {problem.msg}" if problem.loc else problem.msg for problem in error.problems)
    except BrokenPipeError:
        _let_go()
        return CLOSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        if error.filename is None:
            _let_go()
        return _refused((f"{error.filename or 'standard output'}: {error.strerror or error}",))
    return status


def _let_go() -> None:
    """Write no more to standard output, which the interpreter would fail on once more on leaving."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refused(lines: Iterable[str]) -> int:
    for line in lines:
        sys.stderr.write(f"{line}\n")
    return WRONG


def _open_streams() -> None:
    """Give what is told somewhere to go: nowhere where a stream is closed, and ? for what its encoding lacks."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115  open to the end
        else:
            stream.reconfigure(errors="replace")


if __name__ == "__main__":
    _open_streams()
    sys.exit(main())
