"""Estimates of one model on one device under the same needs, each asked for once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from calculator.common.errors import PlanError
from calculator.devices import Verdict, cuda_context
from calculator.devices.verdict import card_of
from calculator.estimate.compatibility import within_positions
from calculator.estimate.estimate import estimate, model_of, parameter_counts
from calculator.estimate.request import Request
from calculator.inference.multi_adapter import MultiAdapterFootprint, base_bytes, request_bytes, task_bytes
from calculator.inputs.training import Training
from calculator.methods.prepared_model import PreparedModel
from calculator.training_step.resident_state import ResidentState

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.common.errors import Problem
    from calculator.common.names import OptimizerName
    from calculator.estimate.answer import Estimate
    from calculator.estimate.request import ModelReference
    from calculator.inputs.training import Device
    from calculator.methods import Method
    from calculator.plan.needs import Needs


#: The share of a card below which what is to spare is called little. Source: the rule little_room.
MARGIN = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What a plan chooses: the method with its settings, and what of the training the needs leave open."""

    method: Method
    optimizer: OptimizerName = "adamw_torch"
    gradient_checkpointing: bool = True
    micro_batch_size: int = 1


def micro_batches(effective_batch_size: int, cards: int = 1) -> tuple[int, ...]:
    """Micro-batches from which accumulation makes up the effective batch exactly, smallest first; none may be."""
    share, left = divmod(effective_batch_size, cards)
    return () if left else tuple(size for size in range(1, share + 1) if share % size == 0)


class Evaluator:
    """A model and a device to try choices on. `made` counts the estimates."""

    def __init__(self, reference: ModelReference, device: Device, needs: Needs, *, length_given: bool) -> None:
        self.model = model_of(reference)
        self.reference, self.device, self.needs, self.length_given = reference, device, needs, length_given
        self.card = card_of(device)
        self.made = 0
        self.problems: dict[Candidate, tuple[Problem, ...]] = {}
        self._answers: dict[Candidate, Estimate | None] = {}
        self._requests: dict[bool, int] = {}

    def request(self, candidate: Candidate) -> Request:
        """The complete request that a choice stands for."""
        accumulated = self.needs.effective_batch_size // (candidate.micro_batch_size * self.device.count)
        training = Training(
            micro_batch_size=candidate.micro_batch_size,
            sequence_length=self.needs.sequence_length,
            gradient_accumulation_steps=accumulated,
            dtype=self._dtype(candidate.method),
            gradient_checkpointing=candidate.gradient_checkpointing,
            optimizer=candidate.optimizer,
        )
        asked = Request(
            model=self.reference,
            method=candidate.method,
            training=training,
            device=self.device,
            length_given=self.length_given,
        )
        return within_positions(asked, self.model)

    @property
    def has_bfloat16(self) -> bool:
        """Whether the card computes in bfloat16 itself; one without a name is taken to."""
        return self.card is None or bool(self.card.bf16_native)

    def _dtype(self, method: Method) -> Literal["bfloat16", "float16", "float32"]:
        """The dtype of the base; the rule no_bfloat16 says why."""
        if self.has_bfloat16:
            return "bfloat16"
        return "float32" if method.facts.trains_base else "float16"

    def answer(self, candidate: Candidate) -> Estimate | None:
        """The choice's estimate; None where the real stack refuses it, which `problems` then tells."""
        if candidate not in self._answers:
            self.made += 1
            try:
                self._answers[candidate] = estimate(self.request(candidate))
            except PlanError as error:
                self._answers[candidate] = None
                self.problems[candidate] = error.problems
        return self._answers[candidate]

    def trains(self, candidate: Candidate) -> bool:
        """Whether the choice is answered and its training fits the device."""
        answer = self.answer(candidate)
        return answer is not None and answer.fit is not None and answer.fit.verdict is Verdict.FITS

    def fits(self, candidate: Candidate) -> bool:
        """Whether the choice's training fits the device, and so do its tasks where all are held at once."""
        return self.trains(candidate) and self.fits_every_task(candidate)

    def together(self, candidate: Candidate) -> MultiAdapterFootprint | None:
        """Every task of a choice on the device; None where they are not held at once, or nothing is answered."""
        answer = self.answer(candidate) if self.needs.switches else None
        if answer is None or answer.fit is None:
            return None
        training, four_bits = self.request(candidate).training, candidate.method.facts.quantizes_base
        if four_bits not in self._requests:
            told = request_bytes(self.reference, self.device, training, four_bits=four_bits)
            self._requests[four_bits] = told
        return MultiAdapterFootprint(
            tasks=self.needs.tasks,
            tokens=training.sequence_length,
            base_bytes=base_bytes(answer),
            task_bytes=task_bytes(answer),
            context_bytes=cuda_context(self.card).bytes,
            request_bytes=self._requests[four_bits],
            usable_bytes=answer.fit.usable_bytes,
        )

    def fits_every_task(self, candidate: Candidate) -> bool:
        """Whether the device holds every task of a choice at once, or need not."""
        held = self.together(candidate)
        return held is None or held.held

    def short_bytes(self, candidate: Candidate) -> int:
        """By how much the device misses a choice: its training, or its tasks at once. The choice must be answered."""
        answer, held = self.answer(candidate), self.together(candidate)
        assert answer is not None
        assert answer.fit is not None
        return max(-answer.fit.headroom_bytes, held.short_bytes if held else -answer.fit.headroom_bytes)

    def is_close(self, candidate: Candidate) -> bool:
        """Whether little of the device is to spare."""
        answer = self.answer(candidate)
        fit = answer.fit if answer else None
        return fit is not None and fit.headroom_bytes < MARGIN * fit.usable_bytes

    def largest_micro_batch(self, candidate: Candidate) -> Candidate | None:
        """The choice with the largest micro-batch that leaves a margin; else with the largest that fits, if any does.

        One micro-batch that is the whole batch is tried by itself: it keeps no gradients from one to the next.
        """
        sizes = micro_batches(self.needs.effective_batch_size, self.device.count)
        sized = [replace(candidate, micro_batch_size=size) for size in sizes]
        fitting = _largest(sized, self.fits)
        if fitting is None or not self.is_close(fitting):
            return fitting
        return _largest(sized, lambda each: self.fits(each) and not self.is_close(each)) or fitting

    def trained_share(self, method: Method) -> float:
        """The share of all parameters that a method trains, 0 to 1.

        Raises:
            PlanError: where the method can't be put on the model.
        """
        method.check(self.model, Training())
        resident = ResidentState(PreparedModel(self.model, method, Training(), self.device))
        return parameter_counts(resident.tensors).trainable_fraction


def _largest(sized: list[Candidate], suits: Callable[[Candidate], bool]) -> Candidate | None:
    """The last choice that suits, where all before it do; the very last is tried first, since it may suit alone."""
    if suits(sized[-1]):
        return sized[-1]
    low, high = -1, len(sized) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if suits(sized[middle]) else (low, middle)
    return sized[low] if low >= 0 else None
