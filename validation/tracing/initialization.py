"""PEFT's get_peft_model over a model that is on the GPU, traced on the meta device: what initializing takes."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from unittest import mock

import peft
import torch
from peft.tuners.lora.corda import preprocess_corda, target_modules
from peft.tuners.lora.loraga import get_target_modules, preprocess_loraga
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.overrides import TorchFunctionMode

from validation.reference.build import META, build_base
from validation.reference.methods import is_prepared, peft_config
from validation.tracing import eva_initialization
from validation.tracing.initial_tensors import track_model
from validation.tracing.known_values import KnownValues
from validation.tracing.ledger import Ledger
from validation.tracing.memory_tracker import MemoryTracker
from validation.tracing.merging import CopyMetaToCPU, quantizing_on_meta
from validation.tracing.module_tracker import ModuleTracker
from validation.tracing.shims import emulate_cuda
from validation.tracing.step import no_garbage_collection

if TYPE_CHECKING:
    from calculator.estimation.request import Request


class _CUDAIsMeta(TorchFunctionMode):
    """Moves to the meta device what a library moves to "cuda", and lets data on the host become data on it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one function."""
        if func == torch.Tensor.data.__set__ and args[0].device != args[1].device:
            return torch.utils.swap_tensors(args[0], torch.nn.Parameter(args[1]))
        on_meta = {name: _moved_to_meta(value) for name, value in (kwargs or {}).items()}
        return func(*map(_moved_to_meta, args), **on_meta)


def _moved_to_meta(value: Any) -> Any:
    return META if isinstance(value, str) and value == "cuda" else value


def trace_initialization(request: Request) -> int:
    """Return the most bytes alive while PEFT adds and initializes a request's adapter."""
    ledger: Ledger[str] = Ledger()
    with emulate_cuda():
        reference = build_base(request)
        if is_prepared(request.method):
            peft.prepare_model_for_kbit_training(reference.model, use_gradient_checkpointing=False)
        modules = ModuleTracker(reference.model, reference.root)
        tracker = MemoryTracker(ledger, modules, reference.head, KnownValues(request.training.sequence_length))
        track_model(tracker, reference)
        config, model = peft_config(request), reference.model
        del reference
        with ExitStack() as stack:
            for context in (no_garbage_collection(), tracker.tracking(), CopyMetaToCPU(), quantizing_on_meta()):
                stack.enter_context(context)
            stack.enter_context(_CUDAIsMeta())
            stack.enter_context(mock.patch.object(BaseTunerLayer, "_move_adapter_to_device_of_base_layer", _moved))
            ledger.enter("load")
            preprocess(model, config)
            casts = request.training.adapter_dtype == "float32"
            adapted = peft.get_peft_model(model, config, autocast_adapter_dtype=casts)
            if getattr(config, "init_lora_weights", None) == "eva":
                eva_initialization.run(adapted, request, tracker)
    return ledger.peaks["load"].bytes


def preprocess(model: Any, config: Any) -> None:
    """Run what PEFT runs on samples before it adds an adapter, from what the samples gave."""
    kind = getattr(config, "init_lora_weights", None)
    if kind == "corda":
        config.corda_config.corda_method = "kpm"
        preprocess_corda(model, config, run_model=lambda: _with_covariances(model, config))
    elif kind == "lora_ga":
        config.lora_ga_config = peft.LoraGAConfig()
        preprocess_loraga(model, config, lambda: _with_gradients(model, config))


def _with_covariances(model: Any, config: Any) -> None:
    for _, module in target_modules(model, config):
        width = module.in_features if isinstance(module, torch.nn.Linear) else module.nx
        module.covariance_matrix = torch.empty(width, width, device=META)
        module.sample_count = 1


def _with_gradients(model: Any, config: Any) -> None:
    for _, module in get_target_modules(model, config):
        module.weight.grad = torch.empty_like(module.weight)
        module._peft_loraga_grad_count = 1


def _moved(layer: BaseTunerLayer, adapter_name: str, device: torch.device | None = None) -> None:
    """Move an adapter as PEFT's function does. PEFT leaves out what is on the meta device."""
    layer_device, dtype = layer._get_base_layer_device_and_dtype(layer.get_base_layer())
    for name in layer.adapter_layer_names:
        adapters = getattr(layer, name, {})
        if adapter_name in adapters:
            to = {"dtype": dtype} if dtype is not None and dtype.is_floating_point else {}
            adapters[adapter_name] = adapters[adapter_name].to(device=device or layer_device, **to)
