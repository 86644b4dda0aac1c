"""Which of the configurations that fit are proposed: the best of each method, and what betters it in something."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from calculator.methods import METHODS, LoRA, QLoRA
from calculator.methods.low_rank.method import LowRank
from calculator.plan.candidates import low_rank
from calculator.plan.method_search import SearchResult, attention_only, larger_rank, unprepared
from calculator.plan.ranking import place
from calculator.plan.reasons.reason import Judged, size
from calculator.plan.reasons.rules import RULES, Rule
from calculator.plan.reasons.step_cost import step_cost

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.common.names import MethodName
    from calculator.plan.evaluator import Candidate, Evaluator

#: The most configurations that are proposed for one model on one device.
MOST_CONFIGURATIONS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class RuledOut:
    """A method that is not proposed: the rule that it follows, and why. Without a rule, the real stack refuses it."""

    method: MethodName
    rule: Rule | None
    sentence: str

    @property
    def label(self) -> str:
        """The method in words."""
        return METHODS[self.method].facts.label


def proposals(tried: dict[MethodName, SearchResult], evaluator: Evaluator) -> tuple[list[Judged], list[RuledOut]]:
    """The best of each method, then others that better it in something, up to the most that are proposed."""
    judged = {
        name: sorted((_judged(candidate, evaluator) for candidate in each.candidates), key=place)
        for name, each in tried.items()
    }
    dominated = _in_vain(judged, evaluator)
    best = sorted((each[0] for each in judged.values() if each), key=place)
    others = [other for each in judged.values() for other in each[1:] if not _dominated(other, each[0])]
    others += [_judged(candidate, evaluator) for candidate in _variants(best, evaluator)]
    others.sort(key=place)
    return sorted([*best, *others][:MOST_CONFIGURATIONS], key=place), dominated


def _in_vain(judged: dict[MethodName, list[Judged]], evaluator: Evaluator) -> list[RuledOut]:
    """Take QLoRA out where LoRA needs no more; where LoRA betters it in all, hold it with LoRA's micro-batch."""
    lora, qlora = judged.get("lora"), judged.get("qlora")
    if not lora or not qlora:
        return []
    mine = qlora[0]
    if _dominated(mine, lora[0]):
        mine = _judged(replace(lora[0].candidate, method=mine.method, optimizer=mine.candidate.optimizer), evaluator)
        judged["qlora"] = [mine]
    method = mine.method
    assert isinstance(method, QLoRA)
    plain = replace(mine.candidate, method=low_rank(LoRA, method.r, method.target_modules))
    other = _judged(plain, evaluator) if evaluator.fits(plain) else None
    if other is None or other.answer.memory.required_bytes > mine.answer.memory.required_bytes:
        return []
    judged["qlora"] = []
    needs, instead = (size(each.answer.memory.required_bytes) for each in (mine, other))
    costs = f"a step costs {mine.cost.relative:.2f} times the reference instead of {other.cost.relative:.2f}"
    sentence = f"It fits with {needs}, but with the same micro-batch LoRA needs {instead}, and {costs}."
    return [RuledOut(method="qlora", rule=RULES["four_bits_in_vain"], sentence=sentence)]


def _variants(best: Iterable[Judged], evaluator: Evaluator) -> Iterator[Candidate]:
    """Of the best low-rank configuration: a larger rank, for many tasks a smaller module, and one not prepared."""
    first = next((judged.candidate for judged in best if isinstance(judged.method, LowRank)), None)
    if first is None:
        return
    told = (larger_rank(first, evaluator), unprepared(first, evaluator))
    smaller = attention_only(first, evaluator) if evaluator.needs.tasks > 1 else None
    yield from (candidate for candidate in (*told, smaller) if candidate is not None)


def _dominated(judged: Judged, other: Judged) -> bool:
    """Whether another costs no more and needs no more."""
    return (
        other.cost.relative <= judged.cost.relative
        and other.answer.memory.required_bytes <= judged.answer.memory.required_bytes
    )


def _judged(candidate: Candidate, evaluator: Evaluator) -> Judged:
    answer = evaluator.answer(candidate)
    assert answer is not None
    cost = step_cost(evaluator.model, evaluator.request(candidate), answer)
    return Judged(evaluator=evaluator, candidate=candidate, answer=answer, cost=cost)
