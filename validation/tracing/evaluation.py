"""The evaluation of a run by the real Trainer, traced on the meta device after its training steps."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainingArguments, default_data_collator

from validation.reference.build import build_model
from validation.reference.optimizers import optimizers_on_meta
from validation.reference.trainers.arguments import training_arguments
from validation.reference.trainers.batches import labelled_rows
from validation.reference.trainers.meta_device import accelerate_on_meta
from validation.reference.trainers.recipe import parse_recipe
from validation.reference.trainers.run import Run, with_quantizer
from validation.tracing.initial_tensors import track_model
from validation.tracing.shims import emulate_cuda, patched_model_code
from validation.tracing.trainer_step import TrainerStep

if TYPE_CHECKING:
    from calculator.inputs.run import RunSettings


class TracedEvaluation(TrainerStep):
    """A trainer's steps and the evaluation after the last. `resident_bytes` are those alive when that begins."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._before(self.trainer, "evaluation_loop", self._begin_evaluation)

    def _begin_step(self) -> None:
        """Let the steps before the evaluation pass."""

    def _begin_evaluation(self) -> None:
        self._adopt()
        self.tracker.restart()
        self.resident_bytes = self.ledger.live_bytes
        self.tracker.enter("forward")

    @property
    def peak_bytes(self) -> int:
        """The most bytes alive in the evaluation."""
        return self.ledger.peaks["forward"].bytes


def trace_evaluation(body: dict[str, Any], run: RunSettings) -> TracedEvaluation:
    """Train a request's model for a step on the meta device, evaluate, and record the evaluation.

    Raises:
        PlanError: if a library refuses the request.
    """
    recipe = parse_recipe(body)
    assert recipe is not None
    with emulate_cuda(known_values=True), optimizers_on_meta(), accelerate_on_meta(), TemporaryDirectory() as folder:
        reference = build_model(recipe.request)
        arguments = {
            **training_arguments(recipe, folder),
            "max_steps": 1,
            "eval_strategy": "steps",
            "eval_steps": 1,
            "per_device_eval_batch_size": run.per_device_eval_batch_size,
            "eval_accumulation_steps": run.eval_accumulation_steps,
            "prediction_loss_only": run.prediction_loss_only,
        }
        rows = labelled_rows(recipe)
        trainer = Trainer(
            model=with_quantizer(reference.model),
            args=TrainingArguments(**arguments),
            train_dataset=rows,
            eval_dataset=rows[:1] * run.eval_samples,
            data_collator=default_data_collator,
            compute_metrics=(lambda _: {}) if run.compute_metrics else None,
        )
        # It compares the ranks' sizes, which the meta device does not have. On one GPU it returns its argument.
        trainer.accelerator.pad_across_processes = lambda tensor, **_: tensor
        traced = TracedEvaluation(Run(trainer, reference))
        track_model(traced.tracker, reference)
        with patched_model_code():
            traced.run()
    return traced
