"""Compare estimates with traces of the real libraries, and with measurements.

`COMMAND --help` describes the arguments of a command. Exit status: 0 if all figures agree, 1 if one differs, 2 if the
usage is wrong or a request is refused.
"""

from __future__ import annotations

import argparse
import ast
import sys
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from calculator.common.errors import PlanError
from validation.cli.command_parser import CommandParser

#: Each command's module, with the functions `arguments`, which declares its arguments, and `run`. The first sentence of
#: the module's docstring is the command's summary.
COMMANDS = {
    "trace": "validation.comparison.show",
    "cases": "validation.comparison.cases",
    "phases": "validation.comparison.phases",
    "phase-traces": "validation.comparison.phase_traces",
    "replays": "validation.comparison.replays",
    "record": "validation.comparison.record",
    "compare": "validation.comparison.compare",
    "grid": "validation.random_grid.grid",
    "bench": "validation.benchmark.bench",
    "worst": "validation.benchmark.worst",
    "published": "validation.published.report",
    "peers": "validation.published.peers.ask",
    "threads": "validation.published.threads",
    "measure": "validation.measure.command",
    "allocator": "validation.stub_gpu.allocator",
    "prove": "validation.prove.command",
    "counts": "validation.comparison.counts",
    "generate": "validation.comparison.generate",
    "processes": "validation.sharding.processes",
    "checkpoints": "validation.sharding.checkpoints",
    "traced": "validation.traced.command",
    "engines": "validation.traced.engines",
    "census": "validation.traced.census.command",
    "host": "validation.host.command",
    "cards": "validation.cards.command",
}

#: The exit status of wrong usage and of refused requests, the same as argparse's.
USAGE_ERROR = 2


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = _parser()
    given = sys.argv[1:] if argv is None else argv
    if not given:
        parser.print_help(sys.stderr)
        return USAGE_ERROR
    args = parser.parse_args(given)
    module = import_module(COMMANDS[args.command])
    command = CommandParser(f"python -m validation {args.command}", module.__doc__)
    module.arguments(command)
    try:
        return int(module.run(command.parse_args(args.arguments)))
    except PlanError as error:
        for problem in error.problems:
            print(problem.sentence, file=sys.stderr)
        return USAGE_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("python -m validation", __doc__)
    parser.usage = "%(prog)s [-h] COMMAND [ARGUMENT]..."
    parser.epilog = "\n".join(("commands:", *(f"  {name:14}{_summary(module)}" for name, module in COMMANDS.items())))
    parser.add_argument("command", type=_command, metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _command(name: str) -> str:
    if name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, n=1)
        way_out = f"did you mean {close[0]}?" if close else f"choose from {', '.join(COMMANDS)}"
        raise argparse.ArgumentTypeError(f"{name!r} is not a command: {way_out}")
    return name


def _summary(module: str) -> str:
    """Return the first sentence of a module's docstring. The module is not imported, which would take seconds."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    documentation = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return " ".join(documentation.partition("\n\n")[0].split()).partition(". ")[0].removesuffix(".")


if __name__ == "__main__":
    sys.exit(main())
