"""Where nothing fits: what to change of the needs, and the model of the same series that would fit."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from calculator import catalogue
from calculator.common.errors import PlanError
from calculator.estimate.request import ModelReference
from calculator.limits.limits import LimitRequest, limit
from calculator.methods import METHODS
from calculator.plan.evaluator import Evaluator
from calculator.plan.method_search import search
from calculator.plan.needs import Needs, excluded_by_needs
from calculator.plan.reasons.reason import millions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.plan.evaluator import Candidate

_SIZE = re.compile(r"[-_]?\d+(?:\.\d+)?[bm]\b", re.IGNORECASE)

#: Sequences shorter than so many tokens are not proposed, nor fewer tasks than there is something to switch between.
SHORTEST = 64
FEWEST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change that makes a configuration fit: in words, and what of the plan's request it sets."""

    sentence: str
    sets: dict[str, Any]


def changes(evaluator: Evaluator, candidate: Candidate | None) -> tuple[Change, ...]:
    """What would make something fit, beside another card: changes to the needs, and a smaller model."""
    smaller = _smaller_needs(evaluator, candidate) if candidate else ()
    return (*smaller, *_relaxed(evaluator), *_smaller_model(evaluator))


def _smaller_needs(evaluator: Evaluator, candidate: Candidate) -> Iterator[Change]:
    """The longest sequence and the most tasks with which the choice fits, if there are any worth the name."""
    needs, together = evaluator.needs, evaluator.together(candidate)
    told, sets = [], {}
    if not evaluator.trains(candidate):
        longest = limit(LimitRequest(request=evaluator.request(candidate), solve_for="sequence_length")).value
        if longest is None or not SHORTEST <= longest < needs.sequence_length:
            return
        told.append(f"{longest:,} tokens a sequence instead of {needs.sequence_length:,}")
        sets["sequence_length"] = longest
    if together is not None and not together.held:
        if together.most < FEWEST:
            return
        told.append(f"{together.most:,} tasks instead of {needs.tasks:,}")
        sets["tasks"] = together.most
    yield Change(sentence=f"With {' and '.join(told)} it fits.", sets=sets)


def _relaxed(evaluator: Evaluator) -> Iterator[Change]:
    """Each need without which a method fits."""
    usual = Needs()
    for need in ("must_merge", "frozen_base", "switch_per_request", "max_trainable_fraction"):
        if getattr(evaluator.needs, need) == getattr(usual, need):
            continue
        changed = {need: getattr(usual, need)}
        freer = Evaluator(
            evaluator.reference,
            evaluator.device,
            replace(evaluator.needs, **changed),
            length_given=evaluator.length_given,
        )
        fitting = [
            METHODS[name].facts.label
            for name in METHODS
            if not excluded_by_needs(name, freer.needs, freer.model) and search(name, freer).candidates
        ]
        if fitting:
            yield Change(sentence=f"Without {need} there fits: {', '.join(fitting)}.", sets=changed)


def _smaller_model(evaluator: Evaluator) -> Iterator[Change]:
    """The largest smaller model of the same series that fits by the low-rank methods."""
    series, count = _series(evaluator.model.id), evaluator.model.parameters
    family = sorted(
        (entry for entry in catalogue.models() if series and _series(entry.id) == series and entry.parameters < count),
        key=lambda entry: entry.parameters,
    )

    def too_large(entry: catalogue.ModelEntry) -> bool:
        try:
            smaller = Evaluator(
                ModelReference(id=entry.id), evaluator.device, evaluator.needs, length_given=evaluator.length_given
            )
        except PlanError:
            return True
        return not any(search(name, smaller).candidates for name in ("qlora", "lora"))

    fitting = bisect_right(family, False, key=too_large)
    if fitting:
        entry = family[fitting - 1]
        yield Change(
            sentence=f"{entry.id}, of the same series with {millions(entry.parameters)} parameters, fits.",
            sets={"model": entry.id},
        )


def _series(id: str | None) -> str:  # noqa: A002  the API's word
    """A model's id up to its size: meta-llama/Llama-3.1 for meta-llama/Llama-3.1-70B; empty where it names none."""
    name, *rest = _SIZE.split(id or "", maxsplit=1)
    return name if rest else ""
