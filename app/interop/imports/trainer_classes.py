"""The trainers' classes that a script calls, and the one whose run is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The trainer of each class of TRL, and of each configuration class.
TRL_CLASSES = {
    "SFTTrainer": "trl-sft",
    "DPOTrainer": "trl-dpo",
    "KTOTrainer": "trl-kto",
    "RewardTrainer": "trl-reward",
    "ORPOTrainer": "trl-orpo",
    "GRPOTrainer": "trl-grpo",
    "RLOOTrainer": "trl-rloo",
    "SFTConfig": "trl-sft",
    "DPOConfig": "trl-dpo",
    "KTOConfig": "trl-kto",
    "RewardConfig": "trl-reward",
    "ORPOConfig": "trl-orpo",
    "GRPOConfig": "trl-grpo",
    "RLOOConfig": "trl-rloo",
}

#: The classes of transformers. A script of TRL may configure its trainer with them.
_TRANSFORMERS = ("Seq2SeqTrainer", "Trainer", "TrainingArguments", "Seq2SeqTrainingArguments")

#: Every class that sets up a run.
CLASSES = {**TRL_CLASSES, **dict.fromkeys(_TRANSFORMERS, "transformers")}


def trainer_of(calls: Sequence[str]) -> str | None:
    """Return the trainer whose run is read: the last one of TRL, for which the runs before it prepare the model.

    None if a script calls none of the classes.
    """
    trl_trainers = [TRL_CLASSES[name] for name in calls if name in TRL_CLASSES]
    return trl_trainers[-1] if trl_trainers else next((CLASSES[name] for name in CLASSES if name in calls), None)


def other_trainers(calls: Sequence[str]) -> list[str]:
    """Return the classes of TRL that set up another run than the one that is read."""
    trainer = trainer_of(calls)
    return [name for name in dict.fromkeys(calls) if TRL_CLASSES.get(name, trainer) != trainer]
