"""Files that commands read and write. An error names the option and says what to do."""

from __future__ import annotations

import sys
from codecs import BOM_UTF8
from typing import TYPE_CHECKING, Any

from app.http.bodies import parse_json
from calculator.common.errors import refusal

if TYPE_CHECKING:
    from calculator.common.errors import PlanError

#: The path that means standard input.
STANDARD_INPUT = "-"

#: The largest file that is read, in bytes; a request or a config.json is much smaller.
LARGEST = 1 << 24


def content(option: str, path: str, largest: int | None = None) -> bytes:
    """Return the bytes of a file of at most `largest` bytes, or `LARGEST`, without a byte order mark.

    Raises:
        PlanError: if it cannot be read, is empty, or is too large.
    """
    largest = LARGEST if largest is None else largest
    name, advice = _name(path), f"give the path of a file, or {STANDARD_INPUT} for standard input"
    try:
        raw = _read(path, largest)
    except OSError as error:
        raise _refused(option, path, error, "read", advice) from error
    if len(raw) > largest:
        raise refusal(option, f"{name} is larger than {largest >> 20} MiB: {advice}", path)
    if not raw.strip():
        raise refusal(option, f"{name} is empty: {advice}", path)
    return raw.removeprefix(BOM_UTF8)


def json(option: str, path: str) -> Any:
    """Return the value of a JSON file.

    Raises:
        PlanError: if the file cannot be read, or is not strict JSON.
    """
    return parse_json(content(option, path), _name(path), option)


def write(option: str, path: str | None, text: str) -> None:
    """Write text to a file, or to standard output if there is no path.

    Raises:
        PlanError: if the file cannot be written.
    """
    if path is None:
        sys.stdout.write(text)
        return
    try:
        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123  Path would read an empty path as a directory
            file.write(text)
    except OSError as error:
        advice = "give a path in an existing directory, or omit the option for standard output"
        raise _refused(option, path, error, "written", advice) from error


def write_bytes(option: str, path: str, raw: bytes) -> None:
    """Write bytes to a file.

    Raises:
        PlanError: if the file cannot be written.
    """
    try:
        with open(path, "wb") as file:  # noqa: PTH123  as in write
            file.write(raw)
    except OSError as error:
        raise _refused(option, path, error, "written", "give a path in an existing directory") from error


def _read(path: str, largest: int) -> bytes:
    if path != STANDARD_INPUT:
        with open(path, "rb") as file:  # noqa: PTH123  as in write
            return file.read(largest + 1)
    return sys.stdin.buffer.read(largest + 1) if sys.stdin is not None else b""


def _name(path: str) -> str:
    return "standard input" if path == STANDARD_INPUT else repr(path)


def _refused(option: str, path: str, error: OSError, done: str, advice: str) -> PlanError:
    name = _name(path)
    if isinstance(error, IsADirectoryError):
        return refusal(option, f"{name} is a directory: give the path of a file", path)
    if isinstance(error, FileNotFoundError):
        missing = "file" if done == "read" else "place for the file"
        return refusal(option, f"there is no {missing} {name}: {advice}", path)
    return refusal(option, f"{name} can't be {done} ({error.strerror}): {advice}", path)
