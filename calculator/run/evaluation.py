"""The peak of an evaluation: of the Trainer's loop, and of generation on one of its batches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements, named
from calculator.common.dtype import ITEMSIZE, allocated
from calculator.estimation.answer import Row
from calculator.estimation.ledger import FSDP, rows
from calculator.run import generation
from calculator.run.gathered import Gathered, OfRow
from calculator.run.generation import LossOfLabels
from calculator.sharding.fsdp.evaluation import left_gathered
from calculator.sharding.fsdp.units import GATHERED
from calculator.trainers import trainer_of
from calculator.trainers.task_labels import LABELS, output_names
from calculator.trainers.transformers.loop import counts_items
from calculator.trainers.trl import generated
from calculator.training_step.evaluation import evaluation_pass
from calculator.training_step.rollout import rolled_out
from calculator.training_step.zero3.evaluation import BATCHES, PartitionedEvaluation, peak_of_batches

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.engine.live_tensors import LiveTensors
    from calculator.engine.recording import Recording
    from calculator.inputs.run import RunSettings
    from calculator.inputs.training import Training
    from calculator.methods.prepared_model import PreparedModel
    from calculator.run.gathered import Moment
    from calculator.sharding.zero3.evaluation import Batch
    from calculator.training_step.evaluation import EvaluationPass
    from calculator.training_step.generation import PassPeak
    from calculator.training_step.resident_state import ResidentState

_COORDINATOR = "deepspeed/runtime/zero/partitioned_param_coordinator.py"
_BATCH = "transformers/trainer.py, prediction_step"


def listed(alive: LiveTensors) -> tuple[Row, ...]:
    """Return live tensors as rows, the largest first."""
    listed_rows = [row for component_rows in rows(alive).values() for row in component_rows]
    return tuple(sorted(listed_rows, key=lambda row: -row.bytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasePeak:
    """The rows that a phase adds to what exists on the GPU before it, and the operation at its peak."""

    rows: tuple[Row, ...]
    operation: str

    @property
    def bytes(self) -> int:
        """The bytes of all rows."""
        return sum(row.bytes for row in self.rows)


class Evaluation:
    """An evaluation of the model that a run trains."""

    def __init__(self, resident: ResidentState, run: RunSettings) -> None:
        self.resident, self.run = resident, run
        #: Returns the forward pass of a number of rows.
        self.passed = cache(self._passed)
        #: Returns the passes of `generate` on a number of rows.
        self.generated = cache(self._generated)

    @cached_property
    def _stage_3(self) -> PartitionedEvaluation | None:
        """The weights that stage 3 gathers."""
        state, run = self.resident.partitioned, self.run
        if state is None:
            return None
        if not run.generates:
            batches = -(-self._samples // (run.per_device_eval_batch_size * self.resident.prepared.device.count))
            return PartitionedEvaluation(state, batches)
        tapes = [pass_.recording.copies.tape for pass_ in self.generated(run.per_device_eval_batch_size, is_first=True)]
        return PartitionedEvaluation(state, self.gathered.batches, tapes, generation.most_tokens(run) - self.length)

    @property
    def resident_bytes(self) -> int:
        """The bytes that stage 3 has gathered when the evaluation begins."""
        state = self.resident.partitioned
        return 0 if state is None else sum(parameter.with_padding for parameter in state.persistent)

    @property
    def length(self) -> int:
        """The number of tokens of a row, which is that of the training."""
        return self.resident.prepared.given.sequence_length

    @cached_property
    def gathered(self) -> Gathered:
        """The loop, with what it keeps."""
        outputs, labels = self._kept
        return Gathered(
            rows=self.run.per_device_eval_batch_size,
            samples=self._samples,
            steps=self.run.eval_accumulation_steps,
            outputs=outputs,
            labels=labels,
            ranks=self.resident.prepared.device.count,
            followed=BATCHES if self.run.generates and self.resident.partitioned is not None else 2,
        )

    @property
    def _kept(self) -> tuple[tuple[OfRow, ...], tuple[OfRow, ...]]:
        """The tensors that the loop keeps of each row for compute_metrics: outputs or generated tokens, and labels."""
        if self.run.generates:
            return (generation.generated_tokens(self.run),), generation.padded(self._labels())
        if self.run.gathers_logits:
            return tuple(self._outputs()), tuple(self._labels())
        return (), ()

    @property
    def _samples(self) -> int:
        """The number of rows of the evaluation. A trainer that generates has several completions of each prompt."""
        training = self.resident.prepared.given
        if not trainer_of(training).facts.generates:
            return self.run.eval_samples
        ranks = self.resident.prepared.device.count
        together = self.run.per_device_eval_batch_size * ranks
        return self.run.eval_samples * generated.completions_in_evaluation(training, together, ranks)

    def _outputs(self) -> Iterator[OfRow]:
        """Yield the model's outputs without the loss."""
        prepared = self.resident.prepared
        outputs = self.passed(self.run.per_device_eval_batch_size, is_first=True).outputs
        for name, (shape, dtype) in zip(output_names(prepared.model.task.name), outputs, strict=True):
            yield OfRow(name, shape[1:], dtype)

    def _labels(self) -> Iterator[OfRow]:
        given = self.resident.prepared.given
        for name, shape, dtype in trainer_of(given).fetched(self.resident.prepared):
            if name in LABELS:
                yield OfRow(name, shape[1:], dtype)

    @property
    def is_of_trl(self) -> bool:
        """Whether a trainer of TRL evaluates. Each of them has its own prediction_step."""
        return self.resident.prepared.given.trainer != "transformers"

    @property
    def _counts_labels(self) -> bool:
        """Whether prediction_step counts the labels, as the Trainer's own does for a step."""
        return not self.run.generates and not self.is_of_trl and counts_items(self.resident.prepared.model)

    def peak(self) -> PhasePeak:
        """Return the peak of the loop."""
        return max((self._peak_at(moment) for moment in self.gathered.moments()), key=lambda peak: peak.bytes)

    def _peak_at(self, moment: Moment) -> PhasePeak:
        if not moment.in_forward:
            rows = (*self.in_concatenation(moment), *self._gathered_by_stage_3(self._left_gathered_bytes(moment)))
            return PhasePeak(rows=rows, operation="nested_concat: gathered logits with the batch")
        loss_peak = self._loss_peak(moment)
        loss_peak = replace(loss_peak, rows=(*moment.kept, *self.given(moment.batch), *loss_peak.rows))
        passes = [_peak(pass_) for pass_ in self.rolled_out(moment.batch, is_first=moment.is_first)]
        peaks = (loss_peak, *(replace(pass_, rows=(*moment.kept, *pass_.rows)) for pass_ in passes))
        return max(peaks, key=lambda peak: peak.bytes)

    def _loss_peak(self, moment: Moment) -> PhasePeak:
        """Return the peak of the loss pass, including what stage 3 gathers."""
        passed: EvaluationPass = self.passed(moment.batch, is_first=moment.is_first)
        if self._stage_3 is None:
            return PhasePeak(rows=listed(passed.alive), operation=passed.operation)
        batches = self._stage_3.batch(passed.recording.copies.tape, moment.number)
        return self._with_gathered(passed.recording, batches)

    def _with_gathered(self, recording: Recording, batches: Sequence[Batch]) -> PhasePeak:
        """Return the peak of a pass in which stage 3 gathers weights."""
        at, gathered = peak_of_batches(recording, batches)
        rows = (*listed(recording.alive(at)), *self._gathered_by_stage_3(gathered))
        return PhasePeak(rows=rows, operation=recording.operation(at.event))

    def in_concatenation(self, moment: Moment) -> tuple[Row, ...]:
        """Return the live tensors while a batch is appended to earlier ones, without those that stage 3 gathers."""
        return (*moment.kept, *self.batch(moment.batch), *self._padded(moment.batch), *self._weights())

    def given(self, count: int) -> tuple[Row, ...]:
        """Return the inputs of the model: the batch, and the number of its labels or the tokens generated for it."""
        more = [_count_of_labels()] if self._counts_labels else []
        if self.run.generates:
            more.append(generation.batch_row(self.gathered.outputs[0], count))
        return (*self.batch(count), *more)

    def _padded(self, count: int) -> Iterator[Row]:
        """Yield the labels of a batch. Padded labels are copies."""
        if self.run.generates:
            pairs = zip(self.gathered.labels, self._labels(), strict=True)
            yield from (generation.batch_row(output, count) for output, labels in pairs if output.shape != labels.shape)

    def rolled_out(self, count: int, *, is_first: bool) -> tuple[PassPeak, ...]:
        """Return the passes in which a trainer of TRL generates the completions of a batch."""
        prepared = self._for_batch(count, self.resident.prepared.given)
        return tuple(rolled_out(prepared, trains=False, is_first=is_first))

    @property
    def left_by_generation(self) -> int:
        """The bytes that the model still keeps, after the evaluation, of the last batch that it generated for."""
        rows = self.run.per_device_eval_batch_size
        last = self._samples % rows if self.gathered.ranks == 1 else 0
        return sum(row.bytes for row in generation.rope_deltas(self.resident.prepared, last or rows))

    def batch(self, count: int) -> tuple[Row, ...]:
        """Return the tensors of a batch, and what the model keeps of generating for it."""
        kept = generation.rope_deltas(self.resident.prepared, count) if self.run.generates else ()
        return (*self._fetched(count), *kept)

    def _fetched(self, count: int) -> Iterator[Row]:
        given = self.resident.prepared.given
        for name, shape, dtype in trainer_of(given).fetched(self._for_batch(count, given)):
            size = allocated(elements(shape), ITEMSIZE[dtype])
            yield Row.build(name=f"{name} of the batch", count=1, bytes=size, shape=shape, dtype=dtype, source=_BATCH)

    def _weights(self) -> Iterator[Row]:
        """Yield the weights that FSDP leaves gathered after a batch."""
        prepared = self.resident.prepared
        for unit, count in left_gathered(prepared, self._left_gathered) if prepared.device.sharding == "fsdp" else ():
            for tensor, shape, dtype in unit.gathered:
                size = allocated(elements(shape), ITEMSIZE[dtype]) * count
                yield Row.build(
                    name=tensor.name + GATHERED, count=count, bytes=size, shape=shape, dtype=dtype, source=FSDP
                )

    @property
    def _left_gathered(self) -> frozenset[str]:
        """The units outside the layers that FSDP leaves gathered after the first batch, and after each later one."""
        return self.passed(self.run.per_device_eval_batch_size, is_first=True).left_gathered

    def _left_gathered_bytes(self, moment: Moment) -> int:
        """Return the bytes that the batch of a moment leaves gathered under stage 3."""
        return 0 if self._stage_3 is None else self._stage_3.gathered_after(moment.number)

    def _gathered_by_stage_3(self, size: int) -> Iterator[Row]:
        """Yield the weights that stage 3 has gathered in addition to persistent ones."""
        dtype, more = self.resident.prepared.cast_to or "float32", size - self.resident_bytes
        if more:
            shape = (named(more // ITEMSIZE[dtype], "gathered parameters"),)
            yield Row.build(name="gathered weights", count=1, bytes=more, shape=shape, dtype=dtype, source=_COORDINATOR)

    def _passed(self, count: int, *, is_first: bool) -> EvaluationPass:
        given = self.resident.prepared.given
        again = self.run.gathers_logits and self.is_of_trl
        loop = LossOfLabels() if self.run.generates else None
        # Units that FSDP2 gathered for the completions stay gathered, as after any other batch.
        generates = self.run.generates or trainer_of(given).generation(given) is not None
        return evaluation_pass(
            self._for_batch(count, given),
            loop,
            logits=again,
            gathered=None if is_first or generates else self._left_gathered,
            follows_generation=generates,
        )

    def _for_batch(self, count: int, training: Training) -> PreparedModel:
        """Return the model for a batch of the evaluation."""
        prepared = self.resident.prepared
        return prepared.for_run(self._training(count, training), prepared.device)

    @staticmethod
    def _training(count: int, training: Training) -> Training:
        """Return the settings of a batch."""
        return replace(
            training,
            micro_batch_size=count,
            gradient_accumulation_steps=1,
            gradient_checkpointing=False,
            completion_tokens=_labels_of(count, training),
        )

    def generation(self) -> PhasePeak:
        """Return the peak of `generate` on a batch, including what the loop keeps."""
        return max(self._generating(), key=lambda peak: peak.bytes)

    def _generating(self) -> Iterator[PhasePeak]:
        for moment in self.gathered.moments():
            for number, pass_ in enumerate(self._passes(moment)):
                peak = self._generate_peak(pass_, number, moment)
                yield replace(peak, rows=(*moment.kept, *self.batch(moment.batch), *peak.rows))

    def _passes(self, moment: Moment) -> tuple[PassPeak, ...]:
        """Return the passes of `generate` on the batch of a moment."""
        return self.generated(moment.batch, is_first=moment.is_first) if moment.in_forward else ()

    def _generate_peak(self, ran: PassPeak, number: int, moment: Moment) -> PhasePeak:
        """Return the peak of a pass of `generate`, including what stage 3 gathers."""
        if self._stage_3 is None:
            return _peak(ran)
        loss = self.passed(moment.batch, is_first=moment.is_first).recording.copies.tape
        return self._with_gathered(ran.recording, self._stage_3.generated(loss, number, moment.number))

    def _generated(self, count: int, *, is_first: bool) -> tuple[PassPeak, ...]:
        return generation.passes(self._for_batch(count, self.resident.prepared.given), self.run, is_first=is_first)


def _peak(ran: PassPeak) -> PhasePeak:
    return PhasePeak(rows=listed(ran.recording.alive(ran.moment)), operation=ran.operation)


def _labels_of(count: int, training: Training) -> int | None:
    """Return the number of labels of a batch of `count` rows.

    They are the rows of a training batch with the most labels, if labels are distributed as evenly as possible. All
    sequences of a row have the same number.
    """
    if training.completion_tokens is None:
        return None
    sequences, rows = trainer_of(training).facts.sequences, training.micro_batch_size
    per_row, more = divmod(training.completion_tokens // sequences, rows)
    times, rest = divmod(count, rows)
    return sequences * (per_row * count + more * times + min(more, rest))


def _count_of_labels() -> Row:
    """Return the tensor that the Trainer's prediction_step allocates to count labels before it runs the model."""
    return Row.build(name="num_items_in_batch", count=1, bytes=512, shape=(), dtype="int64", source=_BATCH)
