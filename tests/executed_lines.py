"""Count the lines that a call executes: a measure of work that does not depend on the machine or on other processes."""

import sys


def executed_lines(call):
    """The number of lines and function calls that `call` executes in Python."""
    count, earlier = 0, sys.gettrace()

    def trace(_frame, event, _argument):
        nonlocal count
        count += event in {"line", "call"}
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(earlier)
    return count
