"""schemathesis finds no server error, and no response that the OpenAPI document does not describe."""

import subprocess

from app.api.openapi import operations
from tests.app.api.schemathesis_run import run


def test_responses_to_generated_requests_are_as_documented(app, origin):
    documented = operations(app.openapi())  # built before it is loaded, for which schemathesis waits ten seconds
    result = run(origin, "--phases", "fuzzing", "--max-examples", "10", stdout=subprocess.PIPE)
    assert result.returncode == 0, result.stdout
    assert f"Tested: {len(documented)}" in result.stdout
