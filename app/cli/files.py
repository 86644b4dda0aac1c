"""The files that commands read and write: what is wrong with one is told by its option, with the way out."""

from __future__ import annotations

import sys
from codecs import BOM_UTF8
from typing import TYPE_CHECKING, Any

from app.http.bodies import decoded
from app.http.problems import Refusal
from calculator.common.errors import refusal

if TYPE_CHECKING:
    from calculator.common.errors import PlanError

#: What stands for standard input.
STANDARD_INPUT = "-"

#: The most that is read of a file, in bytes: many times a request or a config.json.
LARGEST = 1 << 24


def content(option: str, path: str) -> bytes:
    """A file's bytes, without the mark that some editors begin one with.

    Raises:
        PlanError: where it can't be read, is empty, or is too large to be what the option takes.
    """
    name, instead = _name(path), f"give a file's path, or {STANDARD_INPUT} for standard input"
    try:
        raw = _read(path)
    except OSError as error:
        raise _refused(option, path, error, "read", instead) from error
    if len(raw) > LARGEST:
        raise refusal(option, f"{name} is larger than {LARGEST >> 20} MiB: {instead}", path)
    if not raw.strip():
        raise refusal(option, f"{name} is empty: {instead}", path)
    return raw.removeprefix(BOM_UTF8)


def json(option: str, path: str) -> Any:
    """A JSON file's value.

    Raises:
        PlanError: where the file can't be read, or is not strict JSON.
    """
    return value(content(option, path), _name(path), option)


def value(raw: bytes, name: str, loc: str) -> Any:
    """The value of JSON text that came from somewhere.

    Raises:
        PlanError: where it is not strict JSON, saying where and why.
    """
    try:
        return decoded(raw)
    except Refusal as error:
        raise refusal(loc, error.detail.replace("the body", name, 1)) from error


def write(option: str, path: str | None, text: str) -> None:
    """Write text to a file, or to standard output where none is named.

    Raises:
        PlanError: where it can't be written.
    """
    if path is None:
        sys.stdout.write(text)
        return
    try:
        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123  an empty path is no directory, as to Path
            file.write(text)
    except OSError as error:
        instead = "give a path in a directory that is there, or leave it out for standard output"
        raise _refused(option, path, error, "written", instead) from error


def _read(path: str) -> bytes:
    if path != STANDARD_INPUT:
        with open(path, "rb") as file:  # noqa: PTH123  as in write
            return file.read(LARGEST + 1)
    return sys.stdin.buffer.read(LARGEST + 1) if sys.stdin is not None else b""


def _name(path: str) -> str:
    return "standard input" if path == STANDARD_INPUT else repr(path)


def _refused(option: str, path: str, error: OSError, done: str, instead: str) -> PlanError:
    name = _name(path)
    if isinstance(error, IsADirectoryError):
        return refusal(option, f"{name} is a directory: give a file in it", path)
    if isinstance(error, FileNotFoundError):
        missing = "file" if done == "read" else "place for the file"
        return refusal(option, f"there is no {missing} {name}: {instead}", path)
    return refusal(option, f"{name} can't be {done} ({error.strerror}): {instead}", path)
