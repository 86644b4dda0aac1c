"""TRL's SFTTrainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from validation.reference.build import refusing
from validation.reference.trainers.arguments import training_arguments
from validation.reference.trainers.batches import labelled_rows
from validation.reference.trainers.run import Run
from validation.reference.trainers.trl_model import adapters_on, model_and_config, tokenizer

if TYPE_CHECKING:
    import torch

    from validation.reference.trainers.recipe import Recipe


def build(recipe: Recipe, folder: str, device: torch.device) -> Run:
    """Build the SFTTrainer of a recipe; its dataset has tokens and labels already.

    Raises:
        PlanError: if transformers, PEFT or TRL refuses the request.
    """
    reference, config = model_and_config(recipe, device)
    with refusing("training"), adapters_on(device, SFTTrainer.__module__):
        trainer = SFTTrainer(
            model=reference.model,
            args=SFTConfig(**training_arguments(recipe, folder), **_own_arguments(recipe)),
            train_dataset=_dataset(recipe),
            processing_class=tokenizer(),
            peft_config=config,
        )
    return Run(trainer, reference.wrapped_as(trainer.model))


def _own_arguments(recipe: Recipe) -> dict[str, Any]:
    return {
        "packing": recipe.packing,
        **({"packing_strategy": recipe.packing_strategy} if recipe.packing else {}),
        "padding_free": recipe.padding_free,
        "max_length": recipe.request.training.sequence_length if recipe.packing else None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        **({"loss_type": recipe.loss_type} if recipe.loss_type else {}),
    }


def _dataset(recipe: Recipe) -> Dataset:
    """Rows of tokens and labels. A packed row is a sample, and its last token another in a batch of one."""
    rows = [{"input_ids": row["input_ids"].tolist(), "labels": row["labels"].tolist()} for row in labelled_rows(recipe)]
    if recipe.packing and recipe.packing_strategy != "wrapped":
        last = int(recipe.request.training.micro_batch_size == 1)
        rows = [{**row, "seq_lengths": [len(row["input_ids"]) - last, *[1] * last]} for row in rows]
    return Dataset.from_list(rows)
