"""Answer of `POST /api/v1/diagnose`: an out-of-memory error explained."""

from dataclasses import asdict, replace
from typing import Any

from app.api.answers.answer import Answer, described
from app.api.answers.fit import OutOfMemoryAnswer
from app.api.answers.memory import Moment
from app.api.answers.plan import request_body
from app.interop.imports import Imported
from app.presentation.diagnosis_text import sentences
from calculator.common.names import ComponentName
from calculator.devices import Verdict
from calculator.devices.outcome import ReplayPhase
from calculator.diagnosis.change import Change
from calculator.diagnosis.diagnosis import MOST_ALIVE, Diagnosis, Found
from calculator.diagnosis.snapshot_match import SnapshotMatch
from calculator.run.answer import RunPhaseName

_STEP = "0 while the model is loaded, 1 in the first step, 2 in every later one."


class MessageAnswer(Answer):
    """The figures of the message, in bytes. Those with two decimals in the message are rounded as it rounds them."""

    gpu: int = described("The number of the GPU.", 0)
    requested_bytes: int = described("The segment that the device was to allocate.", 402_653_184)
    total_bytes: int = described("The memory of the device.", 17_072_495_002)
    free_bytes: int = described("The memory of the device that was free.", 236_778_947)
    allocated_bytes: int = described("What PyTorch's tensors used.", 15_837_691_904)
    unallocated_bytes: int = described("What PyTorch had reserved and no tensor used.", 64_424_509)
    in_use_bytes: int | None = described("What the process used; null if the message does not state it.", None)
    capacity_bytes: int = described(
        "What PyTorch could reserve: what it had reserved and what was free, at most what"
        " per_process_memory_fraction allows.",
        16_138_895_360,
    )
    elsewhere_bytes: int | None = described(
        "What other processes and the driver used; null if the message does not state in_use_bytes.", None
    )
    found: int = described("How many messages the text has. The first is explained.", 1)


class MatchAnswer(Answer):
    """A tensor of the run whose segment has the requested size."""

    tensor: str = described("The tensor; * stands for the number of the layer.", "transformer.h.*.attn: scores")
    component: ComponentName = described("What the memory is used for.", "activations")
    step: int = described(_STEP, 1)
    phase: ReplayPhase = described("What runs then.", "forward")
    count: int = described("How many times it is requested at that point.", 12)
    formula: str = described(
        "Its shape in named dimensions, times the bytes per element; empty for tensors that are not a micro-batch's.",
        "B × num_attention_heads × S × S × 4",
    )
    substituted: str = described("The formula with numbers.", "8 × 12 × 1,024 × 1,024 × 4")
    requested_bytes: int = described("The requested size, rounded up to a multiple of 512 bytes.", 402_653_184)
    segment_bytes: int = described("The size of the segment that is allocated for it.", 402_653_184)
    allocated_bytes: int = described(
        "The bytes allocated before the request, of the one that is closest to the message's figure.", 15_763_264_512
    )
    difference_bytes: int = described("allocated_bytes minus the message's figure.", -74_427_392)
    same_allocated: bool = described("Whether both are equal as the message rounds them.", False)
    is_reached: bool = described("Whether the estimated run reaches this request on that device.", True)


class PhaseRow(Answer):
    """Tensors that a phase has allocated."""

    name: str = described("What the tensors are.", "gathered logits")
    count: int = described("How many of them there are.", 1)
    bytes: int = described("Their total size.", 8_405_385_216)


class PhaseMatchAnswer(Answer):
    """A tensor of the evaluation or of merging whose segment has the requested size."""

    phase: RunPhaseName = described("The phase.", "evaluation")
    tensor: str = described("The tensor; * stands for the number of the layer.", "gathered logits with the batch")
    batch: int | None = described(
        "The number of the evaluation's batch, counted again after eval_accumulation_steps; null when merging.", 2
    )
    count: int = described("How many times it is requested there.", 1)
    formula: str = described("Its shape in named dimensions, times the bytes per element.", "rows × S × vocab_size × 4")
    substituted: str = described("The formula with numbers.", "16 × 2,048 × 128,256 × 4")
    segment_bytes: int = described("The size of the segment that is allocated for it.", 16_810_770_432)
    allocated_bytes: int = described("What is allocated before it, after these batches.", 33_392_275_456)
    difference_bytes: int = described("allocated_bytes minus the message's figure.", -4_188_688_384)
    same_allocated: bool = described("Whether both are equal as the message rounds them.", False)
    alive: tuple[PhaseRow, ...] = described(
        "The largest tensors that the phase has allocated before it.", [{"name": "gathered logits"}]
    )


class AliveAnswer(Answer):
    """Tensors of one kind that are alive at the first match."""

    name: str = described("What the tensors are.", "transformer.h.*.attn: softmax")
    component: ComponentName = described("What the memory is used for.", "activations")
    count: int = described("How many of them there are.", 9)
    bytes: int = described("Their total size.", 3_623_878_656)


class OtherLengthAnswer(Answer):
    """A tensor that has the requested size at another sequence length."""

    tensor: str = described("The tensor.", "lm_head: output")
    least: int = described("The shortest such sequence, in tokens.", 325)
    most: int = described("The longest such sequence, in tokens.", 326)


class DiagnosedChange(Answer):
    """A single change, replayed on what the message leaves PyTorch."""

    changes: dict[str, Any] = described(
        "The settings, by their paths in the request.", {"training.gradient_checkpointing": True}
    )
    saved_bytes: int = described(
        "The decrease of required_bytes; for expandable segments, the decrease of the smallest memory on which "
        "the run finishes.",
        18_186_502_144,
    )
    verdict: Verdict = described("The verdict of the changed run with that memory.", "fits")
    ends: bool | None = described(
        "Whether it ends the error; null if the replay of the unchanged run does not run out of memory.", True
    )
    statement: str = described("The trade-off.", "Activations are computed twice.")
    source: str = described("The source of that.", "torch.utils.checkpoint")
    cost: float = described("The cost of a step divided by that of the unchanged run.", 1.33)
    request: dict[str, Any] = described("The changed request.", {"model": "openai-community/gpt2"})


class MatchedBlocks(Answer):
    """Blocks of one size in a snapshot, and the tensors of the run that have it."""

    size: int = described("The size, rounded up to a multiple of 512 bytes.", 402_653_184)
    blocks: int = described("How many blocks of this size are in use in the snapshot.", 24)
    tensors: int = described("How many tensors of this size are alive in the run.", 24)
    names: tuple[str, ...] = described("What these tensors are.", ["transformer.h.*.attn: softmax"])


class SnapshotAnswer(Answer):
    """A snapshot's blocks next to the tensors of the run at the moment that is closest to it."""

    step: int = described(_STEP, 1)
    phase: ReplayPhase = described("What runs at that moment.", "forward")
    tensor: str = described("The tensor that is requested or freed just before it.", "lm_head: output")
    allocated_bytes: int = described("The blocks in use in the snapshot.", 20_042_961_920)
    reserved_bytes: int = described("The segments of the snapshot.", 20_069_744_640)
    same_bytes: int = described("Blocks with a tensor of their size.", 20_042_961_920)
    other_bytes: int = described("Blocks without one: what the run has beyond the request.", 0)
    missing_bytes: int = described("Tensors without a block of their size.", 0)
    matched: tuple[MatchedBlocks, ...] = described("The largest sizes in common.", [{"size": 402_653_184}])
    others: tuple[MatchedBlocks, ...] = described("The largest blocks without a tensor.", [])
    missing: tuple[MatchedBlocks, ...] = described("The largest tensors without a block.", [])
    components: dict[ComponentName, int] = described(
        "The bytes of the run's tensors at that moment.", {"activations": 14_075_308_544}
    )
    timeline: tuple[int, ...] = described(
        "Bytes in use over the snapshot's history, the most of each of up to 200 parts; empty without history.",
        [497_759_232, 20_042_961_920],
    )


class DiagnoseAnswer(Answer):
    """Which allocation failed, what is alive there, and the single changes that end it."""

    sentences: tuple[str, ...] = described("The answer in words.", ["The allocation of 384.00 MiB is ..."])
    found: Found = described("Whether one, several or no tensors of the run have the requested size.", "several")
    message: MessageAnswer = described("The figures of the message.", {"requested_bytes": 402_653_184})
    matches: tuple[MatchAnswer, ...] = described(
        "These tensors: those that the run reaches first, then by the distance of the allocated bytes.",
        [{"tensor": "transformer.h.*.attn: scores"}],
    )
    in_phases: tuple[PhaseMatchAnswer, ...] = described(
        "Tensors of that size in the evaluation and in merging, if the request has `run`; by the distance of the"
        " allocated bytes.",
        [],
    )
    alive: tuple[AliveAnswer, ...] = described(
        "The largest tensors alive when the first match is requested.", [{"name": "transformer.h.*.attn: softmax"}]
    )
    alive_by_component: dict[ComponentName, int] = described(
        "The bytes of all tensors alive then.", {"activations": 14_075_308_544}
    )
    other_lengths: tuple[OtherLengthAnswer, ...] = described(
        "If no tensor has the size: those that have it at another sequence length.", []
    )
    is_fragmented: bool = described(
        "Whether the reserved and unallocated memory is as large as the request, but no block of it is large enough.",
        False,
    )
    predicted_verdict: Verdict = described(
        "The verdict of a replay with the memory that the message leaves to PyTorch.", "does_not_fit"
    )
    predicted: OutOfMemoryAnswer | None = described(
        "Where that replay runs out of memory; null if it finishes.", {"tensor": "transformer.h.*.attn: scores"}
    )
    changes: tuple[DiagnosedChange, ...] = described(
        "Single changes: those that end the error first, then by saving.", [{"saved_bytes": 18_186_502_144}]
    )
    timeline: tuple[Moment, ...] = described("Bytes alive over a step of the estimate.", [{"bytes": 25_970_000_000}])
    snapshot: SnapshotAnswer | None = described("The snapshot; null without one.", None)
    request: dict[str, Any] = described("The request that was diagnosed.", {"model": "openai-community/gpt2"})
    warnings: tuple[str, ...] = described("What an imported file contains that the request does not reproduce.", [])


def diagnose_answer(diagnosis: Diagnosis, body: dict[str, Any], imported: Imported | None = None) -> DiagnoseAnswer:
    """Convert a diagnosis to the API's answer."""
    changes = [{**_fields(change), "request": _body(change)} for change in diagnosis.changes]
    return DiagnoseAnswer.model_validate(
        {
            "sentences": tuple(sentences(diagnosis)),
            "message": _message(diagnosis),
            "changes": changes,
            "predicted_verdict": diagnosis.outcome.verdict,
            "timeline": diagnosis.estimate.memory.timeline,
            "snapshot": _snapshot(diagnosis.snapshot),
            "request": body,
            "warnings": not_reproduced(imported),
            "in_phases": [replace(match, alive=match.alive[:MOST_ALIVE]) for match in diagnosis.in_phases],
            **{name: getattr(diagnosis, name) for name in _SAME},
        },
        from_attributes=True,
    )


_SAME = ("found", "matches", "alive", "alive_by_component", "other_lengths", "is_fragmented", "predicted")


def _body(change: Change) -> dict[str, Any]:
    body = request_body(change.request)
    return body if change.run is None else {**body, "run": asdict(change.run)}


def _fields(change: Any) -> dict[str, Any]:
    return {name: getattr(change, name) for name in DiagnosedChange.model_fields if name != "request"}


def _snapshot(match: SnapshotMatch | None) -> dict[str, Any] | None:
    if match is None:
        return None
    snapshot = match.snapshot
    match_fields = [name for name in SnapshotAnswer.model_fields if hasattr(match, name)]
    return {
        "allocated_bytes": snapshot.allocated_bytes,
        "reserved_bytes": snapshot.reserved_bytes,
        "timeline": snapshot.line,
        **{name: getattr(match, name) for name in match_fields},
    }


def _message(diagnosis: Diagnosis) -> dict[str, Any]:
    message = diagnosis.message
    stated = {
        f"{name}_bytes": getattr(message, name).bytes
        for name in ("requested", "total", "free", "allocated", "unallocated")
    }
    return {
        **stated,
        "in_use_bytes": message.in_use.bytes if message.in_use else None,
        **{name: getattr(message, name) for name in ("gpu", "capacity_bytes", "elsewhere_bytes", "found")},
    }


def not_reproduced(imported: Imported | None) -> tuple[str, ...]:
    """Return sentences about the content of a file that its request does not reproduce."""
    if imported is None:
        return ()
    return (*imported.warnings, *(f"{entry.key}: {entry.why}" for entry in imported.not_understood))
