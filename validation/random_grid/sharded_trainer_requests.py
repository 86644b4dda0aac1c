"""Seeded random requests for a trainer on several GPUs: those of trainers, with a sharding and its settings."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from validation.random_grid.sharded_requests import COUNTS, ZERO
from validation.random_grid.trainer_requests import (
    random_image_trainer_request,
    random_offloaded_request,
    random_trainer_request,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.inputs.sharding import ShardingName
    from validation.random_grid.random_requests import Options
    from validation.reference.trainers.recipe import TrainerName

#: Settings of each sharding, by the object of `training` that has them.
SETTINGS: dict[str, tuple[str, Options]] = {
    "ddp": (
        "ddp",
        {
            "find_unused_parameters": (0.4, (True,)),
            "static_graph": (0.2, (True,)),
            "bucket_cap_mb": (0.3, (1, 100)),
        },
    ),
    "fsdp": ("fsdp_config", {"reshard_after_forward": (0.25, (False,)), "cpu_offload": (0.15, (True,))}),
    "zero1": ("deepspeed", {name: ZERO[name] for name in ("reduce_bucket_size", "overlap_comm", "reduce_scatter")}),
    "zero2": (
        "deepspeed",
        {name: ZERO[name] for name in ("reduce_bucket_size", "overlap_comm", "reduce_scatter")}
        | {"round_robin_gradients": (0.2, (True,))},
    ),
    "zero3": ("deepspeed", ZERO),
}

#: The share of requests under ZeRO-3 whose model is built whole.
WHOLE = 0.25

#: Optimizers that run on FSDP2's shards.
ON_SHARDS = ("adamw_torch", "adamw_torch_fused", "sgd", "rmsprop")


def random_sharded_trainer_request(
    seed: int,
    number: int,
    trainers: Sequence[TrainerName],
    shardings: Sequence[ShardingName],
    families: Sequence[str] = (),
    *,
    with_images: bool = False,
    offloads: bool = False,
) -> dict[str, Any]:
    """Return the body of one request."""
    rng = random.Random(f"sharded trainer {seed} {number}")
    draw = random_image_trainer_request if with_images else random_trainer_request
    if offloads:
        draw = random_offloaded_request
    request = draw(seed, number, trainers, families)
    sharding = rng.choice(shardings)
    name, options = SETTINGS[sharding]
    settings = {key: rng.choice(values) for key, (share, values) in options.items() if rng.random() < share}
    training = request["training"]
    if sharding == "fsdp":
        training["optimizer"] = rng.choice(ON_SHARDS)
    if name == "deepspeed":
        training |= {"dtype": "float32"} if rng.random() < 0.2 else {"autocast": "bfloat16"}
        if training.get("autocast") is None and training["dtype"] != "float32":
            training["autocast"] = "bfloat16"
        training.pop("gradient_checkpointing_kwargs", None)
        settings = {"zero_optimization": settings}
    count = rng.choice(COUNTS)
    if sharding == "zero3" and rng.random() < WHOLE:
        settings["zero3_init_flag"] = False
    return request | {
        "training": training | {name: settings},
        "device": {"count": count, "sharding": sharding},
    }
