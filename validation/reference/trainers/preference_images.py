"""Preferences with images: rows for a trainer's own collator, and a stand-in for the model's processor."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad
from transformers import BatchFeature, ProcessorMixin

from validation.reference import images as images_of
from validation.reference.trainers.batches import labeled_tokens
from validation.reference.trainers.trl_model import tokenizer

if TYPE_CHECKING:
    from validation.reference.trainers.recipe import Recipe

    Row = dict[str, Any]


#: The tensors with a number for each token.
_OF_TOKENS = ("input_ids", "token_type_ids", "mm_token_type_ids")


class Processor(ProcessorMixin):
    """A stand-in for a model's processor. Its texts are numbers: those of their tokens, images included."""

    def __init__(self, recipe: Recipe, config: Any) -> None:
        self.tokenizer, self.chat_template = tokenizer(), None
        self._request, self._config = recipe.request, config

    def __call__(self, *, text: list[str], images: list[Any] | None = None, **given: Any) -> BatchFeature:
        """Return the tokens of texts, padded on one side; and of the images, with which the prompts end."""
        lengths = torch.tensor([*map(int, text)])
        longest = int(lengths.max())
        mask = (torch.arange(longest) < lengths[:, None]).long()
        if images is None:
            ids = torch.full_like(mask, images_of.ordinary_token(self._config))
            return BatchFeature({"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(mask)})
        assert given["padding_side"] == "left"
        return BatchFeature({**self._prompts(len(text), longest), "attention_mask": mask.flip(1)})

    def _prompts(self, rows: int, longest: int) -> dict[str, torch.Tensor]:
        """Return the tensors of prompts with images, each after one token and others that make it long enough."""
        shortest = prompt_length(self._request)
        training = replace(self._request.training, micro_batch_size=rows, sequence_length=shortest)
        batch = images_of.batch_on_host(replace(self._request, training=training), self._config)
        fills = {"input_ids": images_of.ordinary_token(self._config), "token_type_ids": 0, "mm_token_type_ids": 0}
        return {
            name: pad(tensor, (longest - shortest, 0), value=fills[name]) if name in fills else tensor
            for name, tensor in batch.items()
        }


class GeneratingProcessor(Processor):
    """A processor for a trainer that generates. Its prompts have the lengths that were given last."""

    def __init__(self, recipe: Recipe, config: Any) -> None:
        super().__init__(recipe, config)
        self._lengths: list[str] = []

    def prompts(self, lengths: list[int]) -> tuple[list[list[int]], dict[str, Any]]:
        """Return the ids of prompts of these lengths, which the processor returns from then on, and the other tensors.

        What is a number for each token is a list for each prompt, without padding.
        """
        self._lengths = [*map(str, lengths)]
        batch = self._prompts(len(lengths), max(lengths))
        cut = {name: _cut(batch[name], lengths) for name in _OF_TOKENS if name in batch}
        return cut.pop("input_ids"), {**batch, **cut}

    def apply_chat_template(self, *_: Any, **__: Any) -> str:
        """Return a text, which is not read."""
        return "a"

    def __call__(self, *, text: list[str], images: list[Any] | None = None, **_: Any) -> BatchFeature:
        """Return the tokens of the prompts, and what the model needs because of the images."""
        return super().__call__(text=self._lengths[: len(text)], images=images, padding_side="left")


def _cut(ids: torch.Tensor, lengths: list[int]) -> list[list[int]]:
    """Return the last numbers of each row."""
    return [row[len(row) - length :] for row, length in zip(ids.tolist(), lengths, strict=True)]


def prompt_length(request: Any) -> int:
    """Return the tokens of the shortest prompt: one, and those of the images."""
    return 1 + int(request.training.images.images_per_sequence) * images_of.image_of(request).length


def pairs(recipe: Recipe) -> list[Row]:
    """Return images, and the lengths of pairs of completions to one prompt."""
    counts = labeled_tokens(recipe, sequences=2, prompt=prompt_length(recipe.request))
    return [{**_row(recipe, count), "chosen": str(count), "rejected": str(count)} for count in counts]


def unpaired(recipe: Recipe) -> list[Row]:
    """Return images, and the lengths of completions, each desirable or not."""
    counts = labeled_tokens(recipe, prompt=prompt_length(recipe.request))
    return [
        {**_row(recipe, count), "completion": str(count), "label": bool(number % 2)}
        for number, count in enumerate(counts)
    ]


def _row(recipe: Recipe, count: int) -> Row:
    """Return an image that the stand-in does not read, and the tokens of a prompt before a completion."""
    return {"images": [0], "prompt": str(recipe.request.training.sequence_length - count)}
