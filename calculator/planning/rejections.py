"""Why a method is not proposed: it is refused, trains too much, does not fit, or has no room for every task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.methods import METHODS
from calculator.planning.proposals import RuledOut
from calculator.planning.reasons.deployment import task_footprints
from calculator.planning.reasons.reason import size
from calculator.planning.reasons.rules import RULES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.planning.evaluator import Candidate, Evaluator
    from calculator.planning.sharding_search import MethodResult


def rejections(tried: Iterable[MethodResult]) -> Iterator[RuledOut]:
    """Yield the methods that are refused or do not fit."""
    return (rejection(example) for example in tried if not example.result.candidates)


def rejection(tried: MethodResult) -> RuledOut:
    """Return why nothing of a method is proposed."""
    name, evaluator, result = tried.name, tried.evaluator, tried.result
    if result.problems:
        sentence = "; ".join(problem.msg for problem in result.problems)
        return RuledOut(method=name, rule=None, sentence=f"{METHODS[name].facts.label} is refused: {sentence}.")
    if result.smallest is None:
        most = evaluator.needs.max_trainable_fraction
        sentence = f"Every setting that is tried trains more than {most:.4g} of all parameters."
        return RuledOut(method=name, rule=RULES["trained_share"], sentence=sentence)
    if evaluator.trains(result.smallest):
        return RuledOut(method=name, rule=RULES["held_at_once"], sentence=_too_many(result.smallest, evaluator))
    return RuledOut(method=name, rule=RULES["fits"], sentence=_too_large(result.smallest, evaluator))


def _too_many(candidate: Candidate, evaluator: Evaluator) -> str:
    footprint = evaluator.footprint(candidate)
    assert footprint is not None
    return (
        f"Trains, but not every task fits at once: its smallest adapter needs {size(footprint.task_bytes)},"
        f" {task_footprints(footprint)}. The GPU has room for {footprint.max_tasks:,}."
    )


def _too_large(candidate: Candidate, evaluator: Evaluator) -> str:
    """Return a phrase for the memory that a candidate needs.

    If not even its live tensors fit, their size is given without a replay.
    """
    answer = evaluator.answer(candidate)
    assert answer is not None
    assert answer.fit is not None
    memory, usable = answer.memory, answer.fit.usable_bytes
    needs, required = "Needs at least", memory.required_bytes
    if answer.reserved != evaluator.reserved:
        needs = "Its tensors and CUDA alone need"
        required += memory.peak_allocated_bytes + memory.library_workspace_bytes - memory.peak_reserved_bytes
    return f"{needs} {size(required)}, {size(required - usable)} more than the {size(usable)} that the GPU offers."
