"""Sliding-window attention: the layers with a window, and its size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calculator.architecture.config import Check, Computed, Config, Entry, Field
from calculator.architecture.layer_kind import ATTENTION_TYPES
from calculator.common.errors import shown
from calculator.families.fields import MOST_TOKENS, flag, size

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.layer_kind import AttentionType


def window(default: int | None) -> Field:
    """Declare the number of tokens in the window of sliding layers."""
    return size("sliding_window", default, nullable=True, maximum=MOST_TOKENS)


def switched_window(default: int | None, unused: int | None = None) -> tuple[Entry, ...]:
    """Declare a window that only applies if `use_sliding_window` is true. Otherwise its value is `unused`."""
    return (
        flag("use_sliding_window", False),
        replace(window(default), minimum=unused),
        Computed(name="sliding_window", value=lambda c: c["sliding_window"] if c["use_sliding_window"] else unused),
    )


def layer_types(slides: Callable[[Config, int], Any]) -> tuple[Entry, ...]:
    """Declare the attention type of each layer. `slides` decides it if the file has no `layer_types`."""

    def usual(config: Config) -> tuple[str, ...]:
        return tuple(ATTENTION_TYPES[bool(slides(config, index))] for index in range(config["num_hidden_layers"]))

    types_field = Field(name="layer_types", type="names", default=None, nullable=True, null=usual)
    return (
        types_field,
        Check(name="layer_types", problem=_wrong_layer_types),
        Check(name="sliding_window", problem=_missing_window),
    )


def sliding_except_every(period: int | str) -> Callable[[Config, int], Any]:
    """Return a function that lets all layers slide, except each `period`-th or each `config[period]`-th one."""
    if isinstance(period, int):
        return lambda _config, index: (index + 1) % period
    return lambda config, index: (index + 1) % config[period]


def attention_type(config: Config) -> AttentionType:
    """Return the attention type of all layers, which is sliding if there is a window."""
    return ATTENTION_TYPES[bool(config["sliding_window"])]


def _wrong_layer_types(config: Config) -> str | None:
    types, expected = config["layer_types"], config["num_hidden_layers"]
    if len(types) != expected:
        return f"lists {len(types):,} layers, but num_hidden_layers is {shown(expected)}"
    unknown = next((kind for kind in types if kind not in ATTENTION_TYPES), None)
    if unknown is not None:
        return f"{shown(unknown)} is none of {', '.join(ATTENTION_TYPES)}"
    return None


def _missing_window(config: Config) -> str | None:
    if not config["sliding_window"] and "sliding_attention" in config["layer_types"]:
        return (
            "no window is in use, but layer_types has sliding_attention;"
            " set it (and use_sliding_window, where the family has that), or full_attention throughout"
        )
    return None
