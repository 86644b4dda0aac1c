"""A checkpoint of a request's model, and the model that `from_pretrained` loads from it."""

from __future__ import annotations

from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from validation.reference.build import build_base, language_model_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedConfig, PreTrainedModel

    from calculator.estimation.request import Request


class FromCheckpoint:
    """A class of transformers that chooses a model's class, which loads a checkpoint instead of building a model."""

    def __init__(self, auto_model: Any, folder: str) -> None:
        self._auto_model, self._folder = auto_model, folder

    def from_config(self, config: PreTrainedConfig, **given: Any) -> PreTrainedModel:
        """Load the checkpoint."""
        return self.load(config=config, **given)

    def load(self, **given: Any) -> PreTrainedModel:
        """Load the checkpoint, by default with its own config, in its dtype."""
        model: PreTrainedModel = self._auto_model.from_pretrained(self._folder, **given)
        return model


@contextmanager
def checkpoint_of(request: Request) -> Iterator[FromCheckpoint]:
    """Save the request's model with random weights, without the head of a task, and load it inside the context."""
    auto_model = language_model_of(request)
    model = build_base(request, torch.device("cpu")).model
    heads = request.model.task.head_names
    with TemporaryDirectory() as folder:
        weights = {name: tensor for name, tensor in model.state_dict().items() if name.split(".")[0] not in heads}
        model.save_pretrained(folder, state_dict=weights)
        del model, weights
        yield FromCheckpoint(auto_model, folder)
