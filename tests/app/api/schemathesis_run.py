"""Requests that schemathesis makes from the OpenAPI document, sent to a server.

`make fuzz` runs it; ARGS are options of `schemathesis run`, such as --max-examples 500. schemathesis.toml has others.
"""

import subprocess
import sys

from app.application import application
from tests.paths import ROOT
from tests.serving import served

COMMAND = "from schemathesis.cli import schemathesis; schemathesis()"


def run(address, *options):
    """Run schemathesis against a server."""
    command = [sys.executable, "-c", COMMAND, "run", f"{address}/openapi.json", *options]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


if __name__ == "__main__":
    app = application()
    app.openapi()
    with served(app) as server:
        result = run(server, *sys.argv[1:])
    sys.stdout.write(result.stdout)
    sys.exit(result.returncode)
