"""The command line: one module a command, which declares its arguments in `arguments` and does it in `run`.

A command's docstring is its help. It prints to standard output and returns the exit status; what it raises as a
PlanError or an OSError is told on standard error with status 2.
"""

#: Each command's module, in the order that the help lists them.
COMMANDS = {
    "serve": "app.cli.serve",
    "estimate": "app.cli.estimate",
    "compare": "app.cli.compare",
    "limits": "app.cli.limits",
    "plan": "app.cli.plan",
    "inference": "app.cli.inference",
    "sweep": "app.cli.sweep",
    "export": "app.cli.export",
    "import": "app.cli.import_",
    "fetch": "app.cli.fetch",
}
