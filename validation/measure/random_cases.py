"""Random steps of small models, to compare attention kernels with the calculator."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.families import FAMILIES
from validation.measure.step_cases import StepCase
from validation.random_grid.random_requests import random_model

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Families with every layout of queries: by positions or by heads, grouped or not, with windows, norms and biases.
NAMES = (
    *("llama", "gpt_neox", "phi", "phi3", "stablelm", "glm", "glm4", "gemma3_text", "qwen2", "qwen3", "gpt2", "opt"),
    *("olmo2", "starcoder2", "cohere", "nemotron", "granite", "gemma", "gptj", "mistral", "smollm3", "exaone4"),
    *("seed_oss", "gemma2", "ministral"),
)

_ALL_LINEAR = {"r": 8, "target_modules": "all-linear"}
METHODS: tuple[dict[str, Any], ...] = (
    {"name": "full"},
    {"name": "lora", **_ALL_LINEAR},
    {"name": "lora", "r": 8},
    {"name": "qlora", **_ALL_LINEAR},
)
LENGTHS = (17, 64, 128, 200, 256, 384, 512, 777, 1024, 1536, 2048)
DTYPES = (*("bfloat16",) * 4, "float16", "float32")


def random_cases(seed: int, count: int, machine: dict[str, Any]) -> Iterator[StepCase]:
    """Yield the steps of a seed that the calculator models. `machine` has their `device` and `stack`."""
    for number in range(count):
        body = {**random_body(seed, number), **machine}
        training, method = body["training"], body["method"]["name"]
        shape = f"{training['micro_batch_size']} × {training['sequence_length']}"
        family = body["model"]["config"]["model_type"]
        case = StepCase(name=f"seed {seed}, {number}: {family}, {method}, {shape}", body=body)
        try:
            estimate(replace(parse_request(body), reserved="rule"))
        except PlanError:
            continue
        yield case


def random_body(seed: int, number: int) -> dict[str, Any]:
    """Return one request of a seed, without a device."""
    rng = random.Random(f"attention {seed} {number}")
    config, _ = random_model(rng, FAMILIES[rng.choice(NAMES)])
    method = rng.choice(METHODS)
    training: dict[str, Any] = {
        "micro_batch_size": rng.choice((1, 1, 2, 3, 4)),
        "sequence_length": rng.choice(LENGTHS),
        "max_grad_norm": None,
        "dtype": rng.choice(DTYPES),
    }
    if rng.random() < 0.25:
        training["padding"] = True
    if rng.random() < 0.35:
        training["gradient_checkpointing"] = True
    if rng.random() < 0.1 and training["dtype"] == "float32":
        training["autocast"] = "bfloat16"
    if rng.random() < 0.15:
        training["gradient_accumulation_steps"] = 2
    return {"model": {"config": config}, "method": method, "training": training}
