"""The evaluation of a run by the real Trainer, traced on the meta device after its training steps."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from transformers.trainer_utils import IntervalStrategy

from validation.reference.optimizers import optimizers_on_meta
from validation.reference.trainers.build import build_run
from validation.reference.trainers.meta_device import accelerate_on_meta
from validation.reference.trainers.recipe import parse_recipe
from validation.tracing.shims import emulate_cuda, patched_model_code
from validation.tracing.trainer_step import TrainerStep

if TYPE_CHECKING:
    from calculator.inputs.run import RunSettings


class TracedEvaluation(TrainerStep):
    """A trainer's steps and the evaluation after the last. `resident_bytes` are those alive when that begins."""

    def __init__(self, *step: Any) -> None:
        super().__init__(*step)
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
        """The most bytes alive in the evaluation. `_generate` of a trainer is a phase of its own."""
        return max(self.ledger.peaks[name].bytes for name in ("generation", "forward") if name in self.ledger.peaks)


def trace_evaluation(body: dict[str, Any], run: RunSettings) -> TracedEvaluation:
    """Train a request's model for a step on the meta device, evaluate, and record the evaluation.

    Raises:
        PlanError: if a library refuses the request.
    """
    recipe = parse_recipe(body)
    assert recipe is not None
    with emulate_cuda(known_values=True), optimizers_on_meta(), accelerate_on_meta(), TemporaryDirectory() as folder:
        built = build_run(recipe, folder)
        evaluate_after(1, built.trainer, run)
        traced = TracedEvaluation(built)
        with patched_model_code():
            traced.run()
    return traced


def evaluate_after(steps: int, trainer: Any, run: RunSettings) -> None:
    """Give a trainer an evaluation set, the settings of its evaluation, and the steps before it."""
    rows = trainer.train_dataset
    picked = [number % len(rows) for number in range(run.eval_samples)]
    trainer.eval_dataset = [rows[number] for number in picked] if isinstance(rows, list) else rows.select(picked)
    settings = {
        "max_steps": steps,
        "eval_strategy": IntervalStrategy.STEPS,
        "eval_steps": steps,
        "per_device_eval_batch_size": run.per_device_eval_batch_size,
        "eval_accumulation_steps": run.eval_accumulation_steps,
        "prediction_loss_only": run.prediction_loss_only,
    }
    for name, value in settings.items():
        setattr(trainer.args, name, value)
    trainer.compute_metrics = (lambda _: {}) if run.compute_metrics else None
    trainer.log = lambda *_, **__: None  # it averages what was stored, which is over by then
    # It compares the ranks' sizes, which the meta device does not have. Where they are equal, it returns its argument.
    trainer.accelerator.pad_across_processes = lambda tensor, **_: tensor
