"""Seeded random requests for sharded runs: several GPUs, and the settings of the library that shards."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError
from calculator.families import FAMILIES, FAMILIES_WITH_FORWARD, model_from_config
from calculator.sharding.zero.refusals import ON_HOST
from calculator.sharding.zero3.refusals import FAMILIES as ORDERED
from validation.random_grid.image_requests import random_image_request
from validation.random_grid.random_configs import MIDDLING, random_config
from validation.random_grid.random_requests import random_method, random_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.common.names import MethodName
    from calculator.inputs.sharding import ShardingName
    from validation.random_grid.random_requests import Options

#: The optimizers of requests under ZeRO.
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd", "rmsprop")

TRAINING: Options = {
    "micro_batch_size": (0.6, (1, 2, 3)),
    "sequence_length": (1.0, (16, 32, 64, 100, 128)),
    "gradient_accumulation_steps": (0.35, (2, 3, 8)),
    "gradient_checkpointing": (0.5, (True,)),
    "attention": (0.15, ("eager",)),
    "padding": (0.15, (True,)),
    "optimizer": (0.6, OPTIMIZERS),
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

#: The settings of stages 1 and 2.
FLAT: Options = {
    "reduce_bucket_size": (0.75, (5_000, 50_000, 200_000, 1_000_000, "auto")),
    "overlap_comm": (0.3, (True,)),
    "round_robin_gradients": (0.2, (True,)),
    "offload_optimizer": (0.25, ({"device": "cpu"},)),
}

LORA: Options = {
    "r": (0.8, (1, 2, 4, 8, 16)),
    "lora_dropout": (0.35, (0.1,)),
    "target_modules": (0.9, ("all-linear",)),
    "bias": (0.1, ("all", "lora_only")),
    "use_dora": (0.2, (True,)),
    "lora_bias": (0.1, (True,)),
}

QLORA: Options = {
    **LORA,
    "double_quant": (0.3, (False,)),
    "quant_storage": (0.3, ("bfloat16",)),
    "prepare_model_for_kbit_training": (0.3, (False,)),
}

#: The methods of requests under ZeRO-3 that name none, and their options.
OPTIONS: dict[MethodName, Options] = {"full": {}, "lora": LORA, "qlora": QLORA, "ia3": {}}

COUNTS = (2, 2, 3, 4, 4, 6, 8, 8, 16, 64)

#: By sharding: the field of `training` that configures it, and its options.
FIELDS: dict[ShardingName, tuple[str, Options]] = {
    "ddp": (
        "ddp",
        {
            "gradient_as_bucket_view": (0.4, (True,)),
            "find_unused_parameters": (0.3, (True,)),
            "static_graph": (0.2, (True,)),
            "bucket_cap_mb": (0.3, (1, 5, 100)),
        },
    ),
    "fsdp": ("fsdp_config", {"reshard_after_forward": (0.3, (False,)), "cpu_offload": (0.25, (True,))}),
    "zero1": ("deepspeed", FLAT),
    "zero2": ("deepspeed", FLAT),
    "zero3": ("deepspeed", ZERO),
}


def random_sharded_request(
    seed: int,
    number: int,
    families: Sequence[str] = (),
    sharding: ShardingName = "zero3",
    *,
    with_images: bool = False,
    method: MethodName | None = None,
) -> dict[str, Any]:
    """Return the body of one request. Under ZeRO-3, `method` is the method of each."""
    if sharding == "zero3" and not with_images:
        return _partitioned(seed, number, families, method)
    rng = random.Random(f"{sharding} {seed} {number}")
    if with_images:
        body = random_image_request(seed, number, families)
    else:
        body = random_request(seed, number, families or FAMILIES_WITH_FORWARD)
    name, options = FIELDS[sharding]
    chosen = _set(rng, options)
    training = body["training"]
    if name == "deepspeed":
        training["autocast"] = "bfloat16"
        training["optimizer"] = rng.choice(ON_HOST) if "offload_optimizer" in chosen else rng.choice(OPTIMIZERS)
        chosen = {"zero_optimization": chosen}
    return {
        **body,
        "training": training | {name: chosen},
        "device": {"count": rng.choice(COUNTS), "sharding": sharding},
    }


def _partitioned(
    seed: int, number: int, families: Sequence[str], method_name: MethodName | None = None
) -> dict[str, Any]:
    """Return a request under ZeRO-3, whose families are those that are modeled.

    With `method_name`, each has this method, and sets more of its options.
    """
    rng = random.Random(f"zero3 {seed} {number}")
    family = rng.choice(sorted(families or ORDERED))
    name = rng.choice(list(OPTIONS)) if method_name is None else method_name
    method = {"name": name, **_set(rng, OPTIONS.get(name, {}))}
    in_float32 = rng.random() < 0.2 and name != "qlora"
    training = _set(rng, TRAINING) | ({"dtype": "float32"} if in_float32 else {"autocast": "bfloat16"})
    config, zero = _config(rng, family), _set(rng, ZERO)
    if method_name is not None:
        method_rng = random.Random(f"zero3 {seed} {number} method")
        method = random_method(method_rng, f"zero3 {seed} {number}", model_from_config(config), method_name)
    if "offload_optimizer" in zero:
        training["optimizer"] = rng.choice(ON_HOST)
    count = rng.choice(COUNTS)
    deepspeed = {"zero_optimization": zero} | _set(rng, {"zero3_init_flag": (0.75, (True,))})
    return {
        "model": {"config": config},
        "method": method,
        "training": training | {"deepspeed": deepspeed},
        "device": {"count": count, "sharding": "zero3"},
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
