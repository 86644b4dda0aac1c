"""The choices that fit: of each method the best with and without checkpointing, found by bracketing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from calculator.common.errors import PlanError
from calculator.methods import LoRA, QLoRA
from calculator.plan.candidates import LARGER_RANKS, RANKS, low_rank, rungs, targets
from calculator.plan.evaluator import Choice, micro_batches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.common.errors import Problem
    from calculator.plan.candidates import Rung
    from calculator.plan.evaluator import Evaluator


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What was found of a method: choices that fit; the thriftiest that was tried; or why the method is refused.

    Without a thriftiest choice and without problems, every setting would train too large a share.
    """

    choices: tuple[Choice, ...] = ()
    thriftiest: Choice | None = None
    problems: tuple[Problem, ...] = ()


def found(name: str, evaluator: Evaluator) -> SearchResult:
    """What of a method fits the device."""
    try:
        steps = rungs(name, evaluator)
    except PlanError as error:
        return SearchResult(problems=error.problems)
    if not steps:
        return SearchResult()
    ways = [_choice(steps[-1], checkpointing=way) for way in (True, False)]
    answered = [choice for choice in ways if evaluator.answer(choice) is not None]
    if not answered:
        return SearchResult(problems=evaluator.problems[ways[0]])
    chosen = [
        choice for way in answered for choice in _best(steps, evaluator, checkpointing=way.gradient_checkpointing)
    ]
    return SearchResult(choices=tuple(dict.fromkeys(chosen)), thriftiest=answered[0])


def _choice(rung: Rung, *, checkpointing: bool) -> Choice:
    return Choice(method=rung.method, optimizer=rung.optimizer, gradient_checkpointing=checkpointing)


def _best(steps: tuple[Rung, ...], evaluator: Evaluator, *, checkpointing: bool) -> Iterator[Choice]:
    """The first rung that fits with its largest micro-batch; and the one that leaves most, where that is wanted first.

    The latter keeps the preferred size, with the least states and a micro-batch of 1.
    """
    bare = [_choice(rung, checkpointing=checkpointing) for rung in steps]
    if not _has_room(bare[-1], evaluator):
        return
    first = next(choice for choice in bare if _has_room(choice, evaluator))
    yield evaluator.largest_micro_batch(first) or first
    if evaluator.needs.order[0] == "memory":
        thrifty = next((choice for choice in bare if choice.optimizer.startswith("paged")), bare[-1])
        if evaluator.fits(thrifty):
            yield thrifty


def _has_room(choice: Choice, evaluator: Evaluator) -> bool:
    """Whether any micro-batch fits: the smallest, or the whole batch, which keeps no gradients beside its forward."""
    if evaluator.fits(choice):
        return True
    answer = evaluator.answer(choice)
    sizes = micro_batches(evaluator.needs.effective_batch_size, evaluator.device.count)
    if answer is None or answer.fit is None or len(sizes) == 1:
        return False
    gradients = answer.parameters.trainable * 4
    return answer.fit.headroom_bytes + gradients >= 0 and evaluator.fits(replace(choice, micro_batch_size=sizes[-1]))


def larger_rank(choice: Choice, evaluator: Evaluator) -> Choice | None:
    """A low-rank choice with the largest of LARGER_RANKS that fits with a margin and is admitted."""
    method = choice.method
    if not isinstance(method, LoRA | QLoRA):
        return None
    for r in LARGER_RANKS:
        larger = replace(method, r=r, lora_alpha=low_rank(LoRA, r, None).lora_alpha)
        if _admitted(larger, evaluator):
            fitting = evaluator.largest_micro_batch(replace(choice, method=larger))
            if fitting is not None and not evaluator.is_close(fitting):
                return fitting
    return None


def unprepared(choice: Choice, evaluator: Evaluator) -> Choice | None:
    """A prepared QLoRA without its preparation, which leaves more room."""
    method = choice.method
    if not isinstance(method, QLoRA) or not method.prepare_model_for_kbit_training:
        return None
    return evaluator.largest_micro_batch(replace(choice, method=replace(method, prepare_model_for_kbit_training=False)))


def attention_only(choice: Choice, evaluator: Evaluator) -> Choice | None:
    """A low-rank choice on attention's projections alone, where it adapts more than those."""
    method = choice.method
    names = targets(evaluator)[-1]
    if not isinstance(method, LoRA | QLoRA) or method.target_modules == names:
        return None
    for r in (*(r for r in RANKS if r > method.r), method.r):
        smaller = replace(method, r=r, lora_alpha=low_rank(LoRA, r, None).lora_alpha, target_modules=names)
        fitting = (
            evaluator.largest_micro_batch(replace(choice, method=smaller)) if _admitted(smaller, evaluator) else None
        )
        if fitting is not None:
            return fitting
    return None


def _admitted(method: LoRA | QLoRA, evaluator: Evaluator) -> bool:
    most = evaluator.needs.max_trainable_fraction
    try:
        share = evaluator.trained_share(method)
    except PlanError:
        return False
    return most is None or share <= most
