"""Random parameters that full fine-tuning trains, all others being frozen, and dtypes of trained copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random

    from calculator.architecture.model import Model

#: The share of methods with copies of modules whose copies are cast to float32.
SHARE = 0.3


def unfrozen_options(rng: random.Random, model: Model, share: float) -> dict[str, Any]:
    """Return `unfrozen_parameters` for a share of the requests: layers, modules of every layer, parameters."""
    if rng.random() >= share:
        return {}
    names = [weight.name for weight in model.weights()]
    stack = rng.choice(model.stacks)
    first = rng.randrange(len(stack.layers))
    layers = [f"{stack.name}.{index}." for index in range(first, min(first + rng.randint(1, 3), len(stack.layers)))]
    module = rng.choice(rng.choice(stack.layers).modules)
    every_layer = [f"{stack.name}.[0-9]+.{module.name}"]
    outside = [name for name in names if not any(name.startswith(repeated.name) for repeated in model.stacks)]
    single = [f"^{name}$" for name in rng.sample(names, min(3, len(names)))]
    chosen = rng.choice((layers, every_layer, single, [*layers, *every_layer]))
    return {"unfrozen_parameters": [*chosen, *rng.sample(outside, rng.randint(0, min(2, len(outside))))]}


def cast_copies(rng: random.Random, method: dict[str, Any], training: dict[str, Any]) -> None:
    """Cast the copies of modules to float32 in a share of the requests, mostly under autocast, as they need."""
    if method["name"] not in ("lora", "qlora", "oft") or "modules_to_save" not in method or rng.random() >= SHARE:
        return
    method["unfrozen_dtype"] = "float32"
    if rng.random() < 0.9:
        training["autocast"] = training.get("dtype", "bfloat16").replace("float32", "bfloat16")
        training.pop("adapter_dtype", None)
        for name in ("bias", "trainable_token_indices"):
            method.pop(name, None)
