"""The code of a script or a notebook, cell by cell. It is parsed, never run."""

from __future__ import annotations

import ast
import json
import re
import textwrap
import warnings
from typing import TYPE_CHECKING

from app.http.problems import shortened
from calculator.common.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

#: An ellipsis with which documentation shortens a call: a line of its own, or the last argument.
_ELLIPSES = re.compile(r"(?m)^[ \t]*\.\.\.,?[ \t]*(?=#|$)|,[ \t]*\.\.\.(?=,?\s*\))")


def parsed(code: str) -> ast.Module:
    """Return the syntax tree of a cell.

    Raises:
        SyntaxError: if it is not Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = _plain_python(code)
        try:
            return ast.parse(plain)
        except SyntaxError:
            return ast.parse(_ELLIPSES.sub("", plain))


def is_notebook(text: str) -> bool:
    """Return whether a text is a notebook."""
    return text.lstrip().startswith("{") and '"cells"' in text and '"cell_type"' in text


def cells(text: str) -> list[str]:
    """Return the code of a notebook's cells, without those of other languages."""
    try:
        code = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise refusal(
            "content", "is not a notebook: cells with cell_type and source are read", shortened(text)
        ) from error
    return [part for part in code if not part.lstrip().startswith(("%%bash", "%%writefile", "%%html"))]


def _plain_python(code: str) -> str:
    """Return code with the lines of shell commands and magics replaced."""
    return "\n".join(_without_magics(textwrap.dedent(code).split("\n")))


def _without_magics(lines: list[str]) -> Iterator[str]:
    goes_on = False
    for line in lines:
        bare = line.lstrip()
        if goes_on or bare.startswith(("!", "%")):
            yield "" if goes_on else f"{line[: len(line) - len(bare)]}pass"
            goes_on = line.rstrip().endswith("\\")
        else:
            yield line
