"""The search for a method's best candidates that fit, with and without checkpointing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from calculator.common.errors import PlanError
from calculator.methods import LoRA, QLoRA
from calculator.methods.low_rank.method import LowRank
from calculator.planning.candidates import candidates, low_rank_of, targets
from calculator.planning.evaluator import Candidate, micro_batches

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.common.errors import Problem
    from calculator.common.names import MethodName
    from calculator.planning.evaluator import Evaluator


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The result of searching one method.

    If it has neither a smallest candidate nor problems, every setting would train too large a share.
    """

    #: The candidates that fit.
    candidates: tuple[Candidate, ...] = ()
    #: All candidates that were tried, the preferred one first.
    tried: tuple[Candidate, ...] = ()
    #: The candidate that needs the least memory of those tried.
    smallest: Candidate | None = None
    #: Why the method is refused.
    problems: tuple[Problem, ...] = ()


def search(name: MethodName, evaluator: Evaluator, *, confirm: bool = False) -> SearchResult:
    """Search a method's candidates for those that fit the device.

    With `confirm`, they must fit by their stated estimates too.
    """
    try:
        tried = candidates(name, evaluator)
    except PlanError as error:
        return SearchResult(problems=error.problems)
    if not tried:
        return SearchResult()
    smallest = [replace(tried[-1], gradient_checkpointing=checkpointing) for checkpointing in (True, False)]
    answered = [candidate for candidate in smallest if evaluator.answer(candidate) is not None]
    if not answered:
        return SearchResult(problems=evaluator.problems[smallest[0]])
    chosen = _chosen(tried, evaluator, answered)
    while confirm and not all(evaluator.is_confirmed(candidate) for candidate in chosen):
        chosen = _chosen(tried, evaluator, answered)
    return SearchResult(candidates=chosen, tried=tried, smallest=answered[0])


def _chosen(tried: tuple[Candidate, ...], evaluator: Evaluator, smallest: Iterable[Candidate]) -> tuple[Candidate, ...]:
    checkpointing = [candidate.gradient_checkpointing for candidate in smallest]
    best = [
        candidate for setting in checkpointing for candidate in _best_candidate(tried, evaluator, checkpointing=setting)
    ]
    return tuple(dict.fromkeys(best))


def _best_candidate(tried: tuple[Candidate, ...], evaluator: Evaluator, *, checkpointing: bool) -> Iterator[Candidate]:
    """Yield the first candidate that fits, with its largest micro-batch.

    If memory comes first, also yield the one of the preferred size with the smallest states and a micro-batch of 1.
    """
    candidates = [replace(candidate, gradient_checkpointing=checkpointing) for candidate in tried]
    if not _has_room(candidates[-1], evaluator):
        return
    first = next(candidate for candidate in candidates if _has_room(candidate, evaluator))
    yield evaluator.largest_micro_batch(first) or first
    if evaluator.needs.order[0] == "memory":
        thrifty = next(
            (candidate for candidate in candidates if candidate.optimizer.startswith("paged")), candidates[-1]
        )
        if evaluator.fits(thrifty):
            yield thrifty


def _has_room(candidate: Candidate, evaluator: Evaluator) -> bool:
    """Return whether any micro-batch fits: the smallest, or the whole batch.

    The whole batch keeps no gradients during its forward pass.
    """
    if evaluator.fits(candidate):
        return True
    answer = evaluator.answer(candidate)
    sizes = micro_batches(evaluator.needs.effective_batch_size, evaluator.device.count)
    if answer is None or answer.fit is None or len(sizes) == 1:
        return False
    gradients = answer.parameters.trainable * 4
    return answer.fit.headroom_bytes + gradients >= 0 and evaluator.fits(replace(candidate, micro_batch_size=sizes[-1]))


def larger_rank(candidate: Candidate, evaluator: Evaluator) -> Candidate | None:
    """Return the low-rank candidate with the largest rank that is admitted and fits with a margin."""
    method = candidate.method
    sizes = method.facts.candidate_sizes
    if not isinstance(method, LowRank) or sizes is None:
        return None
    for r in sizes.larger:
        larger = low_rank_of(method, r, method.target_modules)
        if _admitted(larger, evaluator):
            fitting = evaluator.largest_micro_batch(replace(candidate, method=larger))
            if fitting is not None and not evaluator.is_close(fitting):
                return fitting
    return None


def unprepared(candidate: Candidate, evaluator: Evaluator) -> Candidate | None:
    """Return a QLoRA candidate without `prepare_model_for_kbit_training`, which needs less memory."""
    method = candidate.method
    if not isinstance(method, QLoRA) or not method.prepare_model_for_kbit_training:
        return None
    return evaluator.largest_micro_batch(
        replace(candidate, method=replace(method, prepare_model_for_kbit_training=False))
    )


def attention_only(candidate: Candidate, evaluator: Evaluator) -> Candidate | None:
    """Return the low-rank candidate on attention's projections only, if it adapts more than those."""
    method = candidate.method
    names = targets(evaluator)[-1]
    sizes = method.facts.candidate_sizes
    if not isinstance(method, LowRank) or sizes is None or method.target_modules == names:
        return None
    for r in (*(r for r in sizes.usual if r > method.r), method.r):
        smaller = low_rank_of(method, r, names)
        fitting = (
            evaluator.largest_micro_batch(replace(candidate, method=smaller)) if _admitted(smaller, evaluator) else None
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
