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


def targets(keys: Keys, key: str, model: Model | None, *, in_layers: bool = True) -> dict[str, Any]:
    """Return the settings of a method for the modules that a key names: a list of names, or a pattern.

    `in_layers`: whether the method has settings for single layers, as LoRA has.
    """
    pattern = keys.left.get(key)
    if not isinstance(pattern, str) or not _IS_PATTERN.search(pattern):
        return {"target_modules": keys.names(key)}
    keys.take(key)
    matched = settings(_matched(pattern, model), model) if model is not None else None
    if matched is None or (len(matched) > 1 and not in_layers):
        keys.miss(key, pattern, "is a pattern that module names cannot express for this model: PEFT's default is used")
        return {"target_modules": None}
    return matched


def settings(matched: set[str], model: Model) -> dict[str, Any] | None:
    """Return the settings with which the linear layers of these names alone are adapted; None if there are none.

    Modules of one list of layers are named with the layers of this list: others may have modules of these names.
    """
    linear = dict(linear_modules(model))
    others = [name for name, part in model.outer.items() if part.kind == "other"]  # PEFT adapts convolutions too
    for parts in (1, 2):
        ends = sorted({_last_parts(name, parts) for name in matched})
        if any(_last_parts(name, parts) in ends for name in others):
            continue
        named = {name for name in linear if any(_last_parts(name, end.count(".") + 1) == end for end in ends)}
        stacks = {linear[name] for name in matched}
        if matched and matched == named:
            return {"target_modules": ends}
        stack = next(iter(stacks), None)
        if len(stacks) == 1 and stack is not None and matched == {name for name in named if linear[name] == stack}:
            return {"target_modules": ends, **_settings_of_stack(stack, model)}
    return None


def listed_of_quantized(method: dict[str, Any], reference: Any, model: Model | None) -> dict[str, Any]:
    """Return the settings of a method that names every linear layer where the checkpoint's are of other classes.

    axolotl and LLaMA-Factory find them by the names of classes, and PEFT's all-linear does not. Source: axolotl's
    loaders/adapter.py, find_all_linear_names; LLaMA-Factory's model/model_utils/misc.py, find_all_linear_modules.
    """
    stored = reference["config"].get("quantization_config") if isinstance(reference, dict) else None
    if stored is None or model is None or method.get("target_modules") != "all-linear":
        return {}
    names = {name.rpartition(".")[2] for name, _ in linear_modules(model) if name != model.head}
    return {"target_modules": sorted(names)}


def _last_parts(name: str, parts: int) -> str:
    return ".".join(name.split(".")[-parts:])


def _settings_of_stack(stack: str, model: Model) -> dict[str, Any]:
    """Return the settings for every layer of one list."""
    count = next(len(part.layers) for part in model.parts if isinstance(part, Stack) and part.name == stack)
    return {"layers_to_transform": [*range(count)], "layers_pattern": [".".join(stack.split(".")[-2:])]}


def _matched(pattern: str, model: Model) -> set[str]:
    repeats = sum(map(pattern.count, "*+"))
    if len(pattern) > _LONGEST or repeats > _MOST_REPEATS or not _QUICK.fullmatch(pattern):
        return set()
    try:
        compiled = re.compile(pattern)
    except re.error:
        return set()
    return matched_by(compiled, model)


def matched_by(pattern: re.Pattern[str], model: Model) -> set[str]:
    """Return the names of the linear layers that a pattern matches."""
    names = (name for name, _ in linear_modules(model))
    return {name for name in names if pattern.fullmatch(name) or pattern.fullmatch(_name_in_whole_model(name))}


def _name_in_whole_model(name: str) -> str:
    """Return the name of a text model's module in the model that reads images, which its files are of."""
    return name.replace("model.", "model.language_model.", 1) if name.startswith("model.layers.") else name


def linear_modules(model: Model) -> Iterator[tuple[str, str | None]]:
    """Yield the name of every linear layer, and that of its list of layers."""
    for part in model.parts:
        if isinstance(part, Stack):
            for index, layer in enumerate(part.layers):
                layer_names = (module.name for module in layer.modules if module.kind == "linear")
                yield from ((f"{part.name}.{index}.{name}", part.name) for name in layer_names)
        elif part.kind == "linear":
            yield part.name, None
