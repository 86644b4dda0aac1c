"""PEFT's merge_and_unload on real modules, traced on the meta device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

import bitsandbytes as bnb
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from validation.reference.generation import made
from validation.reference.step import no_collection
from validation.tracing.initial_tensors import adopt_model
from validation.tracing.known_values import Values
from validation.tracing.ledger import Ledger
from validation.tracing.memory_tracker import Watch
from validation.tracing.module_tracker import Places
from validation.tracing.shims import as_on_cuda

if TYPE_CHECKING:
    from calculator.estimate.request import ModelReference
    from calculator.inference.served_method import Served
    from calculator.inference.settings import Serving


class OffTheCard(TorchDispatchMode):
    """Lets a tensor of the meta device, which has no values, be copied to the CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        device = (kwargs or {}).get("device")
        if func is torch.ops.aten._to_copy.default and device is not None and device.type == "cpu":
            return torch.empty(args[0].shape, dtype=args[0].dtype, device="cpu")
        return func(*args, **(kwargs or {}))


def trace(model: ModelReference, served: Served, serving: Serving) -> int:
    """The most bytes alive while an adapter is merged."""
    ledger: Ledger[str] = Ledger()
    with as_on_cuda():
        built = made(model, served, serving)
        watch = Watch(ledger, Places(built.model, built.root), built.head, Values(serving.context_length))
        adopt_model(watch, built)
        merged = built.model
        del built
        with torch.no_grad(), no_collection(), watch.watching(), OffTheCard(), _quantising_on_meta():
            ledger.enter("merge")
            merged.merge_and_unload()
    return ledger.peaks["merge"].bytes


def _quantising_on_meta() -> Any:
    """Let a packed weight that comes back from the CPU be quantised on the meta device, as it is on a card."""
    return mock.patch.object(bnb.nn.Params4bit, "to", _back)


def _back(weight: bnb.nn.Params4bit, device: torch.device) -> bnb.nn.Params4bit:
    dense = bnb.nn.Params4bit(
        torch.empty(weight.shape, dtype=weight.dtype, device=device),
        requires_grad=False,
        blocksize=weight.blocksize,
        compress_statistics=weight.compress_statistics,
        quant_type=weight.quant_type,
        quant_storage=weight.quant_storage,
        module=weight.module,
    )
    return dense._quantize(device)
