"""The evaluation of a run by the real Trainer, traced on the meta device after its training steps."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from transformers.models.whisper import generation_whisper
from transformers.trainer_utils import IntervalStrategy

from calculator.estimation.estimate import model_of
from calculator.run.generation import most_tokens
from calculator.trainers.trl import generated
from calculator.training_step.audio_generation import ENGLISH_PROMPT, prompt_tokens
from validation.reference.optimizers import optimizers_on_meta
from validation.reference.trainers.build import build_run
from validation.reference.trainers.meta_device import accelerate_on_meta
from validation.reference.trainers.phases import run_after, run_before
from validation.reference.trainers.recipe import parse_recipe
from validation.tracing.shims import emulate_cuda, patched_model_code
from validation.tracing.trainer_step import TrainerStep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.estimation.request import Request
    from calculator.inputs.run import RunSettings
    from calculator.inputs.training import Training


class TracedEvaluation(TrainerStep):
    """A trainer's steps and the evaluation after the last. `resident_bytes` are those alive when that begins."""

    def __init__(self, *step: Any) -> None:
        super().__init__(*step)
        run_before(self.trainer, "evaluation_loop", self._begin_evaluation)
        self.generates = getattr(self.trainer.args, "predict_with_generate", False)
        if self.generates:
            model = self.trainer.model
            run_before(model, "generate", lambda: self.tracker.enter("generation"))
            run_after(model, "generate", lambda: self.tracker.enter("forward"))

    def _begin_step(self) -> None:
        """Let the steps before the evaluation pass."""

    def _begin_evaluation(self) -> None:
        self._adopt()
        self.tracker.restart()
        self.resident_bytes = self.ledger.live_bytes
        self.tracker.enter("forward")

    @property
    def peak_bytes(self) -> int:
        """The most bytes alive in the evaluation, with what a trainer of TRL generates in it."""
        peaks = self.ledger.peaks
        names = ("forward",) if self.generates else ("generation", "forward")
        return max(peaks[name].bytes for name in names if name in peaks)

    @property
    def generation_bytes(self) -> int:
        """The most bytes alive while Seq2SeqTrainer generates."""
        return self.ledger.peaks["generation"].bytes


@contextmanager
def whole_sequences(run: RunSettings, request: Request) -> Iterator[None]:
    """Let `generate` end at the most tokens: no token is that of an end, as tokens have no values.

    Whisper's reads the tokens after that, in place of which it gets ones in host memory, until it pads them.
    """
    if not run.generates:
        yield
        return
    model = model_of(request.model)
    most = most_tokens(run) + (prompt_tokens(model) if model.reads_audio else 0)

    def stop(_: Any, unfinished: torch.Tensor, tokens: torch.Tensor, length: int) -> bool:
        return length >= most

    def whole(_: Any, seek_outputs: torch.Tensor, decoder_input_ids: torch.Tensor, **__: Any) -> Any:
        count = seek_outputs.shape[1] - decoder_input_ids.shape[1]
        return [torch.ones(count, dtype=torch.long)] * len(seek_outputs), seek_outputs

    def padded(*args: Any, device: torch.device, **kwargs: Any) -> torch.Tensor:
        return pad(*args, device=torch.device("cpu"), **kwargs).to(device)

    pad = generation_whisper._pad_to_max_length
    with (
        mock.patch("transformers.generation.utils.StopCheck.__call__", stop),
        mock.patch.object(generation_whisper.WhisperGenerationMixin, "_postprocess_outputs", whole),
        mock.patch.object(generation_whisper, "_pad_to_max_length", padded),
    ):
        yield


def trace_evaluation(body: dict[str, Any], run: RunSettings) -> TracedEvaluation:
    """Train a request's model for a step on the meta device, evaluate, and record the evaluation.

    Raises:
        PlanError: if a library refuses the request.
    """
    recipe = parse_recipe(body)
    assert recipe is not None
    recipe = replace(recipe, generates=run.generates)
    with emulate_cuda(known_values=True), optimizers_on_meta(), accelerate_on_meta(), TemporaryDirectory() as folder:
        built = build_run(recipe, folder)
        evaluate_after(1, built.trainer, run, recipe.request)
        traced = TracedEvaluation(built)
        with patched_model_code(), whole_sequences(run, recipe.request):
            traced.run()
    return traced


def _set_language(wrapped: Any, model: Model) -> None:
    """Give the generation config of a model of audio the fields of OpenAI's checkpoints, a language and a task."""
    base_model = wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped
    fields: dict[str, Any] = {"no_timestamps_token_id": 4, "suppress_tokens": [5, 6], "begin_suppress_tokens": [7, 8]}
    if prompt_tokens(model) > ENGLISH_PROMPT:
        token_config = {"lang_to_id": {"<|en|>": 1}, "task_to_id": {"transcribe": 2, "translate": 3}}
        fields |= {"is_multilingual": True, "language": "en", "task": "transcribe", **token_config}
    for name, value in fields.items():
        setattr(base_model.generation_config, name, value)


def _rows_by_labels(training: Training) -> list[int]:
    """Return the rows of a micro-batch, the one with padding first, and then those with the most labels."""
    order = [*reversed(range(training.micro_batch_size))]
    return [order.pop(), *order] if training.padding else order


def evaluate_after(steps: int, trainer: Any, run: RunSettings, request: Request) -> None:
    """Give a trainer an evaluation set, the settings of its evaluation, and the steps before it.

    Each batch has the rows with the most labels.
    """
    rows = trainer.train_dataset
    training, ranks = request.training, request.device.count
    order = _rows_by_labels(training)
    picked = [order[number % run.per_device_eval_batch_size % len(order)] for number in range(run.eval_samples)]
    trainer.eval_dataset = [rows[number] for number in picked] if isinstance(rows, list) else rows.select(picked)
    settings = {
        "max_steps": steps,
        "eval_strategy": IntervalStrategy.STEPS,
        "eval_steps": steps,
        "per_device_eval_batch_size": run.per_device_eval_batch_size,
        "eval_accumulation_steps": run.eval_accumulation_steps,
        "prediction_loss_only": run.prediction_loss_only,
        **(
            {"predict_with_generate": True, "generation_max_length": run.generation_max_length} if run.generates else {}
        ),
    }
    for name, value in settings.items():
        setattr(trainer.args, name, value)
    if model_of(request.model).reads_audio:
        _set_language(trainer.model, model_of(request.model))
    if hasattr(trainer, "num_generations_eval"):
        together = run.per_device_eval_batch_size * ranks
        trainer.num_generations_eval = generated.completions_in_evaluation(training, together, ranks)
    trainer.compute_metrics = (lambda _: {}) if run.compute_metrics else None
    trainer.log = lambda *_, **__: None  # it averages what was stored, which is over by then
    # It compares the ranks' sizes, which the meta device does not have. Where they are equal, it returns its argument.
    trainer.accelerator.pad_across_processes = lambda tensor, **_: tensor
