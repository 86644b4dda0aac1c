"""The parameters that full fine-tuning trains, by regular expressions for their names, as in axolotl.

Source: axolotl, utils/freeze.py, freeze_layers_except and LayerNamePattern.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.methods.layer_kinds import full_name
from calculator.methods.name_patterns import is_readable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.inputs.training import Training
    from calculator.methods.full.method import Full

#: The rows that a pattern may end with, such as `[:32000]`. The gradients of other rows are set to zero in place.
_ROWS = re.compile(r"(.+)\[[0-9]*(?::[0-9]*)?\]")

_MOST_PATTERNS = 1_000


def problems(patterns: tuple[str, ...], model: Model) -> Iterator[Problem]:
    """Yield patterns that are not read, and those that match no parameter."""
    loc = "method.unfrozen_parameters"
    if not patterns:
        yield Problem(loc=loc, msg="trains nothing: name parameters, or use null to train all", input=[])
    if len(patterns) > _MOST_PATTERNS:
        message = f"has {len(patterns):,} patterns: at most {_MOST_PATTERNS:,} are read"
        yield Problem(loc=loc, msg=message, input=len(patterns))
        return
    odd = next((pattern for pattern in patterns if not is_readable(name_pattern(pattern))), None)
    if odd is not None:
        message = f"{odd} is not read: use the start of a name, or an expression with at most one group"
        yield Problem(loc=loc, msg=message, input=odd)
        return
    names = [weight.name for weight in model.weights()]
    for pattern in patterns:
        compiled = _compiled((pattern,))
        if not any(map(compiled.match, names)):
            yield Problem(loc=loc, msg=f"{pattern} {_unmatched_reason(compiled, model)}", input=pattern)
            return
    every = _compiled(patterns)
    if model.idle and all(map(model.is_idle, filter(every.match, names))):
        message = "nothing that is trained is used for text: name parameters of the text model too, or set images"
        yield Problem(loc=loc, msg=message, input=[*patterns])


def dtype_problems(method: Full, model: Model, training: Training) -> Iterator[Problem]:
    """Yield why the trained parameters cannot be in float32."""
    loc, patterns = "method.unfrozen_dtype", method.unfrozen_parameters
    if method.unfrozen_dtype == "model":
        return
    if patterns is None:
        message = "is for some parameters of the model: name them in unfrozen_parameters, or use training.dtype float32"
        yield Problem(loc=loc, msg=message, input=method.unfrozen_dtype)
        return
    if training.autocast is None and training.dtype != "float32":
        message = f"multiplies {training.dtype} with float32: set training.autocast, as bf16=True of a Trainer does"
        yield Problem(loc=loc, msg=message, input=method.unfrozen_dtype)
    for path, module in method.with_layers(model).paths:
        chosen = trained(patterns, full_name(path, module), module)
        if chosen and len(chosen) != len(module.parameters):
            message = f"is modeled for whole modules, and of {path} only {', '.join(chosen)} is trained: use model"
            yield Problem(loc=loc, msg=message, input=method.unfrozen_dtype)
            return


def trained(patterns: tuple[str, ...], path: str, module: Module) -> tuple[str, ...]:
    """Return the names of a module's own parameters that one of the patterns matches; `path` is its full name."""
    compiled = _compiled(patterns)
    named = ((parameter, f"{path}.{parameter.name}" if path else parameter.name) for parameter in module.parameters)
    return tuple(parameter.name for parameter, name in named if not parameter.frozen and compiled.match(name))


def trained_names(patterns: tuple[str, ...], model: Model) -> tuple[str, ...]:
    """Return the names of the model's parameters that one of the patterns matches, in order."""
    compiled = _compiled(patterns)
    return tuple(weight.name for weight in model.weights() if compiled.match(weight.name))


def names_rows(patterns: tuple[str, ...]) -> bool:
    """Return whether a pattern trains some rows of a parameter only."""
    return any(_ROWS.fullmatch(pattern) for pattern in patterns)


def _unmatched_reason(pattern: re.Pattern[str], model: Model) -> str:
    """Return why a pattern matches no parameter: the name is that of a tied one, or there is none."""
    for name, owner in model.tied.items():
        if pattern.match(name):
            return f"is the same tensor as {owner}: name that"
    return "matches no parameter: names are matched from their start, as model.layers.0.mlp.down_proj.weight"


def name_pattern(pattern: str) -> str:
    """Return the expression without rows; a dot matches a dot only."""
    rows = _ROWS.fullmatch(pattern)
    return (rows[1] if rows else pattern).replace(".", r"\.")


@lru_cache(maxsize=64)
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{name_pattern(pattern)})" for pattern in patterns))
