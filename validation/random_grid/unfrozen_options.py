"""Random parameters that full fine-tuning trains, all others being frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random

    from calculator.architecture.model import Model


def unfrozen_options(rng: random.Random, model: Model, share: float) -> dict[str, Any]:
    """Return `unfrozen_parameters` for a share of the requests: layers, modules of every layer, parameters."""
    if rng.random() >= share:
        return {}
    names = [weight.name for weight in model.weights()]
    stack = rng.choice(model.stacks)
    first = rng.randrange(len(stack.layers))
    layers = [f"{stack.name}.{index}." for index in range(first, min(first + rng.randint(1, 3), len(stack.layers)))]
    module = rng.choice(rng.choice(stack.layers).modules)
    of_every_layer = [f"{stack.name}.[0-9]+.{module.name}"]
    outside = [name for name in names if not any(name.startswith(each.name) for each in model.stacks)]
    single = [f"^{name}$" for name in rng.sample(names, min(3, len(names)))]
    chosen = rng.choice((layers, of_every_layer, single, [*layers, *of_every_layer]))
    return {"unfrozen_parameters": [*chosen, *rng.sample(outside, rng.randint(0, min(2, len(outside))))]}
