"""A function that creates instances of a dataclass in half the time of a call of the class.

In Python 3.11, a call of a class collects the keywords in a dict, from which `__init__` then reads them. A function
receives them directly.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


def constructor(kind: Callable[P, T]) -> Callable[P, T]:
    """Return a function that creates instances of a dataclass, which is not frozen and whose fields have no factory."""
    class_: Any = kind
    names: dict[str, Any] = {"kind": kind, "new": object.__new__}
    names |= {_default(field): field.default for field in fields(class_)}
    parameters = ", ".join([_parameter(field) for field in fields(class_) if field.init])
    lines = [f"def create(*, {parameters}):", "self = new(kind)"]
    lines += [f"self.{field.name} = {field.name if field.init else _default(field)}" for field in fields(class_)]
    lines += ["self.__post_init__()"] if hasattr(kind, "__post_init__") else []
    exec("\n ".join([*lines, "return self"]), names)  # noqa: S102  dataclasses writes `__init__` in the same way
    create: Callable[P, T] = names["create"]
    return create


def _parameter(field: Field[Any]) -> str:
    return field.name if field.default is MISSING else f"{field.name}={_default(field)}"


def _default(field: Field[Any]) -> str:
    return f"default_{field.name}"
