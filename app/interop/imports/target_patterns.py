"""`target_modules` that is a pattern: PEFT compares it with whole names (`re.fullmatch`), a request has only names.

Source: peft 0.21, tuners/tuners_utils.py, check_target_module_exists.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from calculator.architecture.model import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.interop.imports.keys import Keys
    from calculator.architecture.model import Model

#: Text that PEFT can only mean as a pattern.
_IS_PATTERN = re.compile(r"[\\|()\[\]*+?^$]")

#: Patterns that take little time: short, no group repeated, and few repeats of a character.
_LONGEST, _MOST_REPEATS = 300, 4
_QUICK = re.compile(r"(?:[\w.|()^$-]|\(\?:|\\[dw.]|\[[\w\\-]{1,20}\]|(?<!\))[*+]|\?(?!\?))+")


def targets(keys: Keys, key: str, model: Model | None, *, of_layers: bool = True) -> dict[str, Any]:
    """Return the settings of a method for the modules that a key names: a list of names, or a pattern.

    `of_layers`: whether the method has settings for single layers, as LoRA has.
    """
    pattern = keys.left.get(key)
    if not isinstance(pattern, str) or not _IS_PATTERN.search(pattern):
        return {"target_modules": keys.names(key)}
    keys.take(key)
    found = _settings(pattern, model) if model is not None else None
    if found is None or (len(found) > 1 and not of_layers):
        keys.miss(key, pattern, "is a pattern, which names cannot say for this model: PEFT's default is used")
        return {"target_modules": None}
    return found


def _settings(pattern: str, model: Model) -> dict[str, Any] | None:
    """Return the names of the modules that match, and the layers where these alone are adapted; None if that differs.

    Modules of one list of layers are named with the layers of this list: others may have modules of these names.
    """
    matched = _matched(pattern, model)
    names = sorted({name.rpartition(".")[2] for name in matched})
    named = {name: stack for name, stack in _linear(model) if name.rpartition(".")[2] in names}
    if not matched:
        return None
    if matched == {*named}:
        return {"target_modules": names}
    stacks = {named[name] for name in matched}
    stack = next(iter(stacks))
    if len(stacks) > 1 or stack is None or matched != {name for name, own in named.items() if own == stack}:
        return None
    count = next(len(part.layers) for part in model.parts if isinstance(part, Stack) and part.name == stack)
    pattern_of_stack = ".".join(stack.split(".")[-2:])
    return {"target_modules": names, "layers_to_transform": [*range(count)], "layers_pattern": [pattern_of_stack]}


def _matched(pattern: str, model: Model) -> set[str]:
    repeats = sum(map(pattern.count, "*+"))
    if len(pattern) > _LONGEST or repeats > _MOST_REPEATS or not _QUICK.fullmatch(pattern):
        return set()
    try:
        compiled = re.compile(pattern)
    except re.error:
        return set()
    return {name for name, _ in _linear(model) if compiled.fullmatch(name) or compiled.fullmatch(_in_whole(name))}


def _in_whole(name: str) -> str:
    """Return the name of a text model's module in the model that reads images, which its files are of."""
    return name.replace("model.", "model.language_model.", 1)


def _linear(model: Model) -> Iterator[tuple[str, str | None]]:
    """Yield the name of every linear layer, and that of its list of layers."""
    for part in model.parts:
        if isinstance(part, Stack):
            for index, layer in enumerate(part.layers):
                of_layer = (module.name for module in layer.modules if module.kind == "linear")
                yield from ((f"{part.name}.{index}.{name}", part.name) for name in of_layer)
        elif part.kind == "linear":
            yield part.name, None
