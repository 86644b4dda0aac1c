"""The proposals: the best configuration of each method, and others that are better in some respect."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from calculator.methods import METHODS, USUAL_METHODS, LoRA, QLoRA
from calculator.methods.low_rank.method import LowRank
from calculator.planning.candidates import low_rank
from calculator.planning.evaluations import evaluated
from calculator.planning.method_search import attention_only, larger_rank, unprepared
from calculator.planning.ranking import sort_key
from calculator.planning.reasons.reason import size
from calculator.planning.reasons.rules import RULES, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.common.names import MethodName
    from calculator.planning.evaluator import Candidate, Evaluator
    from calculator.planning.reasons.reason import Evaluation
    from calculator.planning.sharding_search import MethodResult

#: The maximum number of configurations that are proposed for one model on one device. It leaves room for the best of
#: each method.
MOST_CONFIGURATIONS = len(USUAL_METHODS)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuledOut:
    """A method that is not proposed, with the rule and the reason. Without a rule, the real libraries refuse it."""

    method: MethodName
    rule: Rule | None
    sentence: str

    @property
    def label(self) -> str:
        """The method in words."""
        return METHODS[self.method].facts.label


def proposals(tried: dict[MethodName, MethodResult]) -> tuple[list[Evaluation], list[RuledOut]]:
    """Return the best of each method, then others that are better in some respect, up to MOST_CONFIGURATIONS."""
    evaluation = {
        name: sorted((_stated(candidate, result.evaluator) for candidate in result.result.candidates), key=sort_key)
        for name, result in tried.items()
    }
    dominated = _drop_dominated_qlora(evaluation)
    best = sorted((result[0] for result in evaluation.values() if result), key=sort_key)
    others = [other for result in evaluation.values() for other in result[1:] if not _dominated(other, result[0])]
    others += _variants(best)
    others.sort(key=sort_key)
    return sorted([*best, *others][:MOST_CONFIGURATIONS], key=sort_key), dominated


def _stated(candidate: Candidate, evaluator: Evaluator) -> Evaluation:
    """Return a candidate with the estimate that the answer contains."""
    evaluator.stated(candidate)
    return evaluated(candidate, evaluator)


def _drop_dominated_qlora(evaluation: dict[MethodName, list[Evaluation]]) -> list[RuledOut]:
    """Drop QLoRA if LoRA needs no more memory. They are compared with the same micro-batch."""
    lora, qlora = evaluation.get("lora"), evaluation.get("qlora")
    if not lora or not qlora:
        return []
    mine = qlora[0]
    evaluator = mine.evaluator
    if _dominated(mine, lora[0]) and lora[0].evaluator is evaluator:
        mine = _stated(replace(lora[0].candidate, method=mine.method, optimizer=mine.candidate.optimizer), evaluator)
        evaluation["qlora"] = [mine]
    method = mine.method
    assert isinstance(method, QLoRA)
    plain = replace(mine.candidate, method=low_rank(LoRA, method.r, method.target_modules))
    other = _stated(plain, evaluator) if evaluator.fits(plain) else None
    if other is None or other.answer.memory.required_bytes > mine.answer.memory.required_bytes:
        return []
    evaluation["qlora"] = []
    needs, instead = (size(compared.answer.memory.required_bytes) for compared in (mine, other))
    costs = f"a step costs {mine.cost.relative:.2f} times the reference instead of {other.cost.relative:.2f}"
    sentence = f"It fits with {needs}, but with the same micro-batch LoRA needs {instead}, and {costs}."
    return [RuledOut(method="qlora", rule=RULES["four_bits_in_vain"], sentence=sentence)]


def _variants(best: Iterable[Evaluation]) -> Iterator[Evaluation]:
    """Yield variants of the best low-rank configuration.

    They have a larger rank, no preparation, or a smaller adapter for many tasks.
    """
    first = next((evaluation for evaluation in best if isinstance(evaluation.method, LowRank)), None)
    if first is None:
        return
    candidate, evaluator = first.candidate, first.evaluator
    variants = (larger_rank(candidate, evaluator), unprepared(candidate, evaluator))
    smaller = attention_only(candidate, evaluator) if evaluator.needs.tasks > 1 else None
    for variant in (*variants, smaller):
        if variant is not None and evaluator.is_confirmed(variant):
            yield _stated(variant, evaluator)


def _dominated(evaluation: Evaluation, other: Evaluation) -> bool:
    """Return whether another configuration costs no more and needs no more memory."""
    return (
        other.cost.relative <= evaluation.cost.relative
        and other.answer.memory.required_bytes <= evaluation.answer.memory.required_bytes
    )
