"""The Trainer of transformers, as a script uses it that applies PEFT to a model itself."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from transformers import (
    DataCollatorWithFlattening,
    GenerationConfig,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from validation.reference import active_layers
from validation.reference.build import build_model, refusing
from validation.reference.optimizers import optimizer_for
from validation.reference.trainers.arguments import training_arguments
from validation.reference.trainers.batches import ImageCollator, labeled_rows, task_rows
from validation.reference.trainers.run import Run, with_quantizer

if TYPE_CHECKING:
    import torch

    from validation.reference.trainers.recipe import Recipe


def build(recipe: Recipe, folder: str, device: torch.device) -> Run:
    """Build the Trainer of a recipe.

    Raises:
        PlanError: if transformers or PEFT refuses the request.
    """
    reference = build_model(recipe.request, device, quant_storage=recipe.quant_storage)
    more = {"remove_unused_columns": False} if recipe.request.training.has_images else {}
    kind, arguments = (Seq2SeqTrainer, Seq2SeqTrainingArguments) if recipe.generates else (Trainer, TrainingArguments)
    if recipe.generates and recipe.request.task == "causal_lm":
        base = reference.model.get_base_model() if hasattr(reference.model, "get_base_model") else reference.model
        base.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
        base.config.pad_token_id = 0  # the Trainer pads short sequences with it
    with refusing("training"):
        trainer = kind(
            model=with_quantizer(reference.model),
            args=arguments(**training_arguments(recipe, folder), **more),
            train_dataset=(labeled_rows if recipe.request.task == "causal_lm" else task_rows)(recipe),
            data_collator=_collator(recipe, reference.model.config),
            optimizers=(_optimizer(recipe, reference.model), None),
        )
        active_layers.follow(recipe.request, trainer)
    return Run(trainer, reference)


def _optimizer(recipe: Recipe, model: torch.nn.Module) -> torch.optim.Optimizer | None:
    """Return BAdam's optimizer; None for one that the Trainer makes."""
    if not active_layers.is_badam(recipe.request):
        return None
    base = partial(optimizer_for, recipe.request.training.optimizer)
    return active_layers.block_optimizer(recipe.request, model, base)


def _collator(recipe: Recipe, config: Any) -> Any:
    if recipe.request.training.has_images:
        return ImageCollator(recipe, config)
    return DataCollatorWithFlattening() if recipe.padding_free else default_data_collator
