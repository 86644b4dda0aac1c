"""Estimates of one model's candidates on one device under the same needs, each computed once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from calculator.common.errors import PlanError
from calculator.devices import Verdict, cuda_context
from calculator.devices.near_limit import is_near_limit
from calculator.devices.verdict import card_of
from calculator.estimation.estimate import estimate, model_of, parameter_counts
from calculator.estimation.positions import within_positions
from calculator.estimation.request import Request, reserved_by
from calculator.estimation.stated_base import with_stated_base
from calculator.inference.multi_adapter import MultiAdapterFootprint, request_bytes, task_bytes
from calculator.inputs.sharding import STAGES
from calculator.inputs.stack import DEFAULT_STACK
from calculator.inputs.training import Training
from calculator.methods import LoRA
from calculator.methods.prepared_model import PreparedModel
from calculator.trainers import trainer_of
from calculator.training_step.resident_state import ResidentState

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.common.errors import Problem
    from calculator.common.names import OptimizerName
    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import ModelReference, ReservedBy
    from calculator.inference.answer import Inference
    from calculator.inference.settings import Serving
    from calculator.inputs.device import Device
    from calculator.inputs.stack import StackVersions
    from calculator.methods import Method
    from calculator.planning.needs import Needs


#: The share of a GPU below which the spare memory counts as little. Source: the rule little_room.
MARGIN = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A choice of a plan: a method with its settings, and the training settings that the needs leave open."""

    method: Method
    optimizer: OptimizerName = "adamw_torch"
    gradient_checkpointing: bool = True
    micro_batch_size: int = 1


def divisors(number: int) -> tuple[int, ...]:
    """Return the divisors of a number, the smallest first."""
    return tuple(size for size in range(1, number + 1) if number % size == 0)


def micro_batches(effective_batch_size: int, cards: int = 1) -> tuple[int, ...]:
    """Return the micro-batch sizes that divide the effective batch evenly over the GPUs, the smallest first."""
    share, left = divmod(effective_batch_size, cards)
    return () if left else divisors(share)


class Evaluator:
    """Evaluates candidates for one model on one device.

    With `reserved` replay, decisions are made with reserved memory by the rule. Candidates near the device's limit, and
    those that the answer contains, are replayed. `by_rule_alone`: whether candidates near the limit are not replayed
    for now.
    """

    def __init__(
        self,
        reference: ModelReference,
        device: Device,
        needs: Needs,
        *,
        length_given: bool,
        reserved: ReservedBy = "replay",
        training: Training | None = None,
        stack: StackVersions = DEFAULT_STACK,
    ) -> None:
        self.model = model_of(reference)
        #: LoRA over the base that the model's config.json states, or over weights in the run's dtype.
        self.lora = with_stated_base(LoRA(), reference)
        self.reference, self.device, self.needs, self.length_given = reference, device, needs, length_given
        self.card = card_of(device)
        #: The trainer and its settings, which every candidate has.
        self.training = training or Training()
        self.reserved = reserved_by(reserved, device, self.training)
        #: The releases of the libraries, which every candidate has.
        self.stack = stack
        one_by_one = replace(
            self.training, gradient_accumulation_steps=max(1, needs.effective_batch_size // device.count)
        )
        least = trainer_of(self.training).smallest_size("micro_batch_size", one_by_one)
        sizes = micro_batches(needs.effective_batch_size, device.count)
        #: The smallest micro-batch that the trainer accepts, among those that divide the batch. 1 if there is none.
        self.least_rows = next((size for size in sizes if size >= least), 1)
        #: The number of estimates that were computed.
        self.estimates = 0
        #: Why the real libraries refuse a candidate.
        self.problems: dict[Candidate, tuple[Problem, ...]] = {}
        self.by_rule_alone = False
        self._ruled: dict[Candidate, Estimate | None] = {}
        self._stated: dict[Candidate, Estimate | None] = {}
        self._requests: dict[bool, int] = {}
        #: Answers for serving the merged model. They need the same memory whichever method was merged.
        self.merged: dict[Serving, Inference] = {}

    def variant(
        self,
        *,
        reference: ModelReference | None = None,
        device: Device | None = None,
        needs: Needs | None = None,
        length_given: bool = False,
    ) -> Evaluator:
        """Return an evaluator for another model, device or needs. `length_given`: whether these set a length."""
        return Evaluator(
            reference or self.reference,
            device or self.device,
            needs or self.needs,
            length_given=length_given or self.length_given,
            reserved=self.reserved,
            training=self.training,
            stack=self.stack,
        )

    def request(self, candidate: Candidate) -> Request:
        """Return the candidate's complete request."""
        rows = max(candidate.micro_batch_size, self.least_rows)
        accumulated = self.needs.effective_batch_size // (rows * self.device.count)
        training = replace(
            self.training,
            micro_batch_size=rows,
            sequence_length=self.needs.sequence_length,
            gradient_accumulation_steps=accumulated,
            dtype=self._dtype(candidate.method),
            autocast=self._autocast or self.training.autocast,
            gradient_checkpointing=candidate.gradient_checkpointing,
            optimizer=candidate.optimizer,
        )
        request = Request(
            model=self.reference,
            method=candidate.method,
            training=training,
            device=self.device,
            stack=self.stack,
            reserved=self.reserved,
            length_given=self.length_given,
        )
        return within_positions(request, self.model)

    @property
    def has_bfloat16(self) -> bool:
        """Whether the GPU supports bfloat16 natively. A GPU without a name is assumed to."""
        return self.card is None or bool(self.card.bf16_native)

    def _dtype(self, method: Method) -> Literal["bfloat16", "float16", "float32"]:
        """Return the dtype of the base (rules no_bfloat16 and base_in_float16)."""
        if self.lora.base is not None and not self.lora.base.takes_bfloat16:
            return "float16"
        if self.has_bfloat16:
            return "bfloat16"
        return "float32" if self._is_zero or method.facts.trains_base else "float16"

    @property
    def _autocast(self) -> Literal["bfloat16"] | None:
        """The dtype of autocast.

        DeepSpeed trains float32 weights, or bfloat16 weights with float32 master weights (Trainer's bf16=True).
        """
        return "bfloat16" if self._is_zero and self.has_bfloat16 else None

    @property
    def _is_zero(self) -> bool:
        return self.device.sharding in STAGES

    def answer(self, candidate: Candidate) -> Estimate | None:
        """Return the candidate's estimate, or None if the real libraries refuse it. `problems` has the reasons."""
        if candidate in self._stated:
            return self._stated[candidate]
        ruled = self._by_rule(candidate)
        if ruled is None or self.by_rule_alone or not is_near_limit(ruled.fit, self.device.sharding):
            return ruled
        return self.stated(candidate)

    def stated(self, candidate: Candidate) -> Estimate | None:
        """Return the candidate's estimate in the form of the answer. From then on, it is also its `answer`."""
        if candidate not in self._stated:
            ruled = self._by_rule(candidate)
            replays = ruled is not None and self.reserved == "replay"
            self._stated[candidate] = self._estimate(candidate, "replay") if replays else ruled
        return self._stated[candidate]

    def _by_rule(self, candidate: Candidate) -> Estimate | None:
        if candidate not in self._ruled:
            self._ruled[candidate] = self._estimate(candidate, "rule")
        return self._ruled[candidate]

    def _estimate(self, candidate: Candidate, reserved: ReservedBy) -> Estimate | None:
        self.estimates += 1
        try:
            return estimate(replace(self.request(candidate), reserved=reserved), once=True)
        except PlanError as error:
            self.problems[candidate] = error.problems
            return None

    def trains(self, candidate: Candidate) -> bool:
        """Return whether the candidate has an estimate and its training fits the device."""
        answer = self.answer(candidate)
        return answer is not None and answer.fit is not None and answer.fit.verdict is Verdict.FITS

    def fits(self, candidate: Candidate) -> bool:
        """Return whether the training fits the device and, if tasks switch per request, all tasks at once do too."""
        return self.trains(candidate) and self.fits_every_task(candidate)

    def footprint(self, candidate: Candidate) -> MultiAdapterFootprint | None:
        """Return the footprint of all tasks of a candidate on the device.

        Return None if tasks don't switch per request, or without an estimate.
        """
        answer = self.answer(candidate) if self.needs.switches else None
        if answer is None or answer.fit is None:
            return None
        training, four_bits = self.request(candidate).training, candidate.method.facts.quantizes_base
        if four_bits not in self._requests:
            needed = request_bytes(self.reference, self.device, training, four_bits=four_bits)
            self._requests[four_bits] = needed
        return MultiAdapterFootprint(
            tasks=self.needs.tasks,
            tokens=training.sequence_length,
            base_bytes=answer.base_bytes,
            task_bytes=task_bytes(answer),
            context_bytes=cuda_context(self.card).bytes,
            request_bytes=self._requests[four_bits],
            usable_bytes=answer.fit.usable_bytes,
        )

    def is_confirmed(self, candidate: Candidate) -> bool:
        """Return whether a candidate that fits also fits by its stated estimate."""
        self.stated(candidate)
        return self.fits(candidate)

    def fits_every_task(self, candidate: Candidate) -> bool:
        """Return whether all tasks of a candidate fit the device at once, or need not."""
        if not self._has_room_for_modules(candidate):
            return False
        footprint = self.footprint(candidate)
        return footprint is None or footprint.fits

    def _has_room_for_modules(self, candidate: Candidate) -> bool:
        """Return whether the base and the modules of all tasks fit the device, without a request."""
        answer = self.answer(candidate) if self.needs.switches else None
        if answer is None or answer.fit is None:
            return True
        modules = answer.base_bytes + self.needs.tasks * task_bytes(answer)
        return modules + cuda_context(self.card).bytes <= answer.fit.usable_bytes

    def short_bytes(self, candidate: Candidate) -> int:
        """Return the bytes that the device lacks for a candidate's training or all its tasks.

        The candidate must have an estimate.
        """
        answer, footprint = self.answer(candidate), self.footprint(candidate)
        assert answer is not None
        assert answer.fit is not None
        short = -answer.fit.headroom_bytes
        return max(short, footprint.short_bytes) if footprint else short

    def is_close(self, candidate: Candidate) -> bool:
        """Return whether the device has little memory to spare."""
        answer = self.answer(candidate)
        fit = answer.fit if answer else None
        return fit is not None and fit.headroom_bytes < MARGIN * fit.usable_bytes

    def largest_micro_batch(self, candidate: Candidate) -> Candidate | None:
        """Return the candidate with the largest micro-batch that leaves a margin, or else that fits.

        Return None if none fits. The whole batch as one micro-batch is tried separately, because it accumulates no
        gradients.
        """
        sizes = micro_batches(self.needs.effective_batch_size, self.device.count)
        sized = [replace(candidate, micro_batch_size=size) for size in sizes]
        fitting = _largest_candidate(sized, self.fits)
        if fitting is None or not self.is_close(fitting):
            return fitting
        return _largest_candidate(sized, lambda option: self.fits(option) and not self.is_close(option)) or fitting

    def trained_share(self, method: Method) -> float:
        """Return the share of all parameters that a method trains, from 0 to 1.

        Raises:
            PlanError: if the method can't be applied to the model.
        """
        method.check(self.model, Training())
        resident = ResidentState(PreparedModel(self.model, method, Training(), self.device))
        return parameter_counts(resident.whole).trainable_fraction


def _largest_candidate(sized: list[Candidate], suits: Callable[[Candidate], bool]) -> Candidate | None:
    """Return the last suitable candidate, by bisection. The very last one is tried first, because it may suit alone."""
    if suits(sized[-1]):
        return sized[-1]
    low, high = -1, len(sized) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if suits(sized[middle]) else (low, middle)
    return sized[low] if low >= 0 else None
