"""The older releases of TRL whose trainers of preferences are modeled, and what is not modeled of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.inputs.stack import DEFAULT_STACK
from calculator.stack.releases import dotted, release
from calculator.stack.trainers import OLDER_TRAINERS
from calculator.trainers.trl_sft.eras import needed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.trainers.facts import TrainerFacts
    from calculator.trainers.subject import Subject

#: The last transformers with which the older releases are known.
LAST = (4, 57)

#: The methods that are modeled with the older releases.
METHODS = ("full", "lora", "qlora")


def named(trainer: str | None) -> str:
    """Return a phrase with the older releases of a trainer, which is empty if there are none."""
    known = OLDER_TRAINERS.get(trainer or "")
    return f" and, with transformers 4, {dotted(known[0])} to {dotted(known[1])}" if known else ""


def problems(prepared: Subject, facts: TrainerFacts) -> Iterator[Problem]:
    """Yield what is not modeled of an older release."""
    training, stack = prepared.training, prepared.stack
    trainer, version = f"{facts.label.removeprefix('TRL ')} of TRL {stack.trl}", release(stack.transformers)[:2]
    if not needed(stack) <= version <= LAST:
        message = f"{trainer} is known with transformers {dotted(needed(stack))} to {dotted(LAST)}"
        yield Problem(loc="stack.trl", msg=f"{message}: name one in stack.transformers", input=stack.trl)
    if prepared.method.name not in METHODS:
        message = f"{trainer} is modeled with {', '.join(METHODS)}: use one of them, or stack.trl {DEFAULT_STACK.trl}"
        yield Problem(loc="method.name", msg=message, input=prepared.method.name)
    given = training.completion_tokens
    if given is not None and given % (facts.sequences * training.micro_batch_size):
        message = f"{trainer} is modeled with as many tokens in every completion: use a multiple of their number"
        yield Problem(loc="training.completion_tokens", msg=message, input=given)
    if training.has_images:
        message = f"images are not modeled with {trainer}: use stack.trl {DEFAULT_STACK.trl}"
        yield Problem(loc="training.images", msg=message, input=True)
