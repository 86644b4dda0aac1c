"""The exit status of a process does not depend on its standard streams."""

import subprocess
import sys

import pytest

from tests.paths import ROOT

PLAN = "estimate --model gpt2 --method lora"


def shell(command, **environment):
    """The result of a command in a shell, with its redirections."""
    return subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -W error -m app {command}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_a_character_outside_the_encoding_becomes_a_question_mark():
    result = shell("plan --model gpt2 --gpu t4", PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stderr) == (0, b"")
    assert b" ? " in result.stdout


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (f"{PLAN} >&-", 0),
        (f"{PLAN} --memory_gib 0.1 >&-", 1),
        (f"{PLAN} --r 0 2>&-", 2),
        (f"{PLAN} --request - <&-", 2),
        (f"{PLAN} >&- 2>&- <&-", 0),
    ],
)
def test_a_closed_stream_changes_no_status(command, status):
    ran = shell(command)
    assert ran.returncode == status
    assert b"Traceback" not in ran.stderr


def test_a_full_disk_is_reported_with_what_could_not_be_written():
    ran = shell(f"{PLAN} >/dev/full")
    assert (ran.returncode, ran.stderr) == (2, b"standard output: No space left on device\n")
