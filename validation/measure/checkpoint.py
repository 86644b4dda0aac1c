"""Checkpoints of zeros, and `from_pretrained`, which reads them onto a device."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from transformers import AutoConfig, BitsAndBytesConfig

from calculator.methods import Full
from calculator.resident.quantization import Quantization
from validation.reference.build import ReferenceModel, adapted, attention_of, build_base, language_model_of
from validation.reference.uninitialized import without_values

if TYPE_CHECKING:
    from calculator.estimation.request import Request
    from calculator.inputs.sharding import QuantStorage

#: The names that the format has for dtypes. Source: safetensors/torch.py, _TYPES.
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.bool: "BOOL"}


def save_checkpoint(request: Request, folder: Path) -> None:
    """Write the checkpoint of a request's model, before any method. Its weights are zeros.

    Linux refuses to map a file that is larger than the memory, so a file has at most 5 GB.
    """
    with without_values(), mock.patch("transformers.modeling_utils.safe_save_file", write_zeros):
        model = build_base(replace(request, method=Full()), torch.device("cpu")).model
        model.save_pretrained(folder, max_shard_size="5GB")


def write_zeros(tensors: dict[str, torch.Tensor], file: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write a file of safetensors with zeros in place of the values, which take no room on most disks.

    Source: safetensors, README.md (Format).
    """
    header: dict[str, Any] = {"__metadata__": metadata or {}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with Path(file).open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        opened.truncate(8 + len(text) + end)


def from_checkpoint(request: Request, device: torch.device) -> ReferenceModel:
    """Return a request's model, loaded from a checkpoint onto a device, with its method."""
    with TemporaryDirectory() as folder:
        save_checkpoint(request, Path(folder))
        return adapted(loaded(request, Path(folder), device), request, device)


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
    auto_model, config = language_model_of(request), AutoConfig.from_pretrained(folder)
    model = auto_model.from_pretrained(
        folder,
        dtype=getattr(torch, request.training.dtype),
        attn_implementation=attention_of(auto_model, config, request.training),
        device_map={"": device},
        **options,
    )
    head = model.get_output_embeddings()
    path = next((name for name, module in model.named_modules() if module is head), None)
    names = frozenset(name for name, _ in model.named_parameters())
    elements = sum(parameter.numel() for parameter in model.parameters())
    return ReferenceModel(model=model, base=names, base_parameters=elements, head=path, root="")
