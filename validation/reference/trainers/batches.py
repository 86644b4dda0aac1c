"""The rows of a trainer's dataset; only their shapes, dtypes and numbers of labeled tokens matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import default_data_collator

from calculator.common.errors import refusal
from calculator.estimation.estimate import model_of
from calculator.estimation.positions import within_positions
from calculator.trainers import task_labels
from validation.reference import images

if TYPE_CHECKING:
    from calculator.inputs.training import Training
    from calculator.trainers.task_labels import BatchTensor
    from validation.reference.trainers.recipe import Recipe

#: The label of a token that has none.
IGNORED = -100


def task_rows(recipe: Recipe) -> list[dict[str, torch.Tensor]]:
    """Return rows of a task other than causal_lm: labels, and tokens with their mask, pixels or audio."""
    request = recipe.request
    model, training = model_of(request.model), request.training
    if model.reads_audio:
        training = within_positions(request, model).training
    rows = [
        *task_labels.inputs(model, training, ("input_ids", "attention_mask"), request.method.hidden_dtype(training)),
        *task_labels.labels(model, training),
    ]
    return [_row(rows, training, row) for _ in range(recipe.batches) for row in range(training.micro_batch_size)]


def _row(tensors: list[BatchTensor], training: Training, row: int) -> dict[str, torch.Tensor]:
    """Return one example of a batch with these tensors."""
    example = {
        name: torch.ones(tuple(map(int, shape[1:])), dtype=getattr(torch, dtype)) for name, shape, dtype in tensors
    }
    return {**example, **({"attention_mask": _mask(training, row)} if "attention_mask" in example else {})}


def labeled_rows(recipe: Recipe) -> list[dict[str, torch.Tensor]]:
    """Return rows of tokens, mask and labels, as `DataCollatorForLanguageModeling` and others pad them.

    The model shifts the labels, so that a row's first label counts only after virtual tokens; a completion has a prompt
    before it. The first row of a batch has the padding.
    """
    training = recipe.request.training
    first = 1 if recipe.completion_tokens is None else IGNORED
    return [
        {
            "input_ids": torch.ones(training.sequence_length, dtype=torch.long),
            "attention_mask": _mask(training, row),
            "labels": torch.tensor([first] + [1] * count + [IGNORED] * (training.sequence_length - 1 - count)),
        }
        for _ in range(recipe.batches)
        for row, count in enumerate(labeled_tokens(recipe))
    ]


@dataclass(frozen=True, slots=True)
class ImageCollator:
    """Makes whole batches of `labeled_rows` with images, as a script's own collator does with a processor."""

    recipe: Recipe
    config: Any

    def __call__(self, rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Return a batch of these rows, whose tokens are those of images and text."""
        batch = default_data_collator(rows)
        return {**batch, **images.batch_on_host(self.recipe.request, self.config)}


def labeled_tokens(recipe: Recipe, sequences: int = 1, prompt: int = 1) -> list[int]:
    """Return the number of labeled tokens of each sequence in each row of a micro-batch, after the shift.

    `prompt` is the length of the shortest prompt.

    Raises:
        PlanError: if a row's sequences cannot have the same number, or have fewer tokens.
    """
    training = recipe.request.training
    rows, most = training.micro_batch_size, training.sequence_length - prompt
    total = sequences * rows * most if recipe.completion_tokens is None else recipe.completion_tokens
    if total % sequences or total > sequences * rows * most:
        reason = f"a micro-batch labels at most {sequences * rows * most:,} tokens, each sequence of a row as many"
        raise refusal("training.completion_tokens", reason, recipe.completion_tokens)
    return [(total // sequences + row) // rows for row in range(rows)]


def _mask(training: Training, row: int) -> torch.Tensor:
    mask = torch.ones(training.sequence_length, dtype=torch.long)
    if training.padding and row == 0:
        mask[-1] = 0
    return mask
