"""Seeded random requests for torchtune's recipes: small models of its families, with the recipes' own settings."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from calculator.resident.optimizers import OPTIMIZERS
from calculator.trainers.torchtune.check import FAMILIES, MLP
from validation.torchtune_recipes.models import ATTENTION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.common.names import MethodName

#: The optimizers that recipes are run with: those of PyTorch and bitsandbytes, and Adafactor.
OPTIMIZER_NAMES = tuple(
    name
    for name in OPTIMIZERS
    if name.startswith(("adamw_torch", "adamw_bnb", "adamw_8bit", "paged_", "lion_"))
    or name in ("sgd", "adagrad", "rmsprop", "adafactor")
)

#: Llama 3.1's scaling of the rotary embedding.
SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def random_torchtune_request(
    seed: int, number: int, families: Sequence[str] = (), method_name: MethodName | None = None
) -> dict[str, Any]:
    """Return the body of one request."""
    rng = random.Random(f"torchtune {seed} {number}")
    method = _method(rng, method_name or rng.choice(("full", "lora", "qlora")))
    config = _config(rng, rng.choice(tuple(families) or FAMILIES))
    return {"model": {"config": config}, "method": method, "training": _training(rng, method["name"])}


def _config(rng: random.Random, family: str) -> dict[str, Any]:
    heads, width = rng.choice((4, 6, 8, 12, 16)), rng.choice((32, 64, 72, 128))
    config: dict[str, Any] = {
        "model_type": family,
        "vocab_size": rng.randint(500, 60_000),
        "hidden_size": heads * width,
        "intermediate_size": 64 * rng.randint(2, 50),
        "num_hidden_layers": rng.randint(1, 6),
        "num_attention_heads": heads,
        "num_key_value_heads": rng.choice([count for count in (1, 2, 4, heads) if heads % count == 0]),
        "max_position_embeddings": rng.choice((1024, 4096, 131_072)),
        "tie_word_embeddings": False,
    }
    if family == "llama" and rng.random() < 0.6:
        config["rope_scaling"] = SCALING
    if family == "qwen2" or "rope_scaling" in config:
        config["tie_word_embeddings"] = rng.random() < 0.5
    return config


def _method(rng: random.Random, name: str) -> dict[str, Any]:
    if name not in ("lora", "qlora"):
        return {"name": name}
    targets = rng.sample([*ATTENTION], rng.randint(1, len(ATTENTION)))
    settings = {"r": rng.choice((1, 4, 8, 16, 64, 100)), "lora_dropout": rng.choice((0.0, 0.05))}
    method = {"name": name, **settings, "target_modules": [*targets, *(MLP if rng.random() < 0.5 else ())]}
    return {**method, "prepare_model_for_kbit_training": False} if name == "qlora" else method


def _training(rng: random.Random, method: str) -> dict[str, Any]:
    training = {
        "trainer": "torchtune",
        "adapter_dtype": "model",
        "micro_batch_size": rng.randint(1, 6),
        "sequence_length": rng.choice((9, 64, 128, 200, 333, 512, 777, 1024)),
        "gradient_checkpointing": rng.random() < 0.5,
        "optimizer": rng.choice(OPTIMIZER_NAMES),
        "max_grad_norm": rng.choice((None, 1.0)),
        "gradient_accumulation_steps": rng.choice((1, 1, 2, 3)),
    }
    if method == "full" and rng.random() < 0.3:
        training |= {"optimizer_in_bwd": True, "max_grad_norm": None, "gradient_accumulation_steps": 1}
    return training
