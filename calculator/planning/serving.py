"""Reasons that come from how the tasks are served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.comparison import AXES
from calculator.planning.products import products
from calculator.planning.reason import Judged, Reason, millions, percent, size, speaks_against, speaks_for

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    name, needs = judged.method.name, judged.needs
    whole = judged.answer.parameters.base * SERVED_ITEMSIZE
    if AXES[name].mergeable and needs.must_merge:
        models = "a plain model" if needs.tasks == 1 else f"{needs.tasks:,} plain models, one a task,"
        yield speaks_for("merges", f"Merges into {models} of {size(whole)} in 16 bits, at no cost at inference.")
    elif AXES[name].mergeable and not needs.switches and not needs.frozen_base:
        added = millions(judged.answer.parameters.added)
        yield speaks_for(
            "merges", f"Its {added} parameters can be added into the weights: then inference costs no more."
        )
    if name == "qlora" and needs.must_merge:
        yield speaks_against("merging_rounds", _sixteen_bits(judged, whole))
    if AXES[name].mergeable is False:
        added, overhead = millions(judged.answer.parameters.added), AXES[name].inference_overhead
        yield speaks_against("stays_beside", f"Its {added} parameters can't be merged. At inference: {overhead}.")


def _sixteen_bits(judged: Judged, whole: int) -> str:
    usable = judged.answer.fit.usable_bytes if judged.answer.fit else whole
    where = "more than this card holds, so merge in CPU memory" if whole > usable else "which this card can hold"
    return f"Merging without rounding again takes the base in 16 bits, {size(whole)}: {where}."


def _tasks(judged: Judged) -> Iterator[Reason]:
    tasks, name = judged.needs.tasks, judged.method.name
    if name == "full":
        whole = judged.answer.parameters.base * SERVED_ITEMSIZE
        yield speaks_against(
            "copy_per_task", f"{tasks:,} tasks are {tasks:,} models: {size(tasks * whole)} in 16 bits."
        )
        return
    if judged.needs.must_merge:
        return
    together = tasks * judged.task_bytes
    told = f"A task adds {size(judged.task_bytes)} in float32; {tasks:,} of them {size(together)}"
    yield _together(judged, told, together) if judged.needs.switches else speaks_for("one_base", f"{told}.")
    if judged.needs.switches and name in ("lora", "qlora"):
        share = judged.answer.parameters.added / products(judged.attempts.model).weights
        sentence = (
            f"Unmerged, requests for {tasks:,} tasks can share a batch, at {percent(share)} more operations a token."
        )
        yield speaks_for("mixed_batch", sentence)


def _together(judged: Judged, told: str, together: int) -> Reason:
    """Whether all tasks and the base lie on the card at once."""
    held = judged.base_bytes + together
    usable = judged.answer.fit.usable_bytes if judged.answer.fit else held
    beside = f"{told}, and the base as it is trained {size(judged.base_bytes)}: {size(held)} of {size(usable)}"
    if held <= usable:
        return speaks_for("one_base", f"{beside}, which leaves {size(usable - held)} for the KV cache.")
    return speaks_against("one_base", f"{beside}, so that not all of them lie on the card at once.")


def _base(judged: Judged) -> Iterator[Reason]:
    counts, name = judged.answer.parameters, judged.method.name
    if name == "full" or judged.needs.must_merge:
        return
    sentence = (
        f"The base's {millions(counts.base)} parameters stay as they are; {millions(counts.added)} lie beside them."
    )
    yield speaks_for("immutable_base", sentence)
    if name == "qlora":
        yield speaks_against(
            "quantised_copy",
            f"It is fitted to the base's 4-bit copy of {size(judged.base_bytes)}: serve it on that copy, or measure it"
            " on the 16-bit base first.",
        )
