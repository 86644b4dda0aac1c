"""Regular expressions for the names of modules and parameters, of a form that never takes long to match."""

from __future__ import annotations

import re

#: Names, dots and classes of characters, one group, and two repetitions.
_PATTERN = re.compile(r"\^?(?:[\w.|()$-]|\[[\w-]+\]|\\[.dw]|[*+?])+")
_LONGEST, _MOST_REPETITIONS = 200, 2


def is_readable(pattern: str) -> bool:
    """Return whether an expression is compiled: a name, or an expression with at most one group and two repetitions."""
    repetitions = sum(pattern.count(sign) for sign in "*+?")
    simple = pattern.count("(") <= 1 and repetitions <= _MOST_REPETITIONS and not re.search(r"\)[*+?]", pattern)
    if not simple or len(pattern) > _LONGEST or not _PATTERN.fullmatch(pattern):
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True
