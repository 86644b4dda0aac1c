"""The values of names in Python code: assigned values, and the defaults of options and parameters."""

from __future__ import annotations

import ast
from collections import ChainMap
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from app.interop.imports.literals import UNREAD, value_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Function = ast.FunctionDef | ast.AsyncFunctionDef

#: Calls that declare an option of a command: those of argparse, and of click's decorators.
_DECLARES = ("add_argument", "option")

#: The value of a flag that nobody sets.
_FLAGS = {"store_true": False, "store_false": True}


class Names:
    """The values of names, read in the order of the code."""

    def __init__(self, before: Names | None = None) -> None:
        """`before`: what was read of the same code, whose functions may be called below their definition."""
        self.values: ChainMap[str, Any] = ChainMap()
        #: Whether a name has the value that it has if nobody sets another.
        self.defaults: ChainMap[str, bool] = ChainMap()
        #: The options of all commands, by name, and the names of what their parsers return.
        self.options: dict[str, Any] = {}
        self.parsed: set[str] = set()
        #: The names of the code's own classes.
        self.classes: set[str] = set()
        #: The names of functions, with those of their parameters.
        self.functions: dict[str, list[str]] = {}
        #: The arguments of the first call of each function, and which of these are defaults.
        self.given: dict[str, dict[str, tuple[Any, bool]]] = before.given if before is not None else {}

    def get(self, name: str, default: Any) -> Any:
        """Return the value of a name, or of an attribute of one: `args.r`."""
        if name in self.values:
            return self.values[name]
        owner, _, attribute = name.partition(".")
        return self.options.get(attribute, default) if owner in self.parsed else default

    def value(self, node: ast.expr) -> Any:
        """Return the value of an expression, or UNREAD."""
        return value_of(node, self)

    def is_default(self, node: ast.expr) -> bool:
        """Return whether the value of an expression is one of defaults."""
        return any(
            self.defaults.get(part.id, False) or (part.id in self.parsed and part.id not in self.values)
            for part in ast.walk(node)
            if isinstance(part, ast.Name)
        )

    def assign(self, target: ast.expr, node: ast.expr | None) -> None:
        """Record the value of an assigned name. Without an expression it is unknown."""
        if isinstance(target, ast.Tuple | ast.List):
            parts = node.elts if isinstance(node, ast.Tuple | ast.List) else []
            is_parsed = node is not None and _is_parsed(node)
            for n, elt in enumerate(target.elts):
                self.assign(elt, parts[n] if len(parts) == len(target.elts) else node if is_parsed else None)
        elif isinstance(target, ast.Name) and node is not None and _is_parsed(node):
            self.parsed.add(target.id)
            self.values.pop(target.id, None)
        elif isinstance(target, ast.Name):
            value = UNREAD if node is None else self.value(node)
            self._set(target.id, value, default=node is not None and self.is_default(node))

    def declare(self, call: ast.Call) -> None:
        """Note the option that a call declares, if it does."""
        if not (isinstance(call.func, ast.Attribute) and call.func.attr in _DECLARES):
            return
        words = [word for word in map(self.value, call.args) if isinstance(word, str)]
        given = {keyword.arg: self.value(keyword.value) for keyword in call.keywords if keyword.arg is not None}
        long = [word for word in words if word.startswith("--")]
        name = given.get("dest") or (long[0].lstrip("-").replace("-", "_") if long else None)
        action = given.get("action")
        value = given.get("default", _FLAGS.get(action, UNREAD) if isinstance(action, str) else UNREAD)
        if isinstance(name, str):
            self.options[name] = value

    def read_class(self, node: ast.ClassDef) -> None:
        """Note a class and its fields with values: attributes of the class, and defaults of its objects."""
        self.classes.add(node.name)
        for part in node.body:
            target: ast.expr | None = part.target if isinstance(part, ast.AnnAssign) else None
            if isinstance(part, ast.Assign) and len(part.targets) == 1:
                target = part.targets[0]
            if isinstance(target, ast.Name) and isinstance(part, ast.Assign | ast.AnnAssign) and part.value is not None:
                value = self.value(_default_of_field(part.value))
                self.values[f"{node.name}.{target.id}"] = self.options[target.id] = value

    def called(self, call: ast.Call) -> None:
        """Record the arguments of the first call of a function that the code defines."""
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        if name not in self.functions or name in self.given:
            return
        keywords = [(keyword.arg, keyword.value) for keyword in call.keywords if keyword.arg is not None]
        pairs = [*zip(self.functions[name], call.args, strict=False), *keywords]
        self.given[name] = {key: (self.value(node), self.is_default(node)) for key, node in pairs}

    @contextmanager
    def inside(self, function: Function) -> Iterator[None]:
        """Read a function's body, in which its parameters have what they are given, or their defaults."""
        parameters = _parameters(function)
        self.functions[function.name] = [*parameters]
        outer = self.values, self.defaults
        self.values, self.defaults = self.values.new_child(), self.defaults.new_child()
        given = self.given.get(function.name, {})
        for name, node in parameters.items():
            if name in given:
                value, is_default = given[name]
                self._set(name, value, default=is_default)
            elif node is not None:
                self._set(name, self.value(node), default=True)
            elif name in self.options:
                self._set(name, self.options[name], default=True)
            elif name in self.values:
                self._set(name, UNREAD, default=False)
        yield
        self.values, self.defaults = outer

    def _set(self, name: str, value: Any, *, default: bool) -> None:
        self.values[name] = value
        self.defaults[name] = default


def _parameters(function: Function) -> Mapping[str, ast.expr | None]:
    """Return the parameters of a function in order, with their defaults."""
    given = function.args
    positional = [*given.posonlyargs, *given.args]
    defaults: Sequence[ast.expr | None] = [*[None] * (len(positional) - len(given.defaults)), *given.defaults]
    pairs = [*zip(positional, defaults, strict=True), *zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return {parameter.arg: default for parameter, default in pairs}


def _is_parsed(node: ast.expr) -> bool:
    """Return whether an expression is what the parser of a command returns, by the name of what is called."""
    called = node.func if isinstance(node, ast.Call) else None
    name = called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else ""
    return name.startswith("parse_")


def _default_of_field(node: ast.expr) -> ast.expr:
    """Return the default in a call of dataclasses.field, or the expression itself."""
    if isinstance(node, ast.Call):
        return next((keyword.value for keyword in node.keywords if keyword.arg == "default"), node)
    return node
