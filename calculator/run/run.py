"""The whole run of a request: every phase in order, and the phase in which it ends."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from calculator.allocator.broadcast_loading import broadcasts
from calculator.allocator.reserved_rule import between_steps as kept
from calculator.allocator.reserved_rule import whole_segments
from calculator.devices import Verdict, cuda_context, fit, workspaces
from calculator.devices.colocated_engine import ColocatedEngine
from calculator.devices.verdict import card_of
from calculator.estimation.estimate import estimate, model_of, resident_state
from calculator.estimation.positions import within_positions
from calculator.estimation.sample_lengths import with_longest_batch
from calculator.estimation.traced.check import config_of
from calculator.methods import Full
from calculator.methods.prepared_model import PreparedModel
from calculator.resident.per_parameter import tensors
from calculator.run.answer import RunPhase, WholeRun
from calculator.run.evaluation import Evaluation, PhasePeak
from calculator.run.fused_experts import kept_by_malloc
from calculator.run.generation_refusals import check_generation
from calculator.run.loading import ModelLoading
from calculator.run.merging import merge_peak
from calculator.run.refusals import check_model, check_request
from calculator.run.saving import NOT_COUNTED, Saving, whole_model
from calculator.run.sentences import (
    ASSUMPTIONS,
    SAFETENSORS,
    assumed_dtype,
    generation_sentences,
    host_of_evaluation,
    several_gpus,
    warnings,
)
from calculator.run.sharded_saving import saving_of
from calculator.run.time import time_of
from calculator.run.unanswered import unanswered
from calculator.training_step.resident_state import ResidentState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from calculator.estimation.answer import Estimate
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.run.answer import Resource, RunPhaseName, SavedFile, UnansweredPhase
    from calculator.run.request import RunRequest

#: Scalars that the Trainer does not have yet in its first step. The second one is missing only if a step has one
#: micro-batch.
NOT_IN_FIRST_STEP = ("grad_norm", "tr_loss_step")


def whole_run(request: RunRequest) -> WholeRun:
    """Answer a request.

    Raises:
        PlanError: if the model is not known, the real libraries refuse the combination, or a phase is not modeled.
    """
    check_request(request)
    model = model_of(request.estimate.model)
    check_model(request, model)
    step = estimate(request.estimate)
    return _Run(request, step).answer()


def between_steps(resident: ResidentState) -> int:
    """Return the bytes alive between two steps: weights, states, buckets, the last batch and the Trainer's scalars."""
    zero = resident.flat or resident.partitioned
    if zero is not None:
        return sum(group.bytes for group in (*zero.resident_tensors, *resident.loop_tensors))
    return sum(group.bytes for group in (*resident.tensors, *resident.optimizer_states, *resident.sharding_tensors))


class _Run:
    """A run whose training step is estimated."""

    def __init__(self, request: RunRequest, step: Estimate) -> None:
        self.request, self.run, self.estimate = request, request.run, step
        model = model_of(request.estimate.model)
        self.resident = resident_state(within_positions(with_longest_batch(request.estimate), model))
        self.prepared = self.resident.prepared
        check_generation(self.run, self.prepared)
        self.device = request.estimate.device
        self.saving = saving_of(self.resident, self.run)

    def answer(self) -> WholeRun:
        """Return every phase, and the verdict."""
        phases = tuple(self._with_limits(phase) for phase in self._phases())
        time, refusal = time_of(self.request, self.estimate)
        return WholeRun(
            estimate=self.estimate,
            run=self.run,
            phases=phases,
            unanswered=self.unanswered,
            files=self.files,
            merged_files=self.merged_files,
            verdict=_verdict(phases),
            time=time,
            time_refusal=refusal,
            assumptions=(
                *ASSUMPTIONS,
                *self._several_gpu_sentences,
                *generation_sentences(self.run, self.prepared),
                *self._file_sentences,
                NOT_COUNTED,
                *self.estimate.assumptions,
            ),
            warnings=(*warnings(self.run, self.prepared), *self._expert_sentences, *self.estimate.warnings),
        )

    @property
    def _several_gpu_sentences(self) -> Iterator[str]:
        """The sentences on what a run on several GPUs means for the figures."""
        return several_gpus(self.device, self.run, broadcasts=broadcasts(self.prepared))

    @property
    def _file_sentences(self) -> Iterator[str]:
        """The sentences on what is assumed about the files that are loaded."""
        loading = ModelLoading(self.resident, self.run, self._config)
        if not loading.states_dtype:
            yield assumed_dtype(loading.stored)

    @property
    def _expert_sentences(self) -> Iterator[str]:
        """The sentences on what loading experts may need in addition to its figure."""
        size = ModelLoading(self.resident, self.run, self._config).kept_by_malloc
        if size:
            yield kept_by_malloc(size)

    @cached_property
    def unanswered(self) -> tuple[UnansweredPhase, ...]:
        """The phases without figures."""
        return tuple(unanswered(self.request, self.prepared))

    @cached_property
    def files(self) -> tuple[SavedFile, ...]:
        """The files of a checkpoint."""
        if not self.run.saves:
            return ()
        return (*self.saving.model_files, *(() if self.run.save_only_model else self.saving.optimizer_files))

    @cached_property
    def merged_files(self) -> tuple[SavedFile, ...]:
        """The files of the merged model."""
        return whole_model(self._merged.saved) if self.run.merge_and_unload else ()

    @cached_property
    def _merged(self) -> Saving:
        prepared = PreparedModel(self.prepared.model, Full(), self.prepared.given, self.device, self.prepared.stack)
        return Saving(ResidentState(prepared))

    @cached_property
    def between_steps(self) -> int:
        """The tensors alive between two steps."""
        return between_steps(self.resident)

    def _phases(self) -> Iterator[RunPhase]:
        left_out = {phase.name for phase in self.unanswered}
        if "load" not in left_out:
            yield self._load()
        yield self._first_step()
        yield self._steady_step()
        if self.run.evaluates and "evaluation" not in left_out:
            yield from self._evaluation()
        if self.run.saves:
            yield self._checkpoint()
        if self.run.merge_and_unload:
            yield self._merge()

    def _load(self) -> RunPhase:
        loading = ModelLoading(self.resident, self.run, self._config)
        given = self.estimate.fit
        host = loading.host
        processes = 1 if host.in_first_process else self._processes
        kept = loading.kept_by_malloc * processes
        return self._phase(
            "load",
            loading.peak(given.usable_bytes - self._context if given else None),
            resident=0,
            host_bytes=host.file_bytes + processes * (host.bytes - host.file_bytes),
            host_file_bytes=host.file_bytes,
            host_kept_bytes=kept,
            host=host.sentence,
        )

    @property
    def _processes(self) -> int:
        """The number of processes of a node, one for each GPU."""
        return self.device.count // self.device.nodes

    @property
    def _config(self) -> dict[str, Any] | None:
        reference = self.request.estimate.model
        return config_of(reference)

    def _first_step(self) -> RunPhase:
        """Return the first step: forward and backward pass, without the states that it creates at its end."""
        missing = self.resident.prepared.training.gradient_accumulation_steps == 1
        names = NOT_IN_FIRST_STEP[: 2 if missing else 1]
        later = sum(
            tensor.bytes
            for tensor in tensors(self._created_in_a_step)
            if tensor.name in names or (tensor.component == "optimizer_states" and not self.resident.optimizer.early)
        )
        peaks = {
            phase.name: phase.peak_bytes - (0 if phase.name == "optimizer_step" else later)
            for phase in self.estimate.memory.phases
        }
        highest = max(peaks, key=peaks.__getitem__)
        return self._step("first_step", peaks[highest], highest.replace("_", " "))

    @property
    def _created_in_a_step(self) -> tuple[ResidentTensors, ...]:
        """The optimizer's states and the loop's scalars. A step creates some of them."""
        resident = self.resident
        zero = resident.flat or resident.partitioned
        if zero is not None:
            return (*zero.states, *resident.loop_tensors)
        return resident.optimizer_states

    def _steady_step(self) -> RunPhase:
        memory = self.estimate.memory
        size = memory.peak_allocated_bytes + self._left_by_generation
        return self._step("training_step", size, memory.peak_operation, self._left_by_generation)

    @cached_property
    def _left_by_generation(self) -> int:
        """The bytes that the model keeps of an evaluation's last batch in every later phase."""
        return Evaluation(self.resident, self.run).left_by_generation if self.run.generates else 0

    def _step(self, name: RunPhaseName, size: int, operation: str, left: int = 0) -> RunPhase:
        memory = self.estimate.memory
        reserved = memory.required_bytes if name == "training_step" else self._required(size)
        return RunPhase(
            name=name,
            gpu_bytes=size,
            operation=operation,
            required_bytes=min(reserved, memory.required_bytes),
            resident_bytes=min(size, self.between_steps + left),
            fit=self.estimate.fit,
        )

    def _evaluation(self) -> Iterator[RunPhase]:
        evaluation = Evaluation(self.resident, self.run)
        gathered = evaluation.gathered
        host = host_of_evaluation(gathered)
        arrays = gathered.host_bytes * self._processes
        resident_bytes = self.between_steps + evaluation.resident_bytes
        yield self._phase("evaluation", evaluation.peak(), resident=resident_bytes, host_bytes=arrays, host=host)
        if self.run.generates:
            yield self._phase("generation", evaluation.generation(), resident=resident_bytes)

    def _checkpoint(self) -> RunPhase:
        size = sum(file.bytes for file in self.files)
        return self._phase(
            "checkpoint",
            PhasePeak(rows=self.saving.gpu_rows, operation="save_pretrained"),
            host_bytes=self.saving.host_bytes(optimizer=not self.run.save_only_model),
            host=self.saving.host_sentence(optimizer=not self.run.save_only_model),
            disk_bytes=size * self.run.checkpoints_on_disk,
        )

    def _merge(self) -> RunPhase:
        peak = merge_peak(self.resident, self.request.estimate.method)
        size = sum(file.bytes for file in self.files)
        host = self._merged.host_bytes_of_model
        return self._phase(
            "merge",
            peak,
            host_bytes=host,
            host=SAFETENSORS,
            disk_bytes=size * self.run.checkpoints_kept + sum(merged_file.bytes for merged_file in self.merged_files),
        )

    def _phase(self, name: RunPhaseName, peak: PhasePeak, *, resident: int | None = None, **host: Any) -> RunPhase:
        """Return a phase that adds rows to what exists before it."""
        resident = self.between_steps + self._left_by_generation if resident is None else resident
        size = resident + peak.bytes
        return RunPhase(
            name=name,
            gpu_bytes=size,
            operation=peak.operation,
            required_bytes=self._required(size),
            resident_bytes=resident,
            rows=tuple(sorted(peak.rows, key=lambda row: -row.bytes)),
            fit=self._fit(name, size),
            **host,
        )

    @cached_property
    def _workspace(self) -> int:
        return workspaces(card_of(self.device), self.prepared.stack)[0]

    @cached_property
    def _context(self) -> int:
        return cuda_context(card_of(self.device)).bytes

    def _required(self, size: int) -> int:
        return whole_segments(size + self._workspace) + self._context

    def _fit(self, name: RunPhaseName, size: int) -> Any:
        return fit(
            self.device,
            peak_allocated_bytes=size,
            library_workspace_bytes=self._workspace,
            peak_reserved_bytes=whole_segments(size + self._workspace),
            context_bytes=self._context,
            required_bytes=self._required(size),
            colocated=self._colocated if name == "evaluation" else None,
        )

    @cached_property
    def _colocated(self) -> ColocatedEngine | None:
        """The engine that generates on the same GPU, if there is one."""
        engine = self.request.estimate.training.colocated
        if engine is None:
            return None
        thread_workspaces = workspaces(card_of(self.device), self.prepared.stack)
        return ColocatedEngine(engine=engine, kept_bytes=kept(self.resident, thread_workspaces) + self._context)

    def _with_limits(self, phase: RunPhase) -> RunPhase:
        ends_by, limit = self._ends_by(phase), self.run.host_memory_bytes
        high = phase.needed_host_bytes + phase.host_kept_bytes
        may_end = ends_by is None and limit is not None and high > limit
        return replace(phase, ends_by=ends_by, may_end_by="host" if may_end else None)

    def _ends_by(self, phase: RunPhase) -> Resource | None:
        run = self.run
        if self._ends_on_gpu(phase):
            return "gpu"
        if run.host_memory_bytes is not None and phase.needed_host_bytes > run.host_memory_bytes:
            return "host"
        return "disk" if run.disk_bytes is not None and phase.disk_bytes > run.disk_bytes else None

    def _ends_on_gpu(self, phase: RunPhase) -> bool:
        """Return whether the phase ends because it runs out of GPU memory.

        A replay of the steps tells in which of them the run ends.
        """
        if phase.fit is None or phase.fit.verdict is not Verdict.DOES_NOT_FIT:
            return False
        ended = phase.fit.out_of_memory if phase.name in ("first_step", "training_step") else None
        if ended is None:
            return True
        return phase.name == "training_step" or ended.step <= 1


def _verdict(phases: tuple[RunPhase, ...]) -> Verdict | None:
    """Return the verdict on the run, which is the worst of its phases."""
    if any(phase.ends_by for phase in phases):
        return Verdict.DOES_NOT_FIT
    verdicts = [phase.fit.verdict for phase in phases if phase.fit is not None]
    verdicts += [Verdict.TIGHT for phase in phases if phase.may_end_by]
    if not verdicts:
        return None
    return Verdict.TIGHT if Verdict.TIGHT in verdicts else Verdict.FITS
