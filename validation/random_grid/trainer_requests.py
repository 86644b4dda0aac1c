"""Seeded random requests with a trainer: random requests, made small, with the trainer's own settings."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from validation.random_grid.random_requests import Options, random_request
from validation.reference.trainers.recipe import LIGER_FAMILIES

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The families of the requests without Liger's kernels.
FAMILIES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "gpt2", "gpt_neox", "olmo2", "granite",
    "qwen3_moe",
)  # fmt: skip

#: Sizes at which a trace takes seconds.
SMALL: Options = {
    "micro_batch_size": (0.8, (1, 2, 3, 4)),
    "sequence_length": (1.0, (64, 128, 200, 333, 512, 777, 1024, 2048)),
    "gradient_accumulation_steps": (0.3, (2, 3)),
}

#: Settings that every trainer has.
COMMON: Options = {
    "autocast": (0.7, ("bfloat16",)),
    "gradient_checkpointing": (0.5, (True,)),
    "use_liger_kernel": (0.3, (True,)),
}

#: Losses of DPOTrainer that need no further setting.
DPO_LOSSES = (
    "hinge", "ipo", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down",
    "discopop", "sft", "sigmoid_norm",
)  # fmt: skip

#: Losses of GRPOTrainer.
GRPO_LOSSES = ("grpo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo")

#: Settings of TRL's trainers, by trainer; numbers from 0 to 1 are shares of the tokens.
OWN: dict[str, Options] = {
    "transformers": {},
    "trl-sft": {
        "completion_tokens": (0.4, (0.1, 0.5, 0.9)),
        "packing": (0.2, (True,)),
        "padding_free": (0.1, (True,)),
        "loss_type": (0.15, ("dft",)),
    },
    "trl-dpo": {
        "completion_tokens": (0.4, (0.1, 0.5, 0.9)),
        "precompute_ref_log_probs": (0.25, (True,)),
        "loss_type": (0.5, DPO_LOSSES),
    },
    "trl-kto": {
        "completion_tokens": (0.4, (0.1, 0.5, 0.9)),
        "precompute_ref_log_probs": (0.25, (True,)),
        "loss_type": (0.3, ("apo_zero_unpaired",)),
    },
    "trl-reward": {},
    "trl-orpo": {"completion_tokens": (0.4, (0.1, 0.5, 0.9))},
    "trl-grpo": {"beta": (0.5, (0.04,)), "loss_type": (0.5, GRPO_LOSSES)},
    "trl-rloo": {"beta": (0.3, (0.0,))},
}


def random_trainer_request(seed: int, number: int, trainers: Sequence[str]) -> dict[str, Any]:
    """Return the body of one request."""
    rng = random.Random(f"trainer {seed} {number}")
    trainer = rng.choice(trainers)
    settings = _set(rng, COMMON | OWN[trainer])
    families = LIGER_FAMILIES if settings.get("use_liger_kernel") else FAMILIES
    request = random_request(seed, number, families)
    kept = {name: value for name, value in request["training"].items() if name not in {*SMALL, *COMMON, "padding"}}
    training = {"trainer": trainer, **kept, **_set(rng, SMALL), **settings}
    if training.get("gradient_checkpointing") and rng.random() < 0.3:
        training["gradient_checkpointing_kwargs"] = {"use_reentrant": True}
    if training.get("packing") and rng.random() < 0.2:
        training["packing_strategy"] = "wrapped"
    if training.get("attention") == "flash_attention_2" and training.get("dtype") == "float32":
        training["autocast"] = "bfloat16"
    if "completion_tokens" in training:
        sequences = 2 if trainer in {"trl-dpo", "trl-orpo"} else 1  # each pair's have the same number
        tokens = training.get("micro_batch_size", 1) * (training["sequence_length"] - 1)
        training["completion_tokens"] = sequences * int(training["completion_tokens"] * tokens)
    if training.get("use_liger_kernel") and request["method"]["name"] == "adapter":
        del training["use_liger_kernel"]  # its kernels look into the modules that adapters wrap
    if trainer in {"trl-grpo", "trl-rloo"}:
        training |= _completions(rng, training)
    return {"model": request["model"], "method": _method(trainer, request["method"]), "training": training}


def _completions(rng: random.Random, training: dict[str, Any]) -> dict[str, Any]:
    """Rows for two completions of a prompt, the longest completion, and whether others are a token shorter."""
    rows, most = max(2, training.get("micro_batch_size", 1)), training["sequence_length"] - 1
    longest = max(2, int(rng.choice((0.1, 0.5, 0.9, 1.0)) * most))
    settings: dict[str, Any] = {"micro_batch_size": rows, "max_completion_length": longest}
    if training.get("attention") != "flash_attention_2" and rng.random() < 0.4:
        settings |= {"completion_tokens": rows * longest - rng.randint(1, rows - 1), "padding": True}
    return settings


def _method(trainer: str, method: dict[str, Any]) -> dict[str, Any]:
    """The method as scripts of a trainer use it: TRL prepares no quantized model, and its heads skip virtual tokens."""
    if trainer == "transformers":
        return method
    if method["name"] in {"prefix", "prompt"}:
        return {"name": "lora"}
    return {"prepare_model_for_kbit_training": False, **method} if method["name"] == "qlora" else method


def _set(rng: random.Random, options: Options) -> dict[str, Any]:
    return {name: rng.choice(values) for name, (share, values) in options.items() if rng.random() < share}
