"""The model of a request, built of the real modules on the meta device, ready to train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from calculator import catalogue
from calculator.errors import refusal
from calculator.methods import QLoRA
from validation import methods

if TYPE_CHECKING:
    from torch import nn

    from calculator.request import Request


@dataclass(frozen=True, slots=True)
class Built:
    """A model ready to train, and what the trace needs to know of it.

    `base` names the parameters that the model had before the method; `head` and `root` are the module paths whose
    operations are the logits' and the loss's.
    """

    model: nn.Module
    base: frozenset[str]
    base_parameters: int
    head: str | None
    root: str


def config_of(request: Request) -> dict[str, Any]:
    """The `config.json` that a request names or holds.

    Raises:
        PlanError: where there is none.
    """
    if request.model.config is not None:
        return dict(request.model.config)
    if request.model.id is not None:
        return dict(catalogue.model(request.model.id).config)
    raise refusal("model", "a bare parameter count cannot be traced; give a config", request.model.parameters)


def built(request: Request) -> Built:
    """Build a request's model on the meta device and apply its method."""
    training = request.training
    dtype = getattr(torch, training.dtype)
    config = AutoConfig.for_model(**config_of(request))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=training.attention)
    base_parameters = sum(parameter.numel() for parameter in model.parameters())
    head = _path(model, model.get_output_embeddings())
    if isinstance(request.method, QLoRA):
        methods.quantize(model, request.method, dtype)
    base = frozenset(name for name, _ in model.named_parameters())
    with torch.device("meta"):
        model = methods.apply(model, request)
    model.train()
    return Built(model=model, base=base, base_parameters=base_parameters, head=head, root="")


def _path(model: nn.Module, wanted: nn.Module | None) -> str | None:
    return next((path for path, module in model.named_modules() if module is wanted), None)
