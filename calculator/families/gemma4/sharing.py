"""The layers of Gemma 4 that reuse the keys and values of an earlier layer.

Source: transformers/models/gemma4/configuration_gemma4.py, Gemma4TextConfig.kv_sharing_modes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import shown

if TYPE_CHECKING:
    from calculator.architecture.config import Config


def sharing_modes(config: Config) -> tuple[str | None, ...]:
    """Return for each layer whether it stores its keys and values, or reuses those of an earlier layer."""
    types, shared = config["layer_types"], int(config["num_kv_shared_layers"])
    storing = types[: len(types) - shared]
    last = {len(storing) - 1 - storing[::-1].index(kind) for kind in set(storing)}
    modes = ["store" if index in last else None for index in range(len(storing))]
    return (*modes, *["reuse"] * shared)


def wrong_number(config: Config) -> str | None:
    """Return an error in the number of layers that reuse keys and values, or None."""
    types, shared = config["layer_types"], int(config["num_kv_shared_layers"])
    storing = types[: max(0, len(types) - shared)]
    missing = sorted(set(types) - set(storing))
    if missing:
        return f"{shown(shared)} leaves no layer of {', '.join(missing)} with keys and values of its own"
    return None


def missing_inputs(config: Config) -> str | None:
    """Return an error if layers share keys and values without per-layer inputs, which the code slices."""
    if config["num_kv_shared_layers"] and not config["hidden_size_per_layer_input"]:
        return "must be above 0 where num_kv_shared_layers is: transformers slices these inputs"
    return None
