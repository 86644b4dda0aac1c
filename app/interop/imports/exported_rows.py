"""The rows of a trainer's script that Headroom writes. They are read, since their form is known.

See templates/exports/trainer.py.jinja, preference.py.jinja and task.py.jinja.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.interop.imports.keys import Keys

#: The parameters of the function that makes rows, and the constants around it.
_PARAMETERS = ["text", "tokens", "count"]
_LENGTH, _BATCH = "SEQUENCE_LENGTH", "MICRO_BATCH_SIZE"

#: Parts of the function: rows of different lengths, rows whose last token is padding, and equal rows.
_PARAGRAPHS, _MASKED = "paragraphs", "[-1] = 0"
_EQUAL = ("itertools.islice(stream", "MAX_COMPLETION_LENGTH")

#: The keys that scripts lack because their rows have the length.
_OF_ROWS = ("max_length", "max_prompt_length")


def rows_in(modules: Sequence[ast.Module]) -> dict[str, Any]:
    """Return the training settings of a script's rows. Return none if the code has no such rows."""
    constants, code = {}, ""
    for node in (node for module in modules for node in module.body):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=int(value))):
                constants[name] = value
            case ast.FunctionDef(name="rows") if [arg.arg for arg in node.args.args] == _PARAMETERS:
                code = ast.unparse(node)
    if not code or not {_LENGTH, _BATCH} <= constants.keys():
        return {}
    settings: dict[str, Any] = {"sequence_length": constants[_LENGTH]}
    if _PARAGRAPHS in code or _MASKED in code:
        return {**settings, "padding": True}
    return {**settings, "padding": False} if any(part in code for part in _EQUAL) else settings


def with_rows(keys: Keys, training: dict[str, Any], rows: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training with the settings of a script's rows, if it has any."""
    if not rows:
        return training
    keys.not_understood = [entry for entry in keys.not_understood if entry.key not in _OF_ROWS]
    is_unpadded = training["attention"] == "flash_attention_2" or training.get("packing")
    kept = {name: value for name, value in rows.items() if name != "padding" or not (value and is_unpadded)}
    return {**training, **kept}
