"""The commands: one module per command, with `add_arguments` and `run`.

The module's docstring is the command's help, and its first line is the command's summary. `run` prints to standard
output and returns the exit status. The sentences of a PlanError or an OSError that it raises are printed to standard
error, with status 2.
"""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

#: The module of each command, in the order of the help.
COMMANDS = {
    "serve": "app.cli.serve",
    "estimate": "app.cli.estimate",
    "compare": "app.cli.compare",
    "limits": "app.cli.limits",
    "plan": "app.cli.plan",
    "run": "app.cli.run",
    "inference": "app.cli.inference",
    "cards": "app.cli.cards",
    "sweep": "app.cli.sweep",
    "export": "app.cli.export",
    "import": "app.cli.import_",
    "check": "app.cli.check",
    "diagnose": "app.cli.diagnose",
    "fetch": "app.cli.fetch",
    "lengths": "app.cli.lengths",
    "mcp": "app.cli.mcp",
}


def summary(command: str) -> str:
    """Return a command's summary. Its module is not imported, which would take seconds for all commands."""
    spec = find_spec(COMMANDS[command])
    assert spec is not None
    assert spec.origin is not None
    documentation = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    return (documentation or "").partition("\n")[0]
