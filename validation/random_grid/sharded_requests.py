"""Seeded random requests for runs under ZeRO-3: small models, several ranks, DeepSpeed's settings."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError
from calculator.families import FAMILIES, model_from_config
from calculator.sharding.zero.refusals import ON_HOST
from calculator.sharding.zero3.refusals import FAMILIES as ORDERED
from calculator.sharding.zero3.refusals import METHODS
from validation.random_grid.random_configs import MIDDLING, random_config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from validation.random_grid.random_requests import Options

TRAINING: Options = {
    "micro_batch_size": (0.6, (1, 2, 3)),
    "sequence_length": (1.0, (16, 32, 64, 100, 128)),
    "gradient_accumulation_steps": (0.35, (2, 3, 8)),
    "gradient_checkpointing": (0.5, (True,)),
    "attention": (0.15, ("eager",)),
    "padding": (0.15, (True,)),
    "optimizer": (0.6, ("adamw_torch", "adamw_torch_fused", "sgd", "rmsprop")),
    "max_grad_norm": (0.25, (None,)),
}

ZERO: Options = {
    "reduce_bucket_size": (0.75, (5_000, 50_000, 200_000, 1_000_000, "auto")),
    "stage3_prefetch_bucket_size": (0.7, (0, 20_000, 200_000, 1_000_000, "auto")),
    "stage3_param_persistence_threshold": (0.7, (0, 300, 2_000, 20_000, "auto")),
    "stage3_max_live_parameters": (0.4, (0, 30_000, 300_000)),
    "stage3_max_reuse_distance": (0.5, (0, 30_000, 300_000, 3_000_000)),
    "sub_group_size": (0.25, (20_000, 100_000)),
    "overlap_comm": (0.3, (True, False)),
    "reduce_scatter": (0.15, (False,)),
    "offload_optimizer": (0.25, ({"device": "cpu"},)),
    "offload_param": (0.25, ({"device": "cpu"},)),
}

LORA: Options = {
    "r": (0.8, (1, 2, 4, 8, 16)),
    "lora_dropout": (0.35, (0.1,)),
    "target_modules": (0.9, ("all-linear",)),
    "bias": (0.1, ("all", "lora_only")),
}

COUNTS = (2, 2, 3, 4, 4, 6, 8, 8, 16, 64)


def random_sharded_request(seed: int, number: int, families: Sequence[str] = ()) -> dict[str, Any]:
    """Return the body of one request."""
    rng = random.Random(f"zero3 {seed} {number}")
    family = rng.choice(sorted(families or ORDERED))
    name = rng.choice(METHODS)
    method = {"name": name, **(_set(rng, LORA) if name == "lora" else {})}
    training = _set(rng, TRAINING) | ({"dtype": "float32"} if rng.random() < 0.2 else {"autocast": "bfloat16"})
    config, zero = _config(rng, family), _set(rng, ZERO)
    if "offload_optimizer" in zero:
        training["optimizer"] = rng.choice(ON_HOST)
    return {
        "model": {"config": config},
        "method": method,
        "training": training | {"deepspeed": {"zero_optimization": zero}},
        "device": {"count": rng.choice(COUNTS), "sharding": "zero3"},
    }


def _config(rng: random.Random, family: str) -> dict[str, Any]:
    while True:
        config = random_config(FAMILIES[family], f"{rng.random()}", MIDDLING)
        try:
            model_from_config(config)
        except PlanError:
            continue
        return config


def _set(rng: random.Random, options: Options) -> dict[str, Any]:
    return {name: rng.choice(values) for name, (share, values) in options.items() if rng.random() < share}
