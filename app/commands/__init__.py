"""The command line: one module a command, which declares its arguments in `arguments` and does it in `run`.

A command's docstring is its help. It prints to standard output and returns the exit status; what it raises as a
PlanError or an OSError is told on standard error with status 2.
"""

#: Each command's module, in the order that the help lists them.
COMMANDS = {
    "serve": "app.commands.serve",
    "estimate": "app.commands.estimate",
    "compare": "app.commands.compare",
    "limits": "app.commands.limits",
    "plan": "app.commands.plan",
    "inference": "app.commands.inference",
    "sweep": "app.commands.sweep",
    "export": "app.commands.export",
    "import": "app.commands.import_",
    "fetch": "app.commands.fetch",
}
