"""The proposals: the best configuration of each method, and others that are better in some respect."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from calculator.methods import METHODS, USUAL_METHODS, LoRA, QLoRA
from calculator.methods.low_rank.method import LowRank
from calculator.planning.candidates import low_rank
from calculator.planning.method_search import SearchResult, attention_only, larger_rank, unprepared
from calculator.planning.ranking import place
from calculator.planning.reasons.reason import Evaluation, size
from calculator.planning.reasons.rules import RULES, Rule
from calculator.speed.prices import hour_price
from calculator.speed.step_cost import step_cost
from calculator.speed.token_cost import token_cost

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.common.names import MethodName
    from calculator.planning.evaluator import Candidate, Evaluator

#: The largest number of configurations that are proposed for one model on one device: room for the best of each method.
MOST_CONFIGURATIONS = len(USUAL_METHODS)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuledOut:
    """A method that is not proposed: by which rule, and why. Without a rule, the real stack refuses it."""

    method: MethodName
    rule: Rule | None
    sentence: str

    @property
    def label(self) -> str:
        """The method in words."""
        return METHODS[self.method].facts.label


def proposals(tried: dict[MethodName, SearchResult], evaluator: Evaluator) -> tuple[list[Evaluation], list[RuledOut]]:
    """The best of each method, then others that are better in some respect, up to MOST_CONFIGURATIONS."""
    evaluation = {
        name: sorted((_evaluation(candidate, evaluator) for candidate in each.candidates), key=place)
        for name, each in tried.items()
    }
    dominated = _drop_dominated_qlora(evaluation, evaluator)
    best = sorted((each[0] for each in evaluation.values() if each), key=place)
    others = [other for each in evaluation.values() for other in each[1:] if not _dominated(other, each[0])]
    variants = [candidate for candidate in _variants(best, evaluator) if evaluator.is_confirmed(candidate)]
    others += [_evaluation(candidate, evaluator) for candidate in variants]
    others.sort(key=place)
    return sorted([*best, *others][:MOST_CONFIGURATIONS], key=place), dominated


def _drop_dominated_qlora(evaluation: dict[MethodName, list[Evaluation]], evaluator: Evaluator) -> list[RuledOut]:
    """Drop QLoRA where LoRA needs no more memory; they are compared with the same micro-batch."""
    lora, qlora = evaluation.get("lora"), evaluation.get("qlora")
    if not lora or not qlora:
        return []
    mine = qlora[0]
    if _dominated(mine, lora[0]):
        mine = _evaluation(
            replace(lora[0].candidate, method=mine.method, optimizer=mine.candidate.optimizer), evaluator
        )
        evaluation["qlora"] = [mine]
    method = mine.method
    assert isinstance(method, QLoRA)
    plain = replace(mine.candidate, method=low_rank(LoRA, method.r, method.target_modules))
    other = _evaluation(plain, evaluator) if evaluator.fits(plain) else None
    if other is None or other.answer.memory.required_bytes > mine.answer.memory.required_bytes:
        return []
    evaluation["qlora"] = []
    needs, instead = (size(each.answer.memory.required_bytes) for each in (mine, other))
    costs = f"a step costs {mine.cost.relative:.2f} times the reference instead of {other.cost.relative:.2f}"
    sentence = f"It fits with {needs}, but with the same micro-batch LoRA needs {instead}, and {costs}."
    return [RuledOut(method="qlora", rule=RULES["four_bits_in_vain"], sentence=sentence)]


def _variants(best: Iterable[Evaluation], evaluator: Evaluator) -> Iterator[Candidate]:
    """Variants of the best low-rank configuration: a larger rank, no preparation, a smaller adapter for many tasks."""
    first = next((evaluation.candidate for evaluation in best if isinstance(evaluation.method, LowRank)), None)
    if first is None:
        return
    variants = (larger_rank(first, evaluator), unprepared(first, evaluator))
    smaller = attention_only(first, evaluator) if evaluator.needs.tasks > 1 else None
    yield from (candidate for candidate in (*variants, smaller) if candidate is not None)


def _dominated(evaluation: Evaluation, other: Evaluation) -> bool:
    """Whether another configuration costs no more and needs no more memory."""
    return (
        other.cost.relative <= evaluation.cost.relative
        and other.answer.memory.required_bytes <= evaluation.answer.memory.required_bytes
    )


def _evaluation(candidate: Candidate, evaluator: Evaluator) -> Evaluation:
    answer = evaluator.stated(candidate)
    assert answer is not None
    request = evaluator.request(candidate)
    cost = step_cost(evaluator.model, request, answer)
    price = hour_price(evaluator.device) if "cost" in evaluator.needs.priorities else None
    return Evaluation(
        evaluator=evaluator,
        candidate=candidate,
        answer=answer,
        cost=cost,
        token_cost=token_cost(request, cost, price) if price else None,
    )
