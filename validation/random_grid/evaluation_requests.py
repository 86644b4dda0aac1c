"""Seeded random runs that evaluate: random requests with a trainer, and settings of an evaluation."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from validation.random_grid.sharded_trainer_requests import random_sharded_trainer_request
from validation.random_grid.trainer_requests import random_trainer_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.common.names import MethodName
    from calculator.inputs.sharding import ShardingName
    from validation.reference.trainers.recipe import TrainerName

#: Rows of a batch, and samples of the evaluation on each GPU.
ROWS, SAMPLES = (1, 2, 3, 4, 8), range(1, 25)

#: The trainers that may gather logits.
GATHERING: tuple[TrainerName, ...] = ("transformers", "trl-sft")


def random_evaluation_request(
    seed: int,
    number: int,
    trainers: Sequence[TrainerName],
    sharding: ShardingName | None = None,
    families: Sequence[str] = (),
    method: MethodName | None = None,
) -> dict[str, Any]:
    """Return the body of one run, under a sharding or on one GPU."""
    rng = random.Random(f"evaluation {seed} {number}")
    if sharding is None:
        request = random_trainer_request(seed, number, trainers, families, method)
    else:
        request = random_sharded_trainer_request(seed, number, trainers, [sharding], families)
    return {**request, "run": _run(rng, request), "reserved": "rule"}


def _run(rng: random.Random, request: dict[str, Any]) -> dict[str, Any]:
    training, count = request["training"], request.get("device", {}).get("count", 1)
    run = {
        "eval_strategy": "steps",
        "save_strategy": "no",
        "per_device_eval_batch_size": rng.choice(ROWS),
        "eval_samples": rng.choice(SAMPLES) * count,
    }
    if training.get("num_generations") or "max_completion_length" in training:
        run["per_device_eval_batch_size"] = training["micro_batch_size"] * rng.choice((1, 1, 2))
    if training["trainer"] in GATHERING and rng.random() < 0.5:
        run["compute_metrics"] = True
        if rng.random() < 0.3:
            run["eval_accumulation_steps"] = rng.choice((1, 2, 3))
        if training["trainer"] == "transformers" and rng.random() < 0.5:
            length = training["sequence_length"] + rng.choice((1, 2, 3, 8, 20))
            run |= {"predict_with_generate": True, "generation_max_length": length}
    return run
