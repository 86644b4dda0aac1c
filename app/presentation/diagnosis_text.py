"""Sentences of a diagnosis of an out-of-memory error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.presentation.format import number, percent, signed, size
from app.presentation.labels import PHASES
from app.presentation.run_text import IN_SENTENCE
from calculator.devices import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.devices.outcome import OutOfMemory, ReplayPhase
    from calculator.diagnosis.diagnosis import Diagnosis
    from calculator.diagnosis.matching import Match
    from calculator.diagnosis.phase_match import PhaseMatch
    from calculator.diagnosis.snapshot_match import SnapshotMatch

#: The sentence for a traceback through the Trainer's evaluation if no tensor of an evaluation has the size.
EVALUATION = (
    "The traceback is from an evaluation: add its settings to the request (run.eval_strategy, run.compute_metrics,"
    " run.per_device_eval_batch_size and run.eval_samples)."
)

#: When a step's allocations are requested.
STEPS = ("while the model is loaded", "in the first step", "in a later step")


def when(step: int, phase: ReplayPhase) -> str:
    """Return when an allocation is requested: in the forward pass, in the first step."""
    return STEPS[0] if step == 0 else f"in the {PHASES.get(phase, phase)}, {STEPS[min(step, 2)]}"


def when_in_phase(match: PhaseMatch) -> str:
    """Return when an allocation of another phase is requested: in the evaluation, in batch 12."""
    batch = "" if match.batch is None else f", in batch {number(match.batch)}"
    return f"{IN_SENTENCE[match.phase]}{batch}"


def title(diagnosis: Diagnosis) -> str:
    """Return the diagnosis in a line."""
    in_phase = diagnosis.phase_match
    if in_phase is not None:
        return f"{in_phase.tensor}, {when_in_phase(in_phase)}"
    if diagnosis.found == "none":
        return "No tensor of this run has that size"
    first = diagnosis.matches[0]
    return f"{first.tensor}, {when(first.step, first.phase)}"


def sentences(diagnosis: Diagnosis) -> Iterator[str]:
    """Yield sentences about the error, its place in the run, and its consequences."""
    if diagnosis.phase_match is not None:
        yield from _phase_sentences(diagnosis, diagnosis.phase_match)
    elif diagnosis.matches:
        yield from _matched(diagnosis)
    else:
        yield from _unmatched(diagnosis)
    if diagnosis.message.in_evaluation and not diagnosis.in_phases:
        yield EVALUATION
    if diagnosis.snapshot is not None:
        yield from _snapshot(diagnosis.snapshot)
    if diagnosis.phase_match is None:
        yield _course(diagnosis)
    yield _fragmentation(diagnosis)
    yield from _other_processes(diagnosis)
    if diagnosis.message.found > 1:
        yield f"The text has {number(diagnosis.message.found)} such messages; this is about the first."


def _matched(diagnosis: Diagnosis) -> Iterator[str]:
    first, message = diagnosis.matches[0], diagnosis.message
    names = list(dict.fromkeys(match.tensor for match in diagnosis.matches))
    what = f"“{first.tensor}”, requested {when(first.step, first.phase)}"
    if len(names) == 1:
        yield f"The allocation of {message.requested.text} is {what}."
    else:
        equal = {match.tensor for match in diagnosis.matches if _rank(match) == _rank(first)} - {first.tensor}
        others = f" {number(len(equal))} other tensors match equally well." if equal else ""
        yield (
            f"{number(len(names))} tensors of this run have a segment of {message.requested.text}, so the size alone"
            f" does not identify one. By the bytes in use, the closest is {what}.{others}"
        )
    if first.count > 1:
        yield f"It is requested {number(first.count)} times there; the figures are for the closest request."
    yield _compared(first, message.allocated.text)


def _phase_sentences(diagnosis: Diagnosis, first: PhaseMatch) -> Iterator[str]:
    """Yield the sentences about a tensor of the evaluation or of merging."""
    stated = diagnosis.message.allocated.text
    others = len({match.tensor for match in diagnosis.matches} | {match.tensor for match in diagnosis.in_phases}) - 1
    more = f" {number(others)} other tensors of the run have that size." if others else ""
    yield (
        f"The allocation of {diagnosis.message.requested.text} is “{first.tensor}”, requested {when_in_phase(first)}."
        f"{more}"
    )
    before = f"Before it, the estimate has {size(first.allocated_bytes)} allocated"
    if first.same_allocated:
        yield f"{before}. The message states the same, {stated}: this is the allocation that failed."
    else:
        yield f"{before} and the message states {stated} ({signed(first.difference_bytes)})."


def _rank(match: Match) -> tuple[bool, int]:
    """Return the sort key of a match."""
    return match.is_reached, abs(match.difference_bytes)


def _compared(match: Match, stated: str) -> str:
    """Return the bytes in use before a match, compared with the message's."""
    before = f"Before it, the estimate has {size(match.allocated_bytes)} allocated"
    if match.same_allocated:
        return f"{before}. The message states the same, {stated}: this is the allocation that failed."
    off = f"{before} and the message states {stated} ({signed(match.difference_bytes)})"
    if not match.is_reached:
        return f"{off}. In the estimate, the run runs out of memory before this allocation."
    return f"{off}."


def _unmatched(diagnosis: Diagnosis) -> Iterator[str]:
    yield (
        f"No tensor of this run has a segment of {diagnosis.message.requested.text}, from loading to the second step."
        " The run that failed differs from this request."
    )
    for length in diagnosis.other_lengths:
        more = "" if length.least == length.most else f" to {number(length.most)}"
        tokens = f"{number(length.least)}{more} tokens"
        yield f"“{length.tensor}” has this size with sequences of {tokens}: the batch may have been longer or shorter."
    yield (
        "Other explanations: other releases of the libraries, additional code in the training script, an evaluation or"
        " a generation, or a message of another process."
    )


def _snapshot(match: SnapshotMatch) -> Iterator[str]:
    share = percent(match.same_bytes / max(1, match.snapshot.allocated_bytes))
    moment = f"at “{match.tensor}”, {when(match.step, match.phase)}"
    yield (
        f"Of the {size(match.snapshot.allocated_bytes)} in use in the snapshot, {share} are blocks whose size equals"
        f" that of a tensor of the run, {moment}."
    )
    if match.other_bytes:
        yield f"{size(match.other_bytes)} are blocks that this request does not explain."
    if match.missing_bytes:
        yield f"The run has tensors of {size(match.missing_bytes)} that are not in the snapshot."


def _course(diagnosis: Diagnosis) -> str:
    offered = f"The message leaves {size(diagnosis.message.capacity_bytes)} to PyTorch"
    end = diagnosis.predicted
    if end is not None:
        return f"{offered}. A replay of this request with that memory also ends {_out_of_memory(end)}."
    fits = "fits" if diagnosis.outcome.verdict is Verdict.FITS else "runs by freeing cached blocks"
    needs = f"needs {size(diagnosis.outcome.minimum_bytes())} with the CUDA context"
    return (
        f"{offered}. In a replay with that memory, this request {fits}, and {needs}: the run that failed uses more than"
        " this request, or other memory was in use."
    )


def _out_of_memory(end: OutOfMemory) -> str:
    return f"out of memory at “{end.tensor}”, {when(end.step, end.phase)}"


def _fragmentation(diagnosis: Diagnosis) -> str:
    unallocated = diagnosis.message.unallocated
    cached = f"{size(unallocated.bytes)} are reserved and not allocated"
    if diagnosis.is_fragmented:
        return (
            f"Fragmentation: {cached}, more than the request, but no cached block is large enough."
            " PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True lets segments grow instead."
        )
    requested = diagnosis.message.requested
    if unallocated.bytes + diagnosis.message.free.bytes > requested.bytes:
        return (
            f"In part fragmentation: {cached} and {size(diagnosis.message.free.bytes)} are free, together more than the"
            f" request of {requested.text}, but not in one piece."
            " PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True lets segments grow instead."
        )
    return f"Not fragmentation: {cached}, less than the request of {requested.text}, also with what is free."


def _other_processes(diagnosis: Diagnosis) -> Iterator[str]:
    elsewhere = diagnosis.message.elsewhere_bytes
    if elsewhere:
        yield f"Other processes and the driver use {size(elsewhere)} of the GPU."
