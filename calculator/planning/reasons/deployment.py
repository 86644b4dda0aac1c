"""Reasons that come from how the tasks are served."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.planning.candidates import preferred
from calculator.planning.label import label
from calculator.planning.reasons.inference import merged_serving, mixed_batch, unmerged
from calculator.planning.reasons.reason import Evaluation, Reason, millions, size, speaks_against, speaks_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inference.multi_adapter import MultiAdapterFootprint

#: Bytes per parameter of a served model that was merged or fully fine-tuned.
SERVED_ITEMSIZE = 2


def serving_reasons(evaluation: Evaluation) -> Iterator[Reason]:
    """Yield reasons from merging, from many tasks, and from a base that stays unchanged."""
    yield from _merging(evaluation)
    if evaluation.needs.tasks > 1:
        yield from _tasks(evaluation)
    if evaluation.needs.frozen_base or evaluation.needs.tasks > 1:
        yield from _base(evaluation)


def _merging(evaluation: Evaluation) -> Iterator[Reason]:
    facts, needs = evaluation.method.facts, evaluation.needs
    whole = evaluation.answer.parameters.base * SERVED_ITEMSIZE
    base = evaluation.evaluator.lora.base
    if base is not None and not base.merges:
        yield speaks_against("unmergeable_base", f"PEFT does not merge it into a base in {base.label}.")
        return
    if facts.mergeable and needs.must_merge:
        models = "a plain model" if needs.tasks == 1 else f"{needs.tasks:,} plain models, one per task,"
        yield speaks_for("merges", f"Merges into {models} of {size(whole)} in 16 bits, at no cost at inference.")
    elif facts.mergeable and not needs.switches and not needs.frozen_base:
        added = millions(evaluation.answer.parameters.added)
        how = "replace the base's" if evaluation.method.facts.trains_copies else "be merged into the weights"
        yield speaks_for("merges", f"Its {added} parameters can {how}: then inference costs no more.")
    if facts.quantizes_base and needs.must_merge:
        yield speaks_against("merging_rounds", _sixteen_bits(evaluation, whole))
    if facts.mergeable and needs.must_merge:
        yield from merged_serving(evaluation)
    if facts.mergeable is False or (facts.mergeable and (needs.switches or needs.frozen_base)):
        yield unmerged(evaluation)


def _sixteen_bits(evaluation: Evaluation, whole: int) -> str:
    usable = evaluation.answer.fit.usable_bytes if evaluation.answer.fit else whole
    where = "more than this GPU has, so merge in CPU memory" if whole > usable else "which fits this GPU"
    return f"Merging without rounding again needs the base in 16 bits, {size(whole)}: {where}."


def _tasks(evaluation: Evaluation) -> Iterator[Reason]:
    tasks = evaluation.needs.tasks
    if evaluation.method.facts.trains_base:
        whole = evaluation.answer.parameters.base * SERVED_ITEMSIZE
        yield speaks_against(
            "copy_per_task", f"{tasks:,} tasks are {tasks:,} models: {size(tasks * whole)} in 16 bits."
        )
        return
    if evaluation.needs.must_merge:
        return
    footprint = evaluation.evaluator.footprint(evaluation.candidate)
    dtype = "" if evaluation.method.facts.trains_copies else " in float32"
    if footprint is None:
        every = f"{tasks:,} tasks add {size(tasks * evaluation.task_bytes)}"
        yield speaks_for("one_base", f"A task adds {size(evaluation.task_bytes)}{dtype}; {every}.")
        return
    left = f"which leaves {size(-footprint.short_bytes)} for the KV cache of more"
    yield speaks_for(
        "one_base", f"A task adds {size(evaluation.task_bytes)}{dtype}; {task_footprints(footprint)}, {left}."
    )
    if not evaluation.method.facts.trains_copies:
        yield mixed_batch(evaluation)
    yield from _preferred_does_not_fit(evaluation)


def task_footprints(footprint: MultiAdapterFootprint) -> str:
    """Return the footprint of every task in words, with its sum."""
    modules = footprint.tasks * footprint.task_bytes
    return (
        f"{footprint.tasks:,} of them {size(modules)}, the base as in training {size(footprint.base_bytes)}, the CUDA"
        f" context {size(footprint.context_bytes)} and one request of {footprint.tokens:,} tokens"
        f" {size(footprint.request_bytes)}: {size(footprint.bytes)} of {size(footprint.usable_bytes)}"
    )


def _preferred_does_not_fit(evaluation: Evaluation) -> Iterator[Reason]:
    """Yield why the preferred configuration is not chosen, if its tasks would not fit."""
    larger = preferred(evaluation.method, evaluation.evaluator)
    footprint = evaluation.evaluator.footprint(replace(evaluation.candidate, method=larger))
    if footprint is not None and not footprint.fits:
        sentence = (
            f"{label(larger)}, would need {size(footprint.bytes)} of {size(footprint.usable_bytes)} for all"
            f" {footprint.tasks:,} tasks; the GPU has room for {footprint.max_tasks:,}."
        )
        yield speaks_against("held_at_once", sentence)


def _base(evaluation: Evaluation) -> Iterator[Reason]:
    counts, facts = evaluation.answer.parameters, evaluation.method.facts
    if facts.trains_base or evaluation.needs.must_merge:
        return
    sentence = (
        f"The base's {millions(counts.base)} parameters stay unchanged; {millions(counts.added)} are added to them."
    )
    yield speaks_for("immutable_base", sentence)
    if facts.quantizes_base:
        yield speaks_against(
            "quantised_copy",
            f"It is fitted to the base's 4-bit copy of {size(evaluation.base_bytes)}: serve it on that copy, or measure"
            " it on the 16-bit base first.",
        )
