"""The classes of a script that set up a run and are not modeled: trainers, and configurations of PEFT's methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.interop.imports.trainer_classes import CLASSES, TRL_CLASSES
from calculator.common.errors import PlanError, refusal
from calculator.methods.not_modeled import NOT_MODELED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: The reason for each configuration of a method of PEFT that is refused. FrodConfig is that of FROD.
_METHODS = {name.replace("_", "").lower() + "config": reason for name, reason in NOT_MODELED.items()}

#: The trainers that are modeled, for a message.
_MODELED = ", ".join(name for name in ("Trainer", *TRL_CLASSES) if name.endswith("Trainer"))


def is_other(called: str) -> bool:
    """Return whether a call makes a trainer or a method that is not modeled."""
    is_trainer = called.endswith("Trainer") and called not in CLASSES
    return is_trainer or called.lower() in _METHODS


def other_trainer(others: Iterable[str]) -> str | None:
    """Return the trainer that is not modeled; None if a script calls none."""
    return next((name for name in others if name.endswith("Trainer")), None)


def refuse_other_method(others: Iterable[str]) -> None:
    """Refuse a method that is not modeled.

    Raises:
        PlanError: if a script makes the configuration of one.
    """
    name = next((name for name in others if name.lower() in _METHODS), None)
    if name is not None:
        message = f"{name} is not modeled: {_METHODS[name.lower()]}. Replace it by the configuration of another method"
        raise refusal("content", message, name)


def nothing_read(others: Sequence[str]) -> PlanError:
    """Return the refusal of code that calls nothing that sets up a run."""
    if "SentenceTransformerTrainer" in others:
        message = "trains with SentenceTransformerTrainer, whose files are not read: state the run with the task"
        message += " feature_extraction, which has MultipleNegativesRankingLoss in the reference step"
        return refusal("content", message, "SentenceTransformerTrainer")
    if others:
        return refusal("content", f"trains with {others[0]}, which is not modeled: {_MODELED} are", others[0])
    return refusal("content", "calls nothing that sets up a run, such as SFTConfig or from_pretrained", None)
