"""Code that freezes parameters of a model, in a training script.

The patterns of a script that Headroom writes are read. Other code is reported, since it decides what is trained.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from calculator.methods.targeted.modules_to_save import TRAINERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.interop.imports.keys import Keys

#: An attribute of a parameter, and the method that sets it.
_ATTRIBUTE, _SETTER = "requires_grad", "requires_grad_"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenParameters:
    """The parameters that code freezes.

    Attributes:
        lines: The numbers of the lines that set requires_grad to anything else than True.
        patterns: `unfrozen_parameters` of the loop in an exported script; empty if there is none.
        in_float32: Whether a loop casts the trained parameters to float32.
    """

    lines: tuple[int, ...] = ()
    patterns: tuple[str, ...] = ()
    in_float32: bool = False


def frozen_in(modules: Sequence[ast.Module]) -> FrozenParameters:
    """Return the parameters that modules freeze."""
    nodes = [node for module in modules for node in ast.walk(module)]
    lines = tuple(node.lineno for node in nodes if isinstance(node, ast.Assign | ast.Call) and _freezes(node))
    casts = any(isinstance(node, ast.Assign) and _casts(node) for node in nodes)
    lists: dict[str, tuple[str, ...]] = {}
    for node in nodes if lines else ():
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.List(elts=items)):
                texts = [item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str)]
                lists[name] = tuple(texts) if len(texts) == len(items) else ()
            case ast.For(iter=ast.Call(func=ast.Attribute(attr="named_parameters")), body=[ast.Expr(value=call), *_]):
                patterns = lists.get(_matched_list(call) or "", ())
                if patterns:
                    written = tuple(text.replace(r"\.", ".") for text in patterns)
                    return FrozenParameters(lines=lines, patterns=written, in_float32=casts)
            case _:
                pass
    return FrozenParameters(lines=lines, in_float32=casts)


def settings_of(keys: Keys) -> dict[str, Any]:
    """Return the settings of full fine-tuning for code that freezes parameters, and report code that is not read."""
    frozen = keys.script.frozen
    if frozen.patterns:
        cast = {"unfrozen_dtype": "float32"} if frozen.in_float32 else {}
        return {"unfrozen_parameters": [*frozen.patterns], **cast}
    if frozen.lines:
        why = "is not evaluated: every weight is trained in these figures. Name the trained ones in unfrozen_parameters"
        keys.miss(_ATTRIBUTE, f"line {frozen.lines[0]}", why)
    return {}


def cast_copies(keys: Keys, method: dict[str, Any], training: Mapping[str, Any]) -> None:
    """Set the dtype of trained copies if a loop casts what is trained to float32, or report it if that is not modeled.

    Adapters are in float32 in either case.
    """
    saved = method.get("modules_to_save")
    if not saved or not keys.script.frozen.in_float32:
        return
    if training["trainer"] in TRAINERS and training.get("autocast") is not None:
        method["unfrozen_dtype"] = "float32"
    else:
        why = "the code casts these copies to float32, which is modeled with transformers and bf16=True: not cast"
        keys.miss("modules_to_save", saved, why)


def _casts(node: ast.Assign) -> bool:
    """Return whether a statement casts a parameter to float32: `p.data = p.data.float()`, or with `.to`."""
    match node:
        case ast.Assign(targets=[ast.Attribute(attr="data")], value=ast.Call(func=ast.Attribute(attr=name), args=args)):
            to_float32 = any(isinstance(arg, ast.Attribute) and arg.attr == "float32" for arg in args)
            return name == "float" or (name == "to" and to_float32)
    return False


def _freezes(node: ast.Assign | ast.Call) -> bool:
    match node:
        case ast.Assign(targets=targets, value=value):
            is_set = any(isinstance(target, ast.Attribute) and target.attr == _ATTRIBUTE for target in targets)
            return is_set and not _is_true(value)
        case ast.Call(func=ast.Attribute(attr=attribute), args=args, keywords=keywords) if attribute == _SETTER:
            given = [*args, *(keyword.value for keyword in keywords)]
            return bool(given) and not _is_true(given[0])
    return False


def _is_true(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


def _matched_list(call: ast.expr) -> str | None:
    """Return the list's name in `requires_grad_(any(re.match(pattern, name) for pattern in LIST))`."""
    match call:
        case ast.Call(
            func=ast.Attribute(attr=attribute),
            args=[
                ast.Call(
                    func=ast.Name(id="any"),
                    args=[
                        ast.GeneratorExp(
                            elt=ast.Call(func=ast.Attribute(attr="match")),
                            generators=[ast.comprehension(iter=ast.Name(id=name))],
                        )
                    ],
                )
            ],
        ) if attribute == _SETTER:
            return name
        case _:
            return None
