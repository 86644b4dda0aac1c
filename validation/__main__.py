"""The command line: `python -m validation COMMAND ...`; `COMMAND --help` describes a command's arguments."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

#: Each command's module, with the functions `arguments`, which declares its arguments, and `run`.
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


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m validation", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    args = parser.parse_args(argv)
    module = import_module(COMMANDS[args.command])
    subparser = argparse.ArgumentParser(prog=f"python -m validation {args.command}", description=module.__doc__)
    module.arguments(subparser)
    return int(module.run(subparser.parse_args(args.arguments)))


if __name__ == "__main__":
    sys.exit(main())
