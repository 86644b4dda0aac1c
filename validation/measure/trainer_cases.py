"""The trainers' steps to measure: two layers of small models with random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from validation.measure.step_cases import METHODS, TINY, StepCase

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Two layers of other families.
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 2,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 8192,
        "tie_word_embeddings": True,
    },
    "gemma": {
        "model_type": "gemma",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "head_dim": 128,
        "vocab_size": 8192,
    },
    "gpt2": {"model_type": "gpt2", "n_embd": 768, "n_layer": 2, "n_head": 12, "vocab_size": 8192},
    "phi3": {
        "model_type": "phi3",
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 2,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "vocab_size": 8192,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
    },
}

TRAINERS = ("transformers", "trl-sft", "trl-dpo", "trl-kto", "trl-orpo", "trl-reward")

#: The trainers that generate, with short completions: each token is a pass.
GENERATING = ("trl-grpo", "trl-rloo")

_CHECKPOINTED, _AUTOCAST = {"gradient_checkpointing": True}, {"autocast": "bfloat16"}
_FLOAT32 = {"dtype": "float32"}
_SHORT = {"sequence_length": 128, "max_completion_length": 16}

#: Each trainer's steps of other families: the method, and the training settings that differ from the defaults.
VARIANTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("qwen3", "lora", _CHECKPOINTED | _AUTOCAST),
    ("qwen3", "full", _CHECKPOINTED | {"gradient_accumulation_steps": 2}),
    ("gemma", "full", _FLOAT32 | _AUTOCAST),
    ("gpt2", "full", _FLOAT32 | {"padding": True}),
    ("phi3", "lora", _FLOAT32 | _AUTOCAST | {"padding": True}),
)


def trainer_cases(machine: dict[str, Any]) -> Iterator[StepCase]:
    """Yield the cases. `machine` has the `device` and the `stack` of their requests."""
    for trainer in TRAINERS:
        yield from (_case(trainer, "llama", name, _AUTOCAST, machine) for name in ("full", "lora", "qlora"))
        yield from (_case(trainer, *variant, machine) for variant in VARIANTS)
    for trainer in GENERATING:
        yield from (_case(trainer, "llama", name, _AUTOCAST | _SHORT, machine) for name in ("full", "lora", "qlora"))
        yield _case(trainer, "llama", "full", _CHECKPOINTED | _SHORT, machine)


def _case(trainer: str, family: str, name: str, training: dict[str, Any], machine: dict[str, Any]) -> StepCase:
    # TRL's trainers, but ORPOTrainer, prepare no quantized model.
    unprepared = name == "qlora" and trainer.startswith("trl") and trainer != "trl-orpo"
    options = {"prepare_model_for_kbit_training": False} if unprepared else {}
    settings = "".join(f", {key}={value}" for key, value in training.items())
    return StepCase(
        name=f"{trainer}, {family}, {name}{settings}",
        body={
            "model": {"config": FAMILIES.get(family, TINY)},
            "method": METHODS[name] | options,
            "training": {"trainer": trainer, "micro_batch_size": 2, "sequence_length": 512, **training},
            **machine,
        },
    )
