"""Where nothing fits: the nearest miss, and the smallest card that would do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from calculator.compare.methods import cards
from calculator.devices import Verdict, cuda_context, gpus
from calculator.inference.multi_adapter import base_bytes, task_bytes
from calculator.inputs.training import Device
from calculator.plan.evaluator import Evaluator
from calculator.plan.label import label
from calculator.plan.reasons.reason import size
from calculator.plan.reasons.step_cost import step_cost
from calculator.plan.relaxations import SHORTEST

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.devices import GPU, Fit
    from calculator.estimate.answer import Estimate
    from calculator.estimate.request import Request
    from calculator.inference.multi_adapter import MultiAdapterFootprint
    from calculator.plan.evaluator import Candidate
    from calculator.plan.reasons.step_cost import StepCost
    from calculator.plan.relaxations import Change

#: Which cards a plan that fits none of those at hand is tried on: those that the figures speak of.
AMONG = "of the catalogue's NVIDIA cards from compute capability 8.0 on"

#: What a change sets that makes the nearest miss itself fit.
HELPING = {"sequence_length", "tasks"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestMiss:
    """The configuration that comes nearest to the device, and the card that it fits.

    `short_bytes` are of its training or, where more is wanting there, of its tasks `together`, if all are held at once.
    `card` is the smallest of the catalogue that holds it, of those that the figures speak of: NVIDIA's from compute
    capability 8.0 on; None where none does. `card_request` is the plan on it, whose dtype is what that card computes
    in, and `card_fit` that plan's verdict. `why_no_shorter_sequence` says why no shorter sequence and no fewer tasks
    make it fit.
    """

    request: Request
    estimate: Estimate
    cost: StepCost
    task_bytes: int
    short_bytes: int
    why_no_shorter_sequence: str | None
    together: MultiAdapterFootprint | None
    card: GPU | None
    card_request: Request | None
    card_fit: Fit | None

    @property
    def label(self) -> str:
        """The configuration in words."""
        return label(self.request.method)


def nearest(evaluator: Evaluator, smallest: Iterable[Candidate]) -> tuple[Candidate, Estimate] | None:
    """The choice among the thriftiest of the methods that misses by least, with its estimate.

    Before all others come those that miss by their tasks alone.
    """
    answers = [(candidate, evaluator.answer(candidate)) for candidate in smallest]
    known = [(candidate, answer) for candidate, answer in answers if answer is not None]
    return min(known, key=lambda pair: (not evaluator.trains(pair[0]), evaluator.short_bytes(pair[0])), default=None)


def missed(evaluator: Evaluator, candidate: Candidate, answer: Estimate, told: Iterable[Change]) -> NearestMiss:
    """A choice that does not fit, with the smallest card that it does fit; `told` is what would make something fit."""
    there = smallest_card(evaluator, candidate)
    held = there.answer(candidate) if there else None
    return NearestMiss(
        request=evaluator.request(candidate),
        estimate=answer,
        cost=step_cost(evaluator.model, evaluator.request(candidate), answer),
        task_bytes=task_bytes(answer),
        why_no_shorter_sequence=None
        if any(HELPING & change.sets.keys() for change in told)
        else _unhelped(evaluator, candidate),
        short_bytes=evaluator.short_bytes(candidate),
        together=evaluator.together(candidate),
        card=there.card if there else None,
        card_request=there.request(candidate) if there else None,
        card_fit=held.fit if held else None,
    )


def smallest_card(evaluator: Evaluator, candidate: Candidate) -> Evaluator | None:
    """The smallest card that the figures speak of and that holds a choice, by an estimate of the choice there.

    Such cards compute alike, so that what a choice needs on one tells of all.
    """
    spoken_of = [card for card in gpus() if card.compute_capability is not None and card.has_flash]
    answer = _on(spoken_of[0], evaluator).answer(candidate)
    for held in cards(answer) if answer else ():
        if held.gpu in spoken_of and held.verdict is Verdict.FITS:
            there = _on(held.gpu, evaluator)
            if there.fits(candidate):
                return there
    return None


def _on(card: GPU, evaluator: Evaluator) -> Evaluator:
    """Attempts on another card."""
    return Evaluator(evaluator.reference, Device(gpu=card.id), evaluator.needs, length_given=evaluator.length_given)


def _unhelped(evaluator: Evaluator, candidate: Candidate) -> str | None:
    """Why no shorter sequence makes a choice fit: what is needed with the fewest tokens that are proposed."""
    length = min(SHORTEST, evaluator.needs.sequence_length)
    shortest = Evaluator(
        evaluator.reference, evaluator.device, replace(evaluator.needs, sequence_length=length), length_given=True
    )
    answer = shortest.answer(candidate)
    if answer is None or answer.fit is None or shortest.trains(candidate):
        return None
    required, usable = answer.memory.required_bytes, answer.fit.usable_bytes
    return (
        f"No shorter sequence makes it fit: with {length:,} tokens it still needs {size(required)} of {size(usable)},"
        f" {size(base_bytes(answer))} of them for the base's weights and {size(cuda_context(evaluator.card).bytes)} for"
        " the CUDA context."
    )
