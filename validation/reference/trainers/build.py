"""The trainer of a recipe, on the meta device or a real one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainingArguments, default_data_collator
from transformers.quantizers import AutoHfQuantizer
from transformers.trainer_callback import PrinterCallback

from validation.reference.build import META, build_model
from validation.reference.trainers import kernels
from validation.reference.trainers.arguments import training_arguments
from validation.reference.trainers.batches import labelled_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from validation.reference.build import ReferenceModel
    from validation.reference.trainers.recipe import Recipe, TrainerName


@dataclass(frozen=True, slots=True)
class Run:
    """A trainer that is ready to train, and its model."""

    trainer: Any
    reference: ReferenceModel


def build_run(recipe: Recipe, folder: str, device: torch.device = META) -> Run:
    """Build a recipe's model and trainer. The trainer may write to `folder`.

    Raises:
        PlanError: if transformers, PEFT or TRL refuses the request.
    """
    if recipe.use_liger_kernel or recipe.trainer != "transformers":
        kernels.install()
    return BUILDERS[recipe.trainer](recipe, folder, device)


def _transformers(recipe: Recipe, folder: str, device: torch.device) -> Run:
    reference = build_model(recipe.request, device)
    _allow_training(reference.model)
    trainer = Trainer(
        model=reference.model,
        args=TrainingArguments(**training_arguments(recipe, folder)),
        train_dataset=labelled_rows(recipe),
        data_collator=default_data_collator,
    )
    trainer.remove_callback(PrinterCallback)
    return Run(trainer, reference)


def _allow_training(model: Any) -> None:
    """Give a 4-bit model the quantizer that `from_pretrained` leaves in it; the Trainer reads whether it can train."""
    if getattr(model, "is_quantized", False):
        model.hf_quantizer = AutoHfQuantizer.from_config(model.config.quantization_config, pre_quantized=False)


BUILDERS: dict[TrainerName, Callable[[Recipe, str, torch.device], Run]] = {"transformers": _transformers}
