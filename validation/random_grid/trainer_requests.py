"""Seeded random requests with a trainer: random requests, made small, with the trainer's own settings."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from calculator.families import FAMILIES_WITH_FORWARD
from calculator.methods import METHODS
from calculator.trainers.liger import PATCHES
from calculator.trainers.trl_reward.loop import FAMILIES as WITH_REWARD
from validation.random_grid.image_requests import random_image_request, tokens_of_images
from validation.random_grid.random_requests import Options, random_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.common.names import MethodName
    from validation.reference.trainers.recipe import TrainerName

#: The trainers that generate completions.
GENERATING: tuple[TrainerName, ...] = ("trl-grpo", "trl-rloo")

#: The trainers of preferences that read images.
PREFERENCES: tuple[TrainerName, ...] = ("trl-dpo", "trl-kto")

#: Methods that trainers of TRL fail with, or are not modeled with.
NOT_IN_TRL: dict[TrainerName, tuple[MethodName, ...]] = {
    "trl-reward": ("prefix",),
    "trl-orpo": ("prompt", "p_tuning", "qlora"),
    **dict.fromkeys(GENERATING, ("prefix", "prompt", "p_tuning")),
}

#: Sequence lengths of requests whose completions are generated: a trace runs the model once for each token.
GENERATED = (16, 32, 64, 100)

#: The share of requests with images whose completions `generate` makes.
BY_GENERATE = 0.5

#: The share of requests with offloading that have gradient checkpointing.
CHECKPOINTED = 0.25

#: The share of these whose checkpoints re-enter.
REENTRANT = 0.3

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
    "transformers": {"padding": (0.2, (True,)), "padding_free": (0.15, (True,))},
    "trl-sft": {
        "completion_tokens": (0.4, (0.1, 0.5, 0.9)),
        "packing": (0.2, (True,)),
        "padding_free": (0.1, (True,)),
        "loss_type": (0.3, ("dft", "nll", "chunked_nll")),
    },
    "trl-dpo": {
        "completion_tokens": (0.4, (0.1, 0.5, 0.9)),
        "padding": (0.25, (True,)),
        "precompute_ref_log_probs": (0.25, (True,)),
        "loss_type": (0.5, DPO_LOSSES),
    },
    "trl-kto": {
        "completion_tokens": (0.4, (0.1, 0.5, 0.9)),
        "padding": (0.25, (True,)),
        "precompute_ref_log_probs": (0.25, (True,)),
        "loss_type": (0.3, ("apo_zero_unpaired",)),
    },
    "trl-reward": {"padding": (0.25, (True,))},
    "trl-orpo": {"completion_tokens": (0.4, (0.1, 0.5, 0.9)), "padding": (0.25, (True,))},
    "trl-grpo": {"beta": (0.5, (0.04,)), "loss_type": (0.5, GRPO_LOSSES), "use_vllm": (0.3, (True,))},
    "trl-rloo": {"beta": (0.3, (0.0,)), "use_vllm": (0.3, (True,))},
}


def random_trainer_request(
    seed: int,
    number: int,
    trainers: Sequence[TrainerName],
    families: Sequence[str] = (),
    method_name: MethodName | None = None,
) -> dict[str, Any]:
    """Return the body of one request, of any method or of one. Without families, of all that the trainer can have."""
    rng = random.Random(f"trainer {seed} {number}")
    trainer = rng.choice(trainers)
    settings = _set(rng, COMMON | OWN[trainer])
    if trainer == "trl-reward":
        settings.pop("use_liger_kernel", None)  # refused
    request = random_request(seed, number, families or _families(trainer, settings), method_name)
    if request["method"]["name"] == "prefix":
        settings.pop("gradient_checkpointing", None)  # refused
    kept = {name: value for name, value in request["training"].items() if name not in {*SMALL, *COMMON, "padding"}}
    training = {"trainer": trainer, **kept, **_set(rng, SMALL), **settings}
    if training.get("gradient_checkpointing") and rng.random() < 0.3:
        training["gradient_checkpointing_kwargs"] = {"use_reentrant": True}
    if training.get("packing") and rng.random() < 0.2:
        training["packing_strategy"] = "wrapped"
    if training.get("attention") == "flash_attention_2" and training.get("dtype") == "float32":
        training["autocast"] = "bfloat16"
    if training.get("padding_free") or training.get("attention") == "flash_attention_2":
        training.pop("padding", None)
    if trainer == "trl-kto" and "loss_type" not in training:
        training["micro_batch_size"] = max(2, training.get("micro_batch_size", 1))
    if "completion_tokens" in training:
        sequences = 2 if trainer in {"trl-dpo", "trl-orpo"} else 1  # each pair's have the same number
        tokens = training.get("micro_batch_size", 1) * (training["sequence_length"] - 1)
        training["completion_tokens"] = sequences * int(training["completion_tokens"] * tokens)
    if training.get("use_liger_kernel") and request["method"]["name"] == "adapter":
        del training["use_liger_kernel"]  # its kernels look into the modules that adapters wrap
    if trainer in GENERATING:
        if not training.get("use_vllm"):
            training["sequence_length"] = rng.choice(GENERATED)
        training |= _completions(rng, training)
    return {"model": request["model"], "method": _method(trainer, request["method"]), "training": training}


def random_image_trainer_request(
    seed: int, number: int, trainers: Sequence[TrainerName], families: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the body of one request with images and a trainer."""
    rng = random.Random(f"images and trainer {seed} {number}")
    request, trainer = random_image_request(seed, number, families), rng.choice(trainers)
    settings = _set(rng, {"autocast": COMMON["autocast"], "gradient_checkpointing": COMMON["gradient_checkpointing"]})
    kept = {name: value for name, value in request["training"].items() if name not in COMMON}
    training = {"trainer": trainer, **kept, **settings}
    if training.get("gradient_checkpointing") and rng.random() < 0.3:
        training["gradient_checkpointing_kwargs"] = {"use_reentrant": True}
    if trainer == "trl-sft" and rng.random() < 0.4:
        tokens = training.get("micro_batch_size", 1) * (training["sequence_length"] - 1)
        training["completion_tokens"] = int(rng.choice((0.1, 0.5, 0.9)) * tokens)
    if trainer in GENERATING:
        generates = random.Random(f"generate {seed} {number}").random() < BY_GENERATE
        tokens = tokens_of_images(request, {"images": training["images"]})
        training |= _generated(rng, trainer, training, tokens, generates=generates)
    if trainer in PREFERENCES:
        training |= _preferences(rng, trainer, training, tokens_of_images(request, {"images": training["images"]}))
    return {**request, "method": _method(trainer, request["method"]), "training": training}


def _preferences(rng: random.Random, trainer: TrainerName, training: dict[str, Any], tokens: int) -> dict[str, Any]:
    """Return rows with images and a completion. All are equally long, because KTO's second batch mixes them."""
    drawn = _set(rng, {name: OWN[trainer][name] for name in ("padding", "loss_type")})
    rows = training.get("micro_batch_size", 1)
    if trainer == "trl-kto" and "loss_type" not in drawn:
        rows = max(2, rows)
    settings = {**drawn, "micro_batch_size": rows, "sequence_length": training["sequence_length"] + 1}
    if rng.random() < 0.4:
        longest = training["sequence_length"] - tokens
        completion = max(1, int(rng.choice((0.1, 0.5, 0.9)) * longest))
        settings["completion_tokens"] = rows * (2 if trainer == "trl-dpo" else 1) * completion
    return settings


def _generated(
    rng: random.Random, trainer: TrainerName, training: dict[str, Any], tokens: int, *, generates: bool
) -> dict[str, Any]:
    """Return prompts with images, and completions by vLLM, or short ones by `generate`."""
    longest = rng.choice((2, 16, 100))
    if generates:
        longest = min(longest, GENERATED[0])
    trainer_options = {name: option for name, option in OWN[trainer].items() if name != "use_vllm"}
    settings = {**_set(rng, trainer_options), "use_vllm": not generates, "padding": False}
    settings["sequence_length"] = 1 + tokens + rng.choice((0, 7)) + longest
    settings |= {"micro_batch_size": max(2, training.get("micro_batch_size", 1)), "max_completion_length": longest}
    if rng.random() < 0.3 and training.get("attention") != "flash_attention_2":
        settings |= {"completion_tokens": settings["micro_batch_size"] * longest - 1, "padding": True}
    return settings


def _families(trainer: TrainerName, settings: dict[str, Any]) -> Sequence[str]:
    """Return the families that a trainer's model can have, and with Liger's kernels those that have any."""
    if settings.get("use_liger_kernel"):
        return tuple(PATCHES)
    return WITH_REWARD if trainer == "trl-reward" else FAMILIES_WITH_FORWARD


def _completions(rng: random.Random, training: dict[str, Any]) -> dict[str, Any]:
    """Return rows for two completions of a prompt, the longest completion, and whether others are a token shorter."""
    rows, most = max(2, training.get("micro_batch_size", 1)), training["sequence_length"] - 1
    longest = max(2, int(rng.choice((0.1, 0.5, 0.9, 1.0)) * most))
    settings: dict[str, Any] = {"micro_batch_size": rows, "max_completion_length": longest}
    if training.get("attention") != "flash_attention_2" and rng.random() < 0.4:
        settings |= {"completion_tokens": rows * longest - rng.randint(1, rows - 1), "padding": True}
    return settings


def _method(trainer: TrainerName, method: dict[str, Any]) -> dict[str, Any]:
    """Return the method as scripts of a trainer use it, or LoRA instead of one that is not modeled with the trainer."""
    name = method["name"]
    if trainer == "transformers":
        return method
    plain = METHODS[name].facts.plain_steps_only and name != "p_tuning" and trainer != "trl-sft"
    if plain or name == "ln_tuning" or name in NOT_IN_TRL.get(trainer, ()):
        return {"name": "lora", "target_modules": "all-linear"}
    # LLaMA-Factory casts copies, which trains with transformers' Trainer.
    method = {field: value for field, value in method.items() if field != "unfrozen_dtype"}
    return {"prepare_model_for_kbit_training": False, **method} if name == "qlora" else method


def _set(rng: random.Random, options: Options) -> dict[str, Any]:
    return {name: rng.choice(values) for name, (share, values) in options.items() if rng.random() < share}


def random_offloaded_request(
    seed: int,
    number: int,
    trainers: Sequence[TrainerName],
    families: Sequence[str] = (),
    method_name: MethodName | None = None,
) -> dict[str, Any]:
    """Return the body of one request whose saved tensors are offloaded."""
    rng = random.Random(f"offloaded {seed} {number}")
    request = random_trainer_request(seed, number, trainers, families, method_name)
    training = {
        **request["training"],
        "activation_offloading": True,
        "gradient_checkpointing": rng.random() < CHECKPOINTED,
    }
    training.pop("gradient_checkpointing_kwargs", None)
    if request["method"]["name"] == "prefix":
        request["method"] = {"name": "lora", "target_modules": "all-linear"}
    if rng.random() < 0.3:
        training["micro_batch_size"] = 1
    if training["gradient_checkpointing"] and rng.random() < REENTRANT:
        training["gradient_checkpointing_kwargs"] = {"use_reentrant": True}
    return {**request, "training": training}
