"""Values of expressions without running code: literals, names of literals, data types and integer arithmetic."""

from __future__ import annotations

import ast
from operator import add, floordiv, ge, gt, le, lt, mul, sub
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Values(Protocol):
    """The values of names."""

    def get(self, name: str, default: Any, /) -> Any:
        """Return the value of a name, or of an attribute of one."""


class _Unread:
    """The value of an expression that is not evaluated."""


UNREAD: Final = _Unread()

_DTYPES = frozenset({"bfloat16", "float16", "float32"})

#: Functions that query the GPU. From compute capability 8.0 on it has bfloat16.
_HAS_BFLOAT16 = frozenset({"is_bfloat16_supported", "is_bf16_supported", "is_torch_bf16_gpu_available"})

#: The largest number that arithmetic may return.
_LARGEST = 1 << 40

#: The major compute capability from which on a GPU has bfloat16.
_CAPABILITY = 8

_COMPARISONS: dict[type[ast.cmpop], Callable[[int, int], bool]] = {ast.Gt: gt, ast.GtE: ge, ast.Lt: lt, ast.LtE: le}

_OPERATIONS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: add,
    ast.Sub: sub,
    ast.Mult: mul,
    ast.FloorDiv: floordiv,
}


def value_of(node: ast.expr, names: Values) -> Any:
    """Return the value of an expression, or UNREAD."""
    match node:
        case ast.Constant(value=value) if value is None or isinstance(value, str | bool | int | float):
            return value
        case ast.Name(id=name):
            return names.get(name, UNREAD)
        case ast.Attribute(attr=name) if name in _DTYPES:
            return name
        case ast.Attribute(value=ast.Name(id=owner), attr=name):
            return names.get(f"{owner}.{name}", UNREAD)
        case ast.Subscript(value=owner, slice=ast.Constant(value=str(key))):
            values = value_of(owner, names)
            return values.get(key, UNREAD) if isinstance(values, dict) else UNREAD
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in _HAS_BFLOAT16:
            return True
        case ast.Call(func=ast.Attribute(value=ast.Attribute(attr=owner), attr="is_available")):
            return {"cuda": True, "mps": False}.get(owner, UNREAD)
        case ast.Subscript(
            value=ast.Call(func=ast.Attribute(attr="get_device_capability")), slice=ast.Constant(value=0)
        ):
            return _CAPABILITY
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            value = value_of(operand, names)
            return UNREAD if value is UNREAD else not value
        case ast.IfExp(test=test, body=body, orelse=orelse):
            value = value_of(test, names)
            return UNREAD if value is UNREAD else value_of(body if value else orelse, names)
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _OPERATIONS:
            return _calculated(_OPERATIONS[type(operation)], value_of(left, names), value_of(right, names))
        case ast.BoolOp(op=ast.Or(), values=parts):
            values = [value_of(part, names) for part in parts]
            return next((value for value in values if value is UNREAD or value), values[-1])
        case ast.Compare(left=left, ops=[ast.Eq() | ast.NotEq() as test], comparators=[right]):
            sides = value_of(left, names), value_of(right, names)
            return UNREAD if UNREAD in sides else (sides[0] == sides[1]) is isinstance(test, ast.Eq)
        case ast.Compare(left=left, ops=[ast.Gt() | ast.GtE() | ast.Lt() | ast.LtE() as test], comparators=[right]):
            sides = value_of(left, names), value_of(right, names)
            are_integers = all(isinstance(side, int) for side in sides)
            return _COMPARISONS[type(test)](*sides) if are_integers else UNREAD
        case ast.JoinedStr(values=parts):
            return _joined([value_of(part, names) for part in parts])
        case ast.FormattedValue(value=inner, conversion=-1, format_spec=None):
            return value_of(inner, names)
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            values = [value_of(part, names) for part in parts]
            return UNREAD if any(value is UNREAD for value in values) else values
        case ast.Dict(keys=keys, values=parts):
            return _dictionary(keys, parts, names)
    return UNREAD


def _calculated(operation: Callable[[int, int], int], left: Any, right: Any) -> Any:
    if not all(isinstance(side, int) and abs(side) < _LARGEST for side in (left, right)):
        return UNREAD
    return UNREAD if operation is floordiv and not right else operation(left, right)


def _joined(values: list[Any]) -> Any:
    """Return the text of a formatted string, all of whose values are text or whole numbers."""
    return "".join(map(str, values)) if all(isinstance(value, str | int) for value in values) else UNREAD


def _dictionary(keys: list[ast.expr | None], parts: list[ast.expr], names: Values) -> Any:
    named = [UNREAD if key is None else value_of(key, names) for key in keys]
    values = [value_of(part, names) for part in parts]
    if any(value is UNREAD for value in values) or not all(isinstance(key, str) for key in named):
        return UNREAD
    return dict(zip(named, values, strict=True))
