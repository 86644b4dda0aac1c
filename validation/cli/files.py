"""Files of requests that a command is given."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from calculator.common.errors import refusal

#: The way out of an error about a file.
_GIVE = "give the path of a file, or - for standard input"


def read_request(path: str) -> Any:
    """Return the JSON of a file, or of standard input if the path is `-`.

    Raises:
        PlanError: if the file cannot be read, or does not contain JSON.
    """
    return _json("standard input" if path == "-" else path, read_text(path))


def read_lines(path: str) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines.

    Raises:
        PlanError: if the file cannot be read, or a line is not JSON.
    """
    lines = enumerate(read_text(path).splitlines(), start=1)
    return [_json(f"{path}, line {number}", line) for number, line in lines]


def read_text(path: str) -> str:
    """Return the text of a file, or of standard input if the path is `-`.

    Raises:
        PlanError: if the file cannot be read.
    """
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise refusal(path, f"{error.strerror}: {_GIVE}", path) from error


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise refusal(name, f"not JSON: {error}", text[:80]) from error
