"""Changes with which something fits if nothing does: relaxed needs, or a smaller model of the same series."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from calculator import catalogue
from calculator.common.errors import PlanError
from calculator.estimation.request import ModelReference
from calculator.limit_search.limits import LimitRequest, limit
from calculator.methods import METHODS, USUAL_METHODS
from calculator.planning.evaluator import divisors
from calculator.planning.method_search import search
from calculator.planning.needs import Needs, excluded_by_needs
from calculator.planning.reasons.reason import millions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.common.names import MethodName
    from calculator.planning.evaluator import Candidate, Evaluator

_SIZE = re.compile(r"[-_]?\d+(?:\.\d+)?[bm]\b", re.IGNORECASE)

#: The shortest sequence in tokens, and the smallest number of tasks, that are proposed.
SHORTEST = 64
FEWEST = 2

#: The methods that are tried on more GPUs.
BY_MORE_GPUS: tuple[MethodName, ...] = ("full", "lora", "qlora")


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """A change that makes a configuration fit: in words, and the fields of the plan request that it sets."""

    sentence: str
    sets: dict[str, Any]


def relaxations(evaluator: Evaluator, candidate: Candidate | None) -> tuple[Relaxation, ...]:
    """Return changes with which a plan would fit on such a GPU: relaxed needs, more GPUs, or a smaller model."""
    smaller = _smaller_needs(evaluator, candidate) if candidate else ()
    return (*smaller, *_relaxed(evaluator), *_more_gpus(evaluator), *_smaller_model(evaluator))


def _smaller_needs(evaluator: Evaluator, candidate: Candidate) -> Iterator[Relaxation]:
    """Yield the longest sequence and the largest number of tasks with which the candidate fits.

    They are not below the limits above.
    """
    needs, footprint = evaluator.needs, evaluator.footprint(candidate)
    words, sets = [], {}
    if not evaluator.trains(candidate):
        longest = limit(LimitRequest(request=evaluator.request(candidate), solve_for="sequence_length")).value
        if longest is None or not SHORTEST <= longest < needs.sequence_length:
            return
        words.append(f"{longest:,} tokens per sequence instead of {needs.sequence_length:,}")
        sets["sequence_length"] = longest
    if footprint is not None and not footprint.fits:
        if footprint.max_tasks < FEWEST:
            return
        words.append(f"{footprint.max_tasks:,} tasks instead of {needs.tasks:,}")
        sets["tasks"] = footprint.max_tasks
    yield Relaxation(sentence=f"With {' and '.join(words)} it fits.", sets=sets)


def _relaxed(evaluator: Evaluator) -> Iterator[Relaxation]:
    """Yield each need without which a method fits."""
    usual = Needs()
    for need in ("must_merge", "frozen_base", "switch_per_request", "max_trainable_fraction"):
        if getattr(evaluator.needs, need) == getattr(usual, need):
            continue
        changed = {need: getattr(usual, need)}
        freer = evaluator.variant(needs=replace(evaluator.needs, **changed))
        fitting = [
            METHODS[name].facts.label
            for name in USUAL_METHODS
            if not excluded_by_needs(name, freer.needs, freer.model) and search(name, freer).candidates
        ]
        if fitting:
            yield Relaxation(sentence=f"Without {need}, these fit: {', '.join(fitting)}.", sets=changed)


def _more_gpus(evaluator: Evaluator) -> Iterator[Relaxation]:
    """Yield the smallest number of GPUs on which a usual method fits under FSDP2.

    It must divide the batch.
    """
    device = evaluator.device
    for count in divisors(evaluator.needs.effective_batch_size):
        if count < max(device.count, 2) or (count, "fsdp") == (device.count, device.sharding):
            continue
        more = evaluator.variant(device=replace(device, count=count, sharding="fsdp", nodes=1))
        fitting = [
            METHODS[name].facts.label
            for name in BY_MORE_GPUS
            if not excluded_by_needs(name, more.needs, more.model) and search(name, more).candidates
        ]
        if fitting:
            sentence = f"On {count:,} such GPUs under FSDP2, these fit: {', '.join(fitting)}."
            yield Relaxation(sentence=sentence, sets={"count": count, "sharding": "fsdp"})
            return


def _smaller_model(evaluator: Evaluator) -> Iterator[Relaxation]:
    """Yield the largest smaller model of the same series that fits with a low-rank method."""
    series, count = _series(evaluator.model.id), evaluator.model.parameters
    family = sorted(
        (entry for entry in catalogue.models() if series and _series(entry.id) == series and entry.parameters < count),
        key=lambda entry: entry.parameters,
    )

    def too_large(entry: catalogue.ModelEntry) -> bool:
        try:
            smaller = evaluator.variant(reference=ModelReference(id=entry.id))
        except PlanError:
            return True
        return not any(search(name, smaller).candidates for name in ("qlora", "lora"))

    fitting = bisect_right(family, False, key=too_large)
    if fitting:
        entry = family[fitting - 1]
        yield Relaxation(
            sentence=f"{entry.id}, of the same series with {millions(entry.parameters)} parameters, fits.",
            sets={"model": entry.id},
        )


def _series(id: str | None) -> str:  # noqa: A002  the API's word
    """Return a model's id up to its size: meta-llama/Llama-3.1 for meta-llama/Llama-3.1-70B.

    It is empty without a size.
    """
    name, *rest = _SIZE.split(id or "", maxsplit=1)
    return name if rest else ""
