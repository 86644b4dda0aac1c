"""TRL's SFTTrainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import BatchFeature, ProcessorMixin
from trl import SFTConfig, SFTTrainer

from validation.reference import images as images_of
from validation.reference.build import refusing
from validation.reference.trainers.arguments import training_arguments
from validation.reference.trainers.batches import labeled_rows
from validation.reference.trainers.run import Run
from validation.reference.trainers.trl_model import adapters_on, model_and_config, tokenizer

if TYPE_CHECKING:
    from validation.reference.trainers.recipe import Recipe


def build(recipe: Recipe, folder: str, device: torch.device) -> Run:
    """Build the SFTTrainer of a recipe; its dataset has tokens and labels already.

    Raises:
        PlanError: if transformers, PEFT or TRL refuses the request.
    """
    reference, config = model_and_config(recipe, device)
    has_images = recipe.request.training.has_images
    with refusing("training"), adapters_on(device, SFTTrainer.__module__):
        trainer = SFTTrainer(
            model=reference.model,
            args=SFTConfig(**training_arguments(recipe, folder), **_own_arguments(recipe)),
            train_dataset=_image_dataset(recipe) if has_images else _dataset(recipe),
            processing_class=Processor(recipe, reference.model.config) if has_images else tokenizer(),
            peft_config=config,
        )
    if has_images and (recipe.completion_tokens is not None or recipe.request.training.padding):
        trainer.data_collator = _Labeled(recipe, trainer.data_collator)
    return Run(trainer, reference.wrapped_as(trainer.model))


class Processor(ProcessorMixin):
    """A stand-in for a model's processor: its batches have the tensors of the recipe's images."""

    def __init__(self, recipe: Recipe, config: Any) -> None:
        self.tokenizer, self.chat_template = tokenizer(), None
        self._recipe, self._config = recipe, config

    def apply_chat_template(self, messages: list[Any], **_: Any) -> BatchFeature:
        """Return the batch that SFTTrainer's collator asks for: of a micro-batch's messages with images."""
        rows = labeled_rows(self._recipe)[: len(messages)]
        masks = {"attention_mask": torch.stack([row["attention_mask"] for row in rows])}
        return BatchFeature(images_of.batch_on_host(self._recipe.request, self._config) | masks)


@dataclass(frozen=True, slots=True)
class _Labeled:
    """SFTTrainer's collator, with the recipe's number of labels."""

    recipe: Recipe
    collator: Any

    def __call__(self, examples: list[dict[str, Any]]) -> Any:
        batch = self.collator(examples)
        rows = labeled_rows(self.recipe)[: len(examples)]
        batch["labels"] = torch.stack([row["labels"] for row in rows])
        return batch


def _image_dataset(recipe: Recipe) -> Dataset:
    """Return rows of images and messages, whose values the stand-in for the processor does not read."""
    messages = [{"role": "user", "content": ""}]
    count = recipe.batches * recipe.request.training.micro_batch_size
    return Dataset.from_list([{"images": [row], "messages": messages} for row in range(count)])


def _own_arguments(recipe: Recipe) -> dict[str, Any]:
    training = recipe.request.training
    return {
        "packing": recipe.packing,
        "activation_offloading": bool(recipe.activation_offloading),
        **({"packing_strategy": recipe.packing_strategy} if recipe.packing else {}),
        "padding_free": recipe.padding_free,
        "max_length": training.sequence_length if recipe.packing else None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        # The only row of a batch is padded to a multiple.
        **({"pad_to_multiple_of": training.sequence_length} if training.padding else {}),
        **({"loss_type": recipe.loss_type} if recipe.loss_type else {}),
    }


def _dataset(recipe: Recipe) -> Dataset:
    """Return rows of tokens and labels. A packed row is a sample, and its last token another in a batch of one.

    A row with padding has fewer tokens, and as many labels: a request says how many tokens are labeled.
    """
    rows = [
        {"input_ids": row["input_ids"][row["attention_mask"] == 1].tolist(), "labels": row["labels"].tolist()}
        for row in labeled_rows(recipe)
    ]
    if recipe.packing and recipe.packing_strategy != "wrapped":
        last = int(recipe.request.training.micro_batch_size == 1)
        rows = [{**row, "seq_lengths": [len(row["input_ids"]) - last, *[1] * last]} for row in rows]
    return Dataset.from_list(rows)
