"""The rows of a trainer's dataset; only their shapes, dtypes and numbers of labelled tokens matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from calculator.common.errors import refusal

if TYPE_CHECKING:
    from calculator.inputs.training import Training
    from validation.reference.trainers.recipe import Recipe

#: The label of a token that has none.
IGNORED = -100


def labelled_rows(recipe: Recipe) -> list[dict[str, torch.Tensor]]:
    """Rows of tokens, mask and labels, as `DataCollatorForLanguageModeling` and others pad them.

    The model shifts the labels, so a row's first label never counts. The first row of a batch has the padding.
    """
    training = recipe.request.training
    return [
        {
            "input_ids": torch.ones(training.sequence_length, dtype=torch.long),
            "attention_mask": _mask(training, row),
            "labels": torch.tensor([1] + [1] * count + [IGNORED] * (training.sequence_length - 1 - count)),
        }
        for _ in range(recipe.batches)
        for row, count in enumerate(labelled_tokens(recipe))
    ]


def labelled_tokens(recipe: Recipe, sequences: int = 1) -> list[int]:
    """The number of labelled tokens of each sequence in each row of a micro-batch, after the shift.

    Raises:
        PlanError: if a row's sequences cannot have the same number, or have fewer tokens.
    """
    training = recipe.request.training
    rows, most = training.micro_batch_size, training.sequence_length - 1
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
