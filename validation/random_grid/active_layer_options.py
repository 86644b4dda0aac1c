"""Random options of BAdam and LISA, which train some layers at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random

    from calculator.architecture.model import Model


def active_layer_options(rng: random.Random, model: Model, share: float) -> dict[str, Any]:
    """Return the options of BAdam or LISA for a share of the requests."""
    if rng.random() >= share:
        return {}
    layers = len(model.decoder.layers)
    if rng.random() < 0.4:
        return {"lisa_n_layers": rng.randint(1, layers)}
    options: dict[str, Any] = {"use_badam": True}
    for name in ("include_embedding", "include_lm_head"):
        options |= {name: True} if rng.random() < 0.35 else {}
    if rng.random() < 0.3:
        options["badam_switch_interval"] = rng.choice((1, 1, 2, 20))
    if rng.random() < 0.4:
        blocks = layers + sum(name in options for name in ("include_embedding", "include_lm_head"))
        options |= {"badam_switch_mode": "fixed", "badam_start_block": rng.randrange(blocks)}
    return options
