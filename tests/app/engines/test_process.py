"""A process that traces: its answers, its refusals, and its end if it is too long or nobody waits."""

import os
import signal
import sys
import time

import pytest

from app.engines.process import AbandonedError, run
from calculator.common.errors import PlanError


def never():
    return False


def command(code):
    """A process that runs some code instead of a trace; `body` is what it is sent."""
    return sys.executable, "-c", f"import json, os, sys, time\nbody = json.load(sys.stdin)\n{code}"


def answered(code, gone=never, **options):
    lines = []
    try:
        return run({"a": 1}, gone, lines.append, command=command(code), **options), lines
    except PlanError as error:
        return error.problems, lines


def test_problems_are_raised_as_they_are_written():
    code = 'print(json.dumps({"progress": f"reading {body}"}))\n'
    code += 'print(json.dumps({"problems": [{"loc": "model", "msg": "no such type", "input": 1}]}))'
    (problem,), lines = answered(code)
    assert (problem.loc, problem.msg, problem.input, lines) == ("model", "no such type", 1, ["reading {'a': 1}"])


def test_a_process_that_ends_without_an_answer_is_refused_with_a_solution():
    (problem,), _ = answered("os.abort()")
    assert "most often because memory ran out: use a config with fewer layers" in problem.msg


def test_a_process_over_its_cpu_time_is_a_refusal_that_states_the_limit():
    (problem,), _ = answered(f"os.kill(os.getpid(), {int(signal.SIGXCPU)})", cpu_seconds=7)
    assert "more than 7 seconds of CPU time" in problem.msg


def test_a_process_over_its_time_is_killed():
    (problem,), lines = answered(
        'print(json.dumps({"progress": os.getpid()}), flush=True); time.sleep(99)', wall_seconds=1
    )
    assert "more than 1 seconds" in problem.msg
    assert not_running(lines[0])


def test_a_process_is_killed_when_no_client_waits():
    started = []
    code = 'print(json.dumps({"progress": os.getpid()}), flush=True); time.sleep(99)'
    with pytest.raises(AbandonedError):
        run({}, lambda: bool(started), started.append, command=command(code))
    assert not_running(started[0])


def not_running(pid):
    """Whether a process has ended and its parent has taken note."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False
