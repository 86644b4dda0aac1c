"""The loop of a script that Headroom writes for PEFT on one GPU. It is read, since its form is known.

See templates/exports/peft.py.jinja.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from app.interop.exports.script_optimizer import OPTIMIZERS
from app.interop.imports.arguments import ATTENTION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.interop.imports.keys import Keys

#: The parameters of the function that runs a step.
_STEP = ("model", "trainable", "optimizer", "batches")

#: The settings that constants of the script have.
_CONSTANTS = {
    "MICRO_BATCH_SIZE": "micro_batch_size",
    "SEQUENCE_LENGTH": "sequence_length",
    "GRADIENT_ACCUMULATION_STEPS": "gradient_accumulation_steps",
}

#: Constants and calls whose settings are not read from a loop.
_UNREAD = ("PROJECTION", "empty_cache", "create_loraplus_optimizer")


def loop_in(modules: Sequence[ast.Module]) -> dict[str, Any] | None:
    """Return the training settings of an exported loop. Return None if the code has no such loop."""
    nodes = [node for module in modules for node in ast.walk(module)]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    if not any(map(_runs_step, functions)):
        return None
    constants = {target.id: node.value for node in nodes if isinstance(node, ast.Assign) for target in _names(node)}
    given = {_CONSTANTS[name]: ast.literal_eval(node) for name, node in constants.items() if _is_setting(name, node)}
    calls = {_called(node): node for node in nodes if isinstance(node, ast.Call)}
    settings = {
        "trainer": None,
        **given,
        **_settings_of_calls(calls),
        "padding": any(
            function.name == "micro_batches" and "'attention_mask'" in ast.unparse(function) for function in functions
        ),
        "unread": [name for name in _UNREAD if name in constants or name in calls],
    }
    added = constants.get("ADDED_DTYPE")
    if isinstance(added, ast.Attribute):
        settings["adapter_dtype"] = "float32" if added.attr == "float32" else "model"
    optimizer = _optimizer({ast.unparse(node) for node in nodes if isinstance(node, ast.Call)})
    return {**settings, "optimizer": optimizer} if optimizer else settings


def settings_of(keys: Keys, loop: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training settings of an exported loop, and of the calls around it."""
    settings = dict(loop)
    for name in settings.pop("unread"):
        keys.miss(name, None, "is in the loop, but its settings are not read: the default is used")
    if "optimizer" not in settings:
        keys.miss("optimizer", None, "is not one that Headroom writes into scripts: PyTorch's AdamW is used")
    attention = keys.choice("attn_implementation", ATTENTION, "sdpa", "sdpa")
    in_float32 = keys.flag("autocast_adapter_dtype", default=True)
    return {"adapter_dtype": "float32" if in_float32 else "model", **settings, "attention": attention}


def _runs_step(function: ast.FunctionDef) -> bool:
    return function.name == "step" and tuple(arg.arg for arg in function.args.args[: len(_STEP)]) == _STEP


def _names(node: ast.Assign) -> list[ast.Name]:
    return [target for target in node.targets if isinstance(target, ast.Name)]


def _is_setting(name: str, node: ast.expr) -> bool:
    return name in _CONSTANTS and isinstance(node, ast.Constant) and type(node.value) is int


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _settings_of_calls(calls: Mapping[str, ast.Call]) -> dict[str, Any]:
    """Return the settings that the calls of a loop make: autocast, the clipped norm, and checkpointing."""
    checkpoints = "gradient_checkpointing_enable" in calls
    settings: dict[str, Any] = {"max_grad_norm": 0.0, "gradient_checkpointing": checkpoints}
    if "autocast" in calls:
        dtypes = [keyword.value for keyword in calls["autocast"].keywords if keyword.arg == "dtype"]
        settings["autocast"] = next((dtype.attr for dtype in dtypes if isinstance(dtype, ast.Attribute)), None)
    clipped = calls["clip_grad_norm_"].args[1:2] if "clip_grad_norm_" in calls else []
    if clipped and isinstance(clipped[0], ast.Constant):
        settings["max_grad_norm"] = clipped[0].value
    return settings


def _optimizer(calls: set[str]) -> str | None:
    """Return the optimizer that one of the calls constructs."""
    for name, code in OPTIMIZERS.items():
        try:
            written = ast.unparse(ast.parse(code, mode="eval"))
        except SyntaxError:
            continue  # a part of an expression
        if written in calls:
            return name
    return None
