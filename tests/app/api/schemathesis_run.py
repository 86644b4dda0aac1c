"""Requests that schemathesis makes from the OpenAPI document, sent to a server.

`make fuzz` runs it for two minutes, with progress; ARGS are options of `schemathesis run`, such as --max-time 600.
schemathesis.toml has others.
"""

import subprocess
import sys

from app.application import application
from tests.paths import ROOT
from tests.serving import served

COMMAND = "from schemathesis.cli import schemathesis; schemathesis()"

#: The seconds of a run, unless ARGS say another --max-time.
MAX_TIME = 120


def run(address, *options, stdout=None):
    """Run schemathesis against a server, and show its output as it comes unless `stdout` takes it."""
    command = [sys.executable, "-u", "-c", COMMAND, "run", f"{address}/openapi.json", *options]
    return subprocess.run(command, cwd=ROOT, stdout=stdout, stderr=subprocess.STDOUT, text=True, check=False)


if __name__ == "__main__":
    app = application()
    app.openapi()
    with served(app) as server:
        result = run(server, "--max-time", str(MAX_TIME), *sys.argv[1:])
    sys.exit(result.returncode)
