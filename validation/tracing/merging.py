"""PEFT's merge_and_unload on real modules, traced on the meta device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

import bitsandbytes as bnb
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from validation.reference.served_model import build_served_model
from validation.tracing.initial_tensors import track_model
from validation.tracing.known_values import KnownValues
from validation.tracing.ledger import Ledger
from validation.tracing.memory_tracker import MemoryTracker
from validation.tracing.module_tracker import ModuleTracker
from validation.tracing.shims import emulate_cuda
from validation.tracing.step import no_garbage_collection

if TYPE_CHECKING:
    from calculator.estimation.request import ModelReference
    from calculator.inference.served_method import ServedMethod
    from calculator.inference.settings import Serving


class CopyMetaToCPU(TorchDispatchMode):
    """Allows copies from the meta device to the CPU; the copy has no defined values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        device = (kwargs or {}).get("device")
        if func is torch.ops.aten._to_copy.default and device is not None and device.type == "cpu":
            return torch.empty(args[0].shape, dtype=args[0].dtype, device="cpu")
        return func(*args, **(kwargs or {}))


def trace(model: ModelReference, served: ServedMethod, serving: Serving) -> int:
    """Return the most bytes alive while an adapter is merged into its base."""
    return trace_merge(model, served, serving, in_run=False)[1]


def trace_merge(
    model: ModelReference, served: ServedMethod, serving: Serving, *, in_run: bool = True
) -> tuple[int, int]:
    """Return the bytes of the model before an adapter is merged into its base, and the most bytes alive while it is.

    `in_run`: whether parameters that need a gradient are referred to, as by an optimizer.
    """
    ledger: Ledger[str] = Ledger()
    with emulate_cuda():
        reference = build_served_model(model, served, serving)
        modules = ModuleTracker(reference.model, reference.root)
        tracker = MemoryTracker(ledger, modules, reference.head, KnownValues(serving.context_length))
        track_model(tracker, reference)
        merged = reference.model
        del reference
        referred = [parameter for parameter in merged.parameters() if parameter.requires_grad] if in_run else []
        with torch.no_grad(), no_garbage_collection(), tracker.tracking(), CopyMetaToCPU(), quantizing_on_meta():
            before = ledger.live_bytes
            ledger.enter("merge")
            merged.merge_and_unload()
        del referred
    return before, ledger.peaks["merge"].bytes


def quantizing_on_meta() -> Any:
    """Quantize a weight that moves to the meta device or is there, as CUDA does on a GPU."""
    return mock.patch.object(bnb.nn.Params4bit, "to", _quantized)


def _quantized(weight: bnb.nn.Params4bit, device: torch.device) -> bnb.nn.Params4bit:
    if weight.device == device:
        return weight._quantize(device)
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
