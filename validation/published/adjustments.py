"""Tensors that a measured stack keeps in addition to the reference step's; computed from the model, never fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.common.dtype import ITEMSIZE, rounded
from calculator.common.sourced import Sourced

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.model import Model
    from calculator.estimate.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """Additional resident tensors: a description, its source, and a function of their bytes."""

    sentence: str
    source: str
    bytes: Callable[[Request, Model], int]


def _rotary_tables(request: Request, model: Model) -> int:
    config = model.config
    positions = int(config["max_position_embeddings"])
    table = rounded(positions * int(config["head_dim"]) * ITEMSIZE[request.training.dtype])
    return 2 * table * int(config["num_hidden_layers"])


ADJUSTMENTS = {
    "rotary_tables_of_every_layer": Adjustment(
        sentence="every layer keeps cosines and sines for all positions of the model",
        source="transformers 4.39, models/mistral/modeling_mistral.py, MistralRotaryEmbedding._set_cos_sin_cache",
        bytes=_rotary_tables,
    ),
}


def adjusted(names: tuple[str, ...], request: Request, model: Model) -> tuple[Sourced, ...]:
    """The adjustments' bytes, each with its source."""
    selected = [ADJUSTMENTS[name] for name in names]
    return tuple(Sourced(name=each.sentence, bytes=each.bytes(request, model), source=each.source) for each in selected)
