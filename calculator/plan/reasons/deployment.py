"""Reasons that come from how the tasks are served."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.plan.candidates import preferred
from calculator.plan.label import label
from calculator.plan.reasons.inference import beside, merged, mixed
from calculator.plan.reasons.reason import Judged, Reason, millions, size, speaks_against, speaks_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inference.multi_adapter import MultiAdapterFootprint

#: Bytes of a parameter of a merged or fully trained model as it is served.
SERVED_ITEMSIZE = 2


def served(judged: Judged) -> Iterator[Reason]:
    """Merging, many tasks, and the base that stays."""
    yield from _merging(judged)
    if judged.needs.tasks > 1:
        yield from _tasks(judged)
    if judged.needs.frozen_base or judged.needs.tasks > 1:
        yield from _base(judged)


def _merging(judged: Judged) -> Iterator[Reason]:
    facts, needs = judged.method.facts, judged.needs
    whole = judged.answer.parameters.base * SERVED_ITEMSIZE
    if facts.mergeable and needs.must_merge:
        models = "a plain model" if needs.tasks == 1 else f"{needs.tasks:,} plain models, one a task,"
        yield speaks_for("merges", f"Merges into {models} of {size(whole)} in 16 bits, at no cost at inference.")
    elif facts.mergeable and not needs.switches and not needs.frozen_base:
        added = millions(judged.answer.parameters.added)
        yield speaks_for(
            "merges", f"Its {added} parameters can be added into the weights: then inference costs no more."
        )
    if facts.quantizes_base and needs.must_merge:
        yield speaks_against("merging_rounds", _sixteen_bits(judged, whole))
    if facts.mergeable and needs.must_merge:
        yield from merged(judged)
    if facts.mergeable is False or (facts.mergeable and (needs.switches or needs.frozen_base)):
        yield beside(judged)


def _sixteen_bits(judged: Judged, whole: int) -> str:
    usable = judged.answer.fit.usable_bytes if judged.answer.fit else whole
    where = "more than this card holds, so merge in CPU memory" if whole > usable else "which this card can hold"
    return f"Merging without rounding again takes the base in 16 bits, {size(whole)}: {where}."


def _tasks(judged: Judged) -> Iterator[Reason]:
    tasks = judged.needs.tasks
    if judged.method.facts.trains_base:
        whole = judged.answer.parameters.base * SERVED_ITEMSIZE
        yield speaks_against(
            "copy_per_task", f"{tasks:,} tasks are {tasks:,} models: {size(tasks * whole)} in 16 bits."
        )
        return
    if judged.needs.must_merge:
        return
    together = judged.evaluator.together(judged.candidate)
    if together is None:
        told = f"{tasks:,} of them {size(tasks * judged.task_bytes)}"
        yield speaks_for("one_base", f"A task adds {size(judged.task_bytes)} in float32; {told}.")
        return
    left = f"which leaves {size(-together.short_bytes)} for the KV cache of more"
    yield speaks_for("one_base", f"A task adds {size(judged.task_bytes)} in float32; {at_once(together)}, {left}.")
    yield mixed(judged)
    yield from _usual_held(judged)


def at_once(together: MultiAdapterFootprint) -> str:
    """Every task and the base on a card, with the sum."""
    modules = together.tasks * together.task_bytes
    return (
        f"{together.tasks:,} of them {size(modules)}, the base as it is trained {size(together.base_bytes)}, the CUDA"
        f" context {size(together.context_bytes)} and one request of {together.tokens:,} tokens"
        f" {size(together.request_bytes)}: {size(together.bytes)} of {size(together.usable_bytes)}"
    )


def _usual_held(judged: Judged) -> Iterator[Reason]:
    """Why the configuration that a plan would begin with is not taken, where it would not hold the tasks."""
    larger = preferred(judged.method, judged.evaluator)
    held = judged.evaluator.together(replace(judged.candidate, method=larger))
    if held is not None and not held.held:
        sentence = (
            f"{label(larger)}, would take {size(held.bytes)} of {size(held.usable_bytes)} with the {held.tasks:,}"
            f" tasks at once; the card holds {held.most:,} of them."
        )
        yield speaks_against("held_at_once", sentence)


def _base(judged: Judged) -> Iterator[Reason]:
    counts, facts = judged.answer.parameters, judged.method.facts
    if facts.trains_base or judged.needs.must_merge:
        return
    sentence = (
        f"The base's {millions(counts.base)} parameters stay as they are; {millions(counts.added)} lie beside them."
    )
    yield speaks_for("immutable_base", sentence)
    if facts.quantizes_base:
        yield speaks_against(
            "quantised_copy",
            f"It is fitted to the base's 4-bit copy of {size(judged.base_bytes)}: serve it on that copy, or measure it"
            " on the 16-bit base first.",
        )
