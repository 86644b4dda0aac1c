"""The releases of libraries that a script pins, as the stack of a request."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError
from calculator.estimation.compatibility import check
from calculator.estimation.estimate import model_of
from calculator.estimation.request import parse_request
from calculator.inputs.settings import declared
from calculator.inputs.stack import DEFAULT_STACK, StackVersions

if TYPE_CHECKING:
    from app.interop.imports.keys import Keys

_PACKAGES = {each.name.replace("_", "[-_]"): each.name for each in declared(StackVersions)}

#: A pinned requirement, of pip or of a script's own metadata.
_PIN = re.compile(rf"(?<![\w-])({'|'.join(_PACKAGES)})==(\d{{1,4}}(?:\.\d{{1,4}}){{1,2}})")


def pins(text: str) -> dict[str, str]:
    """Return the pinned release of each library of a stack; the first of several counts."""
    found: dict[str, str] = {}
    for name, version in _PIN.findall(text):
        found.setdefault(name.replace("-", "_"), version)
    return found


def stack_of(keys: Keys, request: dict[str, Any]) -> dict[str, str]:
    """Return the pinned releases with which the request is still answered, and list the others."""
    stack: dict[str, str] = {}
    refused = _refusals(request)
    for name, version in keys.script.pins.items():
        wrong = _refusals({**request, "stack": {**stack, name: version}}) - refused
        if wrong:
            instead = getattr(DEFAULT_STACK, name)
            keys.miss(name.replace("_", "-"), version, f"{min(wrong)}: {instead} is used")
        else:
            stack[name] = version
    return stack


def _refusals(request: dict[str, Any]) -> set[str]:
    """Return why a request is refused."""
    try:
        parsed = parse_request(request, catalogued=False)
        check(parsed, model_of(parsed.model))
    except PlanError as error:
        return {problem.msg.split(":")[0] for problem in error.problems}
    return set()
