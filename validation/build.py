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

    from transformers import PreTrainedConfig

    from calculator.request import Request
    from calculator.training import Training


@dataclass(frozen=True, slots=True)
class Built:
    """A model ready to train, and what the trace needs to know of it.

    `base` names the parameters that the model had before the method; `head` is the path of the output head in it, and
    `root` the path that a method's wrapper gives the model itself.
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
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=_attention(config, training))
    base_parameters = sum(parameter.numel() for parameter in model.parameters())
    head = _path(model, model.get_output_embeddings())
    if isinstance(request.method, QLoRA):
        methods.quantize(model, request.method, dtype)
    base = frozenset(name for name, _ in model.named_parameters())
    with torch.device("meta"):
        wrapped = methods.apply(model, request)
    wrapped.train()
    root = _path(wrapped, model) or ""
    return Built(model=wrapped, base=base, base_parameters=base_parameters, head=head, root=root)


def _attention(config: PreTrainedConfig, training: Training) -> str:
    """What a request's attention comes to: a family without SDPA runs eager."""
    if training.attention == "sdpa" and not AutoModelForCausalLM._model_mapping[type(config)]._supports_sdpa:
        return "eager"
    return training.attention


def _path(model: nn.Module, wanted: nn.Module | None) -> str | None:
    return next((path for path, module in model.named_modules() if module is wanted), None)
