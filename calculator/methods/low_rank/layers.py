"""The layers that LoRA adapts, and their ranks: `layers_to_transform`, `layers_pattern` and `rank_pattern`.

Layers of one kind that are adapted differently become separate kinds.

Source: peft 0.21, tuners/tuners_utils.py, check_target_module_exists; utils/other.py, get_pattern_key.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from calculator.methods.layer_kinds import split

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.architecture.model import Model
    from calculator.methods.low_rank.method import LowRank

#: The index of a layer in a module's name, if no pattern gives the text before it.
_INDEX = re.compile(r".*?\.[^.]*\.(?P<index>\d+)\.")


def is_transformed(method: LowRank, name: str) -> bool:
    """Return whether `layers_to_transform` selects the layer of a module. If it is not set, all are selected.

    A module whose whole name is a target is adapted too, such as `lm_head`.
    """
    if method.layers_to_transform is None or name in (method.target_modules or ()):
        return True
    match = next(filter(None, (pattern.match(name) for pattern in _index_patterns(method.layers_pattern))), None)
    return match is not None and int(match["index"]) in method.layers_to_transform


def rank(method: LowRank, name: str) -> int:
    """Return the rank of a module: that of the first name in `rank_pattern` that matches, else `r`."""
    if not method.rank_pattern:
        return method.r
    key = first_match(method.rank_pattern, name)
    return method.r if key is None else int(method.rank_pattern[key])


def first_match(keys: Iterable[str], name: str) -> str | None:
    """Return the first key that matches the end of a name, as a regular expression."""
    return next((key for key in keys if _pattern(key).match(name)), None)


def with_layers(method: LowRank, model: Model) -> Model:
    """Return the model with a kind of layer for each way in which the method treats layers of a kind.

    Return the model unchanged if it was already split.
    """
    return split(model, lambda name, _: rank(method, name) if is_transformed(method, name) else None)


def names_layers(key: str) -> bool:
    """Return whether a key of `rank_pattern` may name single layers."""
    return any(part.isdigit() for part in re.split(r"\W", key)) or "[" in key or "\\d" in key


@lru_cache(maxsize=1024)
def _pattern(key: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({key})$")


@lru_cache(maxsize=64)
def _index_patterns(names: tuple[str, ...] | None) -> tuple[re.Pattern[str], ...]:
    if not names:
        return (_INDEX,)
    return tuple(re.compile(rf"(?:^|.*?\.){name}\.(?P<index>\d+)\.") for name in names)
