"""The commands: one module per command, with `add_arguments` and `run`.

The module's docstring is the command's help. `run` prints to standard output and returns the exit status. A PlanError
or an OSError that it raises is printed to standard error, with status 2.
"""

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
