"""Checkpoints without values, and `from_pretrained`, which reads them onto a device."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import BitsAndBytesConfig

from calculator.methods import Full
from calculator.resident.quantization import Quantization
from validation.reference.build import ReferenceModel, build_base, language_model_of
from validation.reference.uninitialized import without_values

if TYPE_CHECKING:
    from pathlib import Path

    from calculator.estimation.request import Request
    from calculator.inputs.sharding import QuantStorage


def save_checkpoint(request: Request, folder: Path) -> None:
    """Write the checkpoint of a request's model, before any method. Its weights are zeros."""
    with without_values():
        model = build_base(replace(request, method=Full()), torch.device("cpu")).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.save_pretrained(folder)


def loaded(
    request: Request, folder: Path, device: torch.device, quant_storage: QuantStorage = "uint8"
) -> ReferenceModel:
    """Load a checkpoint onto a device as `from_pretrained` does, in 4 bits if the request's method stores it so."""
    quantization = request.method.base_quantization(request.training)
    options: dict[str, Any] = {}
    if isinstance(quantization, Quantization):
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=quantization.quant_type,
            bnb_4bit_use_double_quant=quantization.double_quant,
            bnb_4bit_compute_dtype=getattr(torch, request.training.dtype),
            bnb_4bit_quant_storage=quant_storage,
        )
    model = language_model_of(request).from_pretrained(
        folder, dtype=getattr(torch, request.training.dtype), device_map={"": device}, **options
    )
    head = model.get_output_embeddings()
    path = next((name for name, module in model.named_modules() if module is head), None)
    names = frozenset(name for name, _ in model.named_parameters())
    elements = sum(parameter.numel() for parameter in model.parameters())
    return ReferenceModel(model=model, base=names, base_parameters=elements, head=path, root="")
