"""Single changes to a configuration that save memory: their savings, their drawbacks, and their cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate, model_of
from calculator.estimation.positions import within_positions
from calculator.estimation.sample_lengths import with_one_length
from calculator.inputs.settings import declared
from calculator.methods import METHODS, Full, LoRA, QLoRA
from calculator.planning.candidates import attention_names
from calculator.planning.reasons.rules import RULES
from calculator.planning.trainer_ideas import trainer_ideas
from calculator.speed.step_cost import step_cost

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from calculator.architecture.model import Model
    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import Request
    from calculator.inputs.training import Training
    from calculator.methods.low_rank.method import LowRank
    from calculator.planning.reasons.rules import Rule

#: The smallest saving that is suggested, as a share of the required memory.
LEAST_SHARE = 0.002

#: The shortest sequence that is suggested, in tokens.
SHORTEST = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateChange:
    """Settings to change, by their paths in the request, and the rule that states the drawback of the change."""

    rule: str
    changes: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A change, the request with it, and what it saves."""

    changes: Mapping[str, Any]
    rule: Rule
    request: Request
    estimate: Estimate
    #: The saved bytes of required memory.
    saved_bytes: int
    #: The cost of a step relative to that of the present configuration.
    cost: float


def suggestions(request: Request, answer: Estimate) -> tuple[Suggestion, ...]:
    """Return changes that save memory, the largest saving first.

    `answer` is the request's estimate. Textbook accounting gets no suggestions. If micro-batches differ in length, the
    savings are those of the longest one.
    """
    if answer.accounting == "textbook":
        return ()
    model = model_of(request.model)
    request = within_positions(request, model)
    if answer.memory.history is not None:
        # The order of lengths is left out, because each idea would replay its own histories.
        answer = estimate(with_one_length(request))
    before = step_cost(model, request, answer).relative
    helpful = [
        suggestion
        for idea in ideas(request, model)
        if (suggestion := _suggestion(idea, request, answer, model, before))
    ]
    return tuple(sorted(helpful, key=lambda suggestion: -suggestion.saved_bytes))


def _suggestion(
    idea: CandidateChange, request: Request, answer: Estimate, model: Model, before: float
) -> Suggestion | None:
    """Try an idea. Return None if it is refused or saves too little."""
    changed = with_changes(request, idea.changes)
    try:
        after = estimate(with_one_length(changed))
    except PlanError:
        return None
    saved = answer.memory.required_bytes - after.memory.required_bytes
    if saved < LEAST_SHARE * answer.memory.required_bytes:
        return None
    return Suggestion(
        changes=idea.changes,
        rule=RULES[idea.rule],
        request=changed,
        estimate=after,
        saved_bytes=saved,
        cost=step_cost(model, changed, after).relative / before,
    )


def with_changes(request: Request, changes: Mapping[str, Any]) -> Request:
    """Return the request with settings changed, by their paths.

    A new method keeps the settings that both methods have.
    """
    training, changed, stack = (_changes_of_part(changes, part) for part in ("training.", "method.", "stack."))
    name = changed.pop("name", request.method.name)
    kind: type = METHODS[name]
    present: type = type(request.method)
    settings = {field.name for field in declared(kind)}
    kept = {field.name: getattr(request.method, field.name) for field in declared(present)}
    method: Any = kind(**{key: value for key, value in (kept | changed).items() if key in settings})
    return replace(
        request,
        method=method,
        training=replace(request.training, **training),
        stack=replace(request.stack, **stack),
        length_given=True,
    )


def _changes_of_part(changes: Mapping[str, Any], part: str) -> dict[str, Any]:
    return {path.removeprefix(part): value for path, value in changes.items() if path.startswith(part)}


def ideas(request: Request, model: Model) -> Iterator[CandidateChange]:
    """Yield every change that might save memory."""
    yield from _training_ideas(request.training)
    for rule, changes in trainer_ideas(request):
        yield CandidateChange(rule=rule, changes=changes)
    yield from _optimizer_ideas(request.training)
    yield from _method_ideas(request, model)


def _training_ideas(training: Training) -> Iterator[CandidateChange]:
    if not training.gradient_checkpointing:
        yield CandidateChange(rule="recomputation", changes={"training.gradient_checkpointing": True})
    if training.attention == "eager":
        yield CandidateChange(rule="fused_attention", changes={"training.attention": "sdpa"})
    if training.dtype == "float32" and (training.trainer is None or training.autocast is None):
        yield CandidateChange(rule="half_precision", changes={"training.dtype": "bfloat16", "training.autocast": None})
    if training.micro_batch_size > 1:
        halved, times = training.micro_batch_size // 2, training.gradient_accumulation_steps * 2
        if 2 * halved == training.micro_batch_size:
            changes = {"training.micro_batch_size": halved, "training.gradient_accumulation_steps": times}
            yield CandidateChange(rule="accumulation", changes=changes)
    if training.sequence_length >= 2 * SHORTEST:
        yield CandidateChange(
            rule="shorter_sequences", changes={"training.sequence_length": training.sequence_length // 2}
        )


def _optimizer_ideas(training: Training) -> Iterator[CandidateChange]:
    if training.optimizer in ("adamw_torch", "adamw_torch_fused"):
        yield CandidateChange(rule="states_8bit", changes={"training.optimizer": "adamw_8bit"})
    if training.optimizer == "adamw_torch":
        yield CandidateChange(rule="fused_optimizer", changes={"training.optimizer": "adamw_torch_fused"})
    if training.optimizer == "adamw_8bit":
        yield CandidateChange(rule="paged_states", changes={"training.optimizer": "paged_adamw_8bit"})


def _method_ideas(request: Request, model: Model) -> Iterator[CandidateChange]:
    method, training = request.method, request.training
    if not method.facts.trains_base and training.added_dtype == "float32" and training.dtype != "float32":
        yield CandidateChange(rule="rounded_updates", changes={"training.adapter_dtype": "model"})
    match method:
        case Full():
            yield from _instead_of_full()
        case LoRA():
            yield CandidateChange(rule="four_bits", changes={"method.name": QLoRA.name})
            yield from _low_rank_ideas(method, model)
        case QLoRA():
            yield from _low_rank_ideas(method, model)
            yield from _four_bit_ideas(method)
        case _:
            return


def _instead_of_full() -> Iterator[CandidateChange]:
    low_rank = {"method.r": 16, "method.lora_alpha": 32, "method.target_modules": "all-linear"}
    for name in (LoRA.name, QLoRA.name):
        yield CandidateChange(rule="learns_less", changes={"method.name": name, **low_rank})


def _low_rank_ideas(method: LowRank, model: Model) -> Iterator[CandidateChange]:
    if method.r > 1:
        yield CandidateChange(rule="rank", changes={"method.r": method.r // 2})
    if method.target_modules == "all-linear" and (names := attention_names(model)):
        yield CandidateChange(rule="all_linear", changes={"method.target_modules": names})


def _four_bit_ideas(method: QLoRA) -> Iterator[CandidateChange]:
    if not method.double_quant:
        yield CandidateChange(rule="double_quantisation", changes={"method.double_quant": True})
    if method.prepare_model_for_kbit_training:
        yield CandidateChange(rule="not_prepared", changes={"method.prepare_model_for_kbit_training": False})
