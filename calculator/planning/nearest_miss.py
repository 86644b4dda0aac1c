"""The configuration that lacks the least memory if nothing fits, and the smallest GPU that it fits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from calculator.comparison.methods import cards
from calculator.devices import Verdict, cuda_context, gpus
from calculator.inference.multi_adapter import component_bytes, task_bytes
from calculator.planning.label import label
from calculator.planning.reasons.reason import size
from calculator.planning.relaxations import SHORTEST
from calculator.speed.step_cost import step_cost

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.devices import GPU, Fit
    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import Request
    from calculator.inference.multi_adapter import MultiAdapterFootprint
    from calculator.planning.evaluator import Candidate, Evaluator
    from calculator.planning.relaxations import Relaxation
    from calculator.planning.sharding_search import MethodResult
    from calculator.speed.step_cost import StepCost

#: The GPUs that a configuration is tried on if it fits none of the request's GPUs. The figures are valid for them.
AMONG = "among the catalogue's NVIDIA GPUs of compute capability 8.0 or later"

#: Fields whose change makes the nearest miss itself fit.
HELPING = {"sequence_length", "tasks"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestMiss:
    """The configuration that lacks the least memory on the device, and the smallest GPU that it fits."""

    request: Request
    estimate: Estimate
    cost: StepCost
    task_bytes: int
    #: The bytes that the device lacks: for its training, or for all tasks if these lack more.
    short_bytes: int
    #: Why no shorter sequence and no smaller number of tasks makes it fit.
    why_no_shorter_sequence: str | None
    #: The footprint of all tasks on the device, if tasks switch per request.
    footprint: MultiAdapterFootprint | None
    #: The smallest GPU of the catalogue that it fits, with as many GPUs as in the request. None if there is none.
    #: Only GPUs that the figures are valid for are tried.
    card: GPU | None
    #: The request on that GPU, in a dtype that the GPU supports.
    card_request: Request | None
    card_fit: Fit | None

    @property
    def label(self) -> str:
        """The configuration in words."""
        return label(self.request.method)


def nearest_candidate(tried: Iterable[MethodResult]) -> tuple[Evaluator, Candidate, Estimate] | None:
    """Return the candidate that lacks the least memory, with its estimate and its evaluator.

    Candidates whose training fits, and that only lack memory for their tasks, come first.
    """
    found_before = [
        (example.evaluator, smallest, answer)
        for example in tried
        if (smallest := example.result.smallest) and (answer := example.evaluator.answer(smallest)) is not None
    ]
    return min(
        found_before,
        key=lambda candidate: (not candidate[0].trains(candidate[1]), candidate[0].short_bytes(candidate[1])),
        default=None,
    )


def nearest_miss(
    evaluator: Evaluator, candidate: Candidate, answer: Estimate, relaxations: Iterable[Relaxation]
) -> NearestMiss:
    """Describe a candidate that does not fit. `relaxations` are the changes with which something fits."""
    there = smallest_gpu(evaluator, candidate)
    on_gpu = there.stated(candidate) if there else None
    return NearestMiss(
        request=evaluator.request(candidate),
        estimate=evaluator.stated(candidate) or answer,
        cost=step_cost(evaluator.model, evaluator.request(candidate), answer),
        task_bytes=task_bytes(answer),
        why_no_shorter_sequence=None
        if any(HELPING & change.sets.keys() for change in relaxations)
        else why_no_shorter_sequence(evaluator, candidate),
        short_bytes=evaluator.short_bytes(candidate),
        footprint=evaluator.footprint(candidate),
        card=there.card if there else None,
        card_request=there.request(candidate) if there else None,
        card_fit=on_gpu.fit if on_gpu else None,
    )


def smallest_gpu(evaluator: Evaluator, candidate: Candidate) -> Evaluator | None:
    """Return an evaluator on the smallest GPU that a candidate fits, among those that the figures are valid for.

    Such GPUs use the same kernels, so the candidate needs about the same memory on all of them. The number of GPUs and
    their sharding stay the same.
    """
    modeled = [card for card in gpus() if card.compute_capability is not None and card.has_flash]
    first = _evaluator_on(modeled[0], evaluator)
    answer = first.stated(candidate)
    for fit in cards(answer, device=first.device) if answer else ():
        if fit.gpu in modeled and fit.verdict is Verdict.FITS:
            there = _evaluator_on(fit.gpu, evaluator)
            if there.fits(candidate):
                return there
    return None


def _evaluator_on(card: GPU, evaluator: Evaluator) -> Evaluator:
    """Return an evaluator on another GPU with the same number of GPUs. The given price does not apply to it."""
    device = replace(evaluator.device, gpu=card.id, memory_bytes=None, price_per_hour=None)
    return evaluator.variant(device=device)


def why_no_shorter_sequence(evaluator: Evaluator, candidate: Candidate) -> str | None:
    """Return why no shorter sequence makes a candidate fit: what it needs with the shortest one that is proposed."""
    length = min(SHORTEST, evaluator.needs.sequence_length)
    shortest = evaluator.variant(needs=replace(evaluator.needs, sequence_length=length), length_given=True)
    answer = shortest.stated(candidate)
    if answer is None or answer.fit is None or shortest.trains(candidate):
        return None
    required, usable = answer.memory.required_bytes, answer.fit.usable_bytes
    weights = sum(component_bytes(answer, component) for component in ("base_weights", "quantization_constants"))
    return (
        f"No shorter sequence makes it fit: with {length:,} tokens it still needs {size(required)} of {size(usable)},"
        f" {size(weights)} of them for the base's weights and {size(cuda_context(evaluator.card).bytes)} for"
        " the CUDA context."
    )
