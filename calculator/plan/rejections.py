"""Why nothing of a method is proposed: it is refused, trains too much, is too large, or does not hold every task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.compare.methods import AXES
from calculator.plan.proposals import RuledOut
from calculator.plan.reasons.deployment import at_once
from calculator.plan.reasons.reason import size
from calculator.plan.reasons.rules import RULES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.plan.evaluator import Choice, Evaluator
    from calculator.plan.method_search import SearchResult


def unfit(tried: dict[str, SearchResult], evaluator: Evaluator) -> Iterator[RuledOut]:
    """The methods of which nothing fits, or that are refused."""
    for name, each in tried.items():
        if each.choices:
            continue
        if each.problems:
            sentence = "; ".join(problem.msg for problem in each.problems)
            yield RuledOut(method=name, rule=None, sentence=f"{AXES[name].label} is refused: {sentence}.")
        elif each.thriftiest is None:
            most = evaluator.needs.max_trainable_fraction
            sentence = f"Every setting that is tried trains more than {most:.4g} of all parameters."
            yield RuledOut(method=name, rule=RULES["trained_share"], sentence=sentence)
        elif evaluator.trains(each.thriftiest):
            yield RuledOut(method=name, rule=RULES["held_at_once"], sentence=_too_many(each.thriftiest, evaluator))
        else:
            yield RuledOut(method=name, rule=RULES["fits"], sentence=_too_large(each.thriftiest, evaluator))


def _too_many(choice: Choice, evaluator: Evaluator) -> str:
    together = evaluator.together(choice)
    assert together is not None
    return (
        f"Trains, but does not hold every task at once: its smallest module takes {size(together.task_bytes)},"
        f" {at_once(together)}. The card holds {together.most:,} of them."
    )


def _too_large(choice: Choice, evaluator: Evaluator) -> str:
    answer = evaluator.answer(choice)
    assert answer is not None
    assert answer.fit is not None
    return (
        f"Needs at least {size(answer.memory.required_bytes)}, {size(-answer.fit.headroom_bytes)} more than"
        f" the {size(answer.fit.usable_bytes)} that the card offers."
    )
