"""Estimate the GPU memory of fine-tuning runs, and whether they fit. `COMMAND --help` lists the options of a command.

Exit status: 0 if the run fits, or if no device is given; 1 if it is tight or does not fit; 2 if the usage is wrong or
the request is invalid. `sweep --help` explains the status of a sweep.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli import COMMANDS, messages, summary
from app.cli.command_parser import CommandParser
from app.resources import VERSION
from calculator.common.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

#: The exit status of wrong usage and of invalid requests, the same as argparse's.
USAGE_ERROR = 2

#: Exit statuses after SIGPIPE and SIGINT: 128 plus the number of the signal.
CLOSED_PIPE, INTERRUPTED = 141, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(lists_commands=not argv or argv[0] in {"-h", "--help"})
    if not argv:
        parser.print_help(sys.stderr)
        return USAGE_ERROR
    args = parser.parse_args(argv)
    module = import_module(COMMANDS[args.command])
    command = CommandParser(
        prog=f"{_program()} {args.command}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(command)
    return _run(module.run, command, args.arguments)


def _parser(*, lists_commands: bool) -> argparse.ArgumentParser:
    commands = (f"  {name:11}{summary(name)}\n" for name in COMMANDS) if lists_commands else ()
    parser = CommandParser(
        prog=_program(),
        usage="%(prog)s [-h] [--version] COMMAND [OPTION]...",
        description=__doc__,
        epilog=f"commands:\n{''.join(commands)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"Headroom {VERSION}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _program() -> str:
    """Return the command as its user typed it: an installed package has the script `headroom`."""
    name = Path(sys.argv[0]).stem
    return "python -m app" if name == "__main__" else name


def _run(run: Callable[[argparse.Namespace], int], command: CommandParser, arguments: list[str]) -> int:
    args = command.parse_args(arguments)
    args.typed, args.option_names = arguments, command.options
    try:
        status = int(run(args))
        sys.stdout.flush()
    except PlanError as error:
        return _report(messages.sentences(error.problems, command.options, arguments))
    except BrokenPipeError:
        _discard_output()
        return CLOSED_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        if error.filename is None:
            _discard_output()
        return _report((f"{error.filename or 'standard output'}: {error.strerror or error}",))
    return status


def _discard_output() -> None:
    """Redirect standard output to the null device, because the interpreter flushes it once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(lines: Iterable[str]) -> int:
    for line in lines:
        sys.stderr.write(f"{line}\n")
    return USAGE_ERROR


def _open_streams() -> None:
    """Make the output streams writable: a closed one discards, and others write ? for characters they cannot encode."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115  open until exit
        else:
            stream.reconfigure(errors="replace")


def script() -> int:
    """Run the command line, as a program with streams of its own."""
    _open_streams()
    return main()


if __name__ == "__main__":
    sys.exit(script())
