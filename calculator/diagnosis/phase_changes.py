"""Single changes to an evaluation or a merge that ended out of memory. They are judged by live tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from calculator.allocator.reserved_rule import whole_segments
from calculator.common.errors import PlanError
from calculator.devices import Verdict
from calculator.diagnosis.change import Change
from calculator.run.evaluation import Evaluation
from calculator.run.generation_refusals import check_generation
from calculator.run.refusals import check_request
from calculator.run.run import between_steps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.diagnosis.phase_match import PhaseMatch
    from calculator.inputs.run import RunSettings
    from calculator.run.request import RunRequest
    from calculator.training_step.resident_state import ResidentState

_TRAINER = "transformers/training_args.py"


@dataclass(frozen=True, slots=True)
class _Option:
    """Settings of a run, their drawback, and its source."""

    settings: dict[str, Any]
    statement: str
    source: str = _TRAINER


def phase_changes(
    request: RunRequest, resident: ResidentState, match: PhaseMatch, usable_bytes: int, fixed_bytes: int
) -> tuple[Change, ...]:
    """Return changes of the phase of a match. Those that end the error come first, then those that save the most.

    `usable_bytes` is what the error's device offered. `fixed_bytes` of it are the CUDA context and workspaces.
    """

    def needed(run: RunSettings) -> int:
        return whole_segments(_live(resident, run)) + fixed_bytes

    if match.phase == "merge":
        return (_without_merge(request, match),)
    now = needed(request.run)
    changes = []
    for option in _options(request.run):
        run = replace(request.run, **option.settings)
        try:
            check_request(replace(request, run=run))
            check_generation(run, resident.prepared)
        except PlanError:
            continue
        required = needed(run)
        if required >= now:
            continue
        changes.append(
            Change(
                changes={f"run.{name}": value for name, value in option.settings.items()},
                request=request.estimate,
                run=run,
                saved_bytes=now - required,
                verdict=Verdict.FITS if required <= usable_bytes else Verdict.DOES_NOT_FIT,
                ends=required <= usable_bytes if now > usable_bytes else None,
                statement=option.statement,
                source=option.source,
                cost=1.0,
            )
        )
    return tuple(sorted(changes, key=lambda change: (not change.ends, -change.saved_bytes)))


def _live(resident: ResidentState, run: RunSettings) -> int:
    """Return the live bytes of the evaluation, or those between steps if there is none."""
    resting = between_steps(resident)
    if not run.evaluates:
        return resting
    evaluation = Evaluation(resident, run)
    peaks = [evaluation.peak(), *([evaluation.generation()] if run.generates else [])]
    return resting + evaluation.resident_bytes + max(peak.bytes for peak in peaks)


def _options(run: RunSettings) -> Iterator[_Option]:
    rows = run.per_device_eval_batch_size
    for fewer in sorted({rows // 2, 1} - {0, rows}, reverse=True):
        yield _Option(
            {"per_device_eval_batch_size": fewer}, "The evaluation runs more, smaller batches, with the same results."
        )
    if run.gathers_logits:
        if run.eval_accumulation_steps != 1:
            yield _Option(
                {"eval_accumulation_steps": 1},
                "Gathered logits move to host memory after each batch. They then need that memory.",
            )
        yield _Option(
            {"prediction_loss_only": True},
            "compute_metrics gets no logits. preprocess_logits_for_metrics, with an argmax for example, keeps metrics"
            " and gathers as little.",
        )
    if run.generates:
        yield _Option({"predict_with_generate": False, "prediction_loss_only": True}, "There are no generated texts.")
    without = {"eval_strategy": "no", **({"predict_with_generate": False} if run.generates else {})}
    yield _Option(without, "The run is not evaluated: evaluate checkpoints in a process of their own.")


def _without_merge(request: RunRequest, match: PhaseMatch) -> Change:
    return Change(
        changes={"run.merge_and_unload": False},
        request=request.estimate,
        run=replace(request.run, merge_and_unload=False),
        saved_bytes=sum(row.bytes for row in match.alive),
        verdict=Verdict.FITS,
        ends=True,
        statement="Merge after the run in a process of its own, on the host or on an empty GPU.",
        source="peft/tuners/tuners_utils.py, merge_and_unload",
        cost=1.0,
    )
