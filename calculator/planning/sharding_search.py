"""The search of a method over the shardings that a plan chooses from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING

from calculator.planning.evaluations import evaluated
from calculator.planning.evaluator import divisors
from calculator.planning.method_search import SearchResult, search
from calculator.planning.ranking import sort_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.common.names import MethodName
    from calculator.inputs.sharding import ShardingName
    from calculator.planning.evaluator import Candidate, Evaluator


#: The sharding that is tried if no other fits. It divides what fsdp divides, and sends more.
LAST: ShardingName = "zero3"


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodResult:
    """The result of searching a method under one sharding, or on one GPU."""

    name: MethodName
    evaluator: Evaluator
    result: SearchResult


def best_sharding(name: MethodName, evaluators: Sequence[Evaluator]) -> MethodResult:
    """Search a method under each sharding. Return the result that ranks first, or else the one that misses by least.

    ZeRO-3 is only searched if no other fits. Shardings are compared by the rule for reserved memory. If none fits by
    the rule, they are compared by replays near the device's limit: a replay under each would take longer than the rest
    of a plan.
    """
    if len(evaluators) == 1:
        return _confirmed(name, evaluators[0])
    for by_rule_alone in (True, False):
        results: list[MethodResult] = []
        for last in (False, True):
            tried = [evaluator for evaluator in evaluators if (evaluator.device.sharding == LAST) == last]
            for example in tried:
                example.by_rule_alone = by_rule_alone
            results += [MethodResult(name=name, evaluator=example, result=search(name, example)) for example in tried]
            for chosen in sorted((result for result in results if result.result.candidates), key=_sort_key):
                confirmed = _confirmed(name, chosen.evaluator)
                if confirmed.result.candidates:
                    return confirmed
    return min(results, key=_shortfall)


def under_each(chosen: MethodResult, evaluators: Sequence[Evaluator]) -> tuple[MethodResult, ...]:
    """Return the result of a method under each sharding, confirmed by the estimates in the answer."""
    return tuple(
        chosen if evaluator is chosen.evaluator else _confirmed(chosen.name, evaluator) for evaluator in evaluators
    )


def fewest_gpus(evaluator: Evaluator, candidate: Candidate) -> int:
    """Return the smallest number of GPUs that fits a candidate.

    It divides the batch and is not more than requested. One GPU has no sharding. Sequences that fewer GPUs share are
    accumulated.
    """
    device, smallest = evaluator.device, replace(candidate, micro_batch_size=1)
    for count in divisors(evaluator.needs.effective_batch_size):
        if count >= device.count:
            break
        fewer = device.on_one_gpu if count == 1 else replace(device, count=count, nodes=1)
        if evaluator.variant(device=fewer).fits(smallest):
            return count
    return device.count


def _confirmed(name: MethodName, evaluator: Evaluator) -> MethodResult:
    evaluator.by_rule_alone = False
    return MethodResult(name=name, evaluator=evaluator, result=search(name, evaluator, confirm=True))


def _sort_key(ranked: MethodResult) -> tuple[float, ...]:
    """Return the rank of the method's best candidate, by the estimates of the search.

    If quality comes first, a candidate that a search prefers ranks before others: a larger r, or states in 32 bits.
    """
    result, evaluator = ranked.result, ranked.evaluator
    by_preference = evaluator.needs.order[0] == "quality"
    return min(
        (_preference(candidate, result) if by_preference else 0, *sort_key(evaluated(candidate, evaluator)))
        for candidate in result.candidates
    )


def _preference(candidate: Candidate, result: SearchResult) -> int:
    """Return the index of a candidate's settings among those that were tried."""
    settings = [(example.method, example.optimizer) for example in result.tried]
    return settings.index((candidate.method, candidate.optimizer))


def _shortfall(result: MethodResult) -> float:
    """Return the bytes that the smallest candidate lacks. Results without one come last."""
    smallest = result.result.smallest
    if smallest is not None:
        return result.evaluator.short_bytes(smallest)
    return inf
