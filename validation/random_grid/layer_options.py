"""LoRA's settings of single layers and modules, drawn apart from the others, whose draws they leave unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

if TYPE_CHECKING:
    import random

    from calculator.architecture.model import Model

#: Values of a method's rank.
RANKS = (1, 2, 4, 8, 12, 16, 24, 32, 64)


def layer_options(rng: random.Random, model: Model, method: dict[str, Any], share: float) -> dict[str, Any]:
    """Return ranks of modules, chosen layers and a bias of B for a share of the requests."""
    if rng.random() >= share:
        return {}
    targets = method.get("target_modules") or list(DEFAULT_TARGETS.get(model.model_type, ()))
    options: dict[str, Any] = {}
    if rng.random() < 0.6:
        options["rank_pattern"] = {key: rng.choice(RANKS) for key in _keys(rng, model, targets)}
    if isinstance(targets, list) and rng.random() < 0.6:
        layers = range(len(model.decoder.layers))
        options["layers_to_transform"] = sorted(rng.sample(layers, rng.randint(1, len(layers))))
    if rng.random() < 0.3 and not method.get("use_dora"):
        options["lora_bias"] = True
    return options


def replication(rng: random.Random, model: Model, method: dict[str, Any], share: float) -> dict[str, Any]:
    """Return ranges of layers for a share of the requests, mostly without what is not modeled with them."""
    if rng.random() >= share:
        return {}
    if rng.random() < 0.9:
        for name in ("bias", "modules_to_save", "target_parameters", "trainable_token_indices", "load_in_8bit"):
            method.pop(name, None)
        method.pop("prepare_model_for_kbit_training", None)
    count = len(model.decoder.layers)
    ranges = []
    for _ in range(rng.choice((1, 2, 2, 3))):
        first = rng.randrange(count)
        ranges.append([first, rng.randint(first + 1, count)])
    return {"layer_replication": ranges}


def block_diagonal(rng: random.Random, model: Model, method: dict[str, Any], share: float) -> dict[str, Any]:
    """Return blocks of A or B of every target for a share of the requests, mostly in place of what excludes them."""
    if rng.random() >= share:
        return {}
    if rng.random() < 0.9:
        for name in ("use_dora", "lora_bias", "load_in_8bit", "target_parameters", "init_lora_weights"):
            method.pop(name, None)
    targets = method.get("target_modules") or list(DEFAULT_TARGETS.get(model.model_type, ()))
    linear = {path.rpartition(".")[2] for path, module in model.paths if module.kind in ("linear", "conv1d")}
    names = sorted(linear) if isinstance(targets, str) else targets
    a_names = [name for name in names if rng.random() < 0.5]
    b_names = [name for name in names if name not in a_names]
    nblocks = rng.choice((1, 2, 2, 4))
    r = nblocks * rng.choice((1, 2, 3, 8))
    blocks: dict[str, Any] = {"target_modules_bd_a": a_names or None, "target_modules_bd_b": b_names[:2] or None}
    blocks |= {"nblocks": nblocks, "match_strict": False}
    return {"use_bdlora": blocks, "r": r}


def _keys(rng: random.Random, model: Model, targets: Any) -> list[str]:
    """Return names of one or two kinds of modules, or of one module of one layer."""
    stack = model.decoder
    paths = [path for path, module in model.paths if path.startswith(f"{stack.name}.*.") and module.kind == "linear"]
    named = [path for path in paths if not isinstance(targets, list) or path.rpartition(".")[2] in targets] or paths
    if not named:
        return []
    if rng.random() < 0.5:
        return [path.rpartition(".")[2] for path in rng.sample(named, min(len(named), rng.randint(1, 2)))]
    index = rng.randrange(len(stack.layers))
    return [rng.choice(named).replace("*", str(index))]
