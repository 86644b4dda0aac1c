"""PEFT's initialize_lora_eva_weights on the meta device, whose tensors have no values that could converge."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from peft.tuners.lora import eva
from torch.overrides import TorchFunctionMode

from validation.reference.build import META
from validation.tracing.emulations import functional

if TYPE_CHECKING:
    from calculator.estimation.request import Request
    from validation.tracing.memory_tracker import MemoryTracker

#: The passes until all vectors count as converged: one that compares inputs, then one without vectors before,
#: one with vectors in float32, and two with vectors in float64, as all after them.
_PASSES = 5


class _Values(TorchFunctionMode):
    """Answers what EVA asks of values: whether samples were seen, whether vectors converged, and the best of them."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one function."""
        if func is torch.Tensor.__bool__ and args[0].is_meta and args[0].shape == (1,):
            return self.passes > 2
        if func is torch.all:
            return torch.tensor(self.passes >= _PASSES, device="cpu")
        if func is torch.Tensor.argsort:
            return torch.arange(args[0].numel(), device="cpu")
        return func(*args, **(kwargs or {}))


def run(model: Any, request: Request, tracker: MemoryTracker) -> None:
    """Initialize a model's adapter with batches of the size of a micro-batch, whose tokens are all used."""
    shape, values = (request.training.micro_batch_size, request.training.sequence_length), _Values()
    names = ("input_ids", "labels", *(("attention_mask",) if request.training.padding else ()))
    batch = {name: torch.zeros(shape, dtype=torch.long, device="cpu") for name in names}

    def forward(passed: Any, inputs: Any) -> None:
        values.passes += 1
        passed(**inputs)

    def compare(hook: eva.HashHook, module: Any, args: Any, output: Any) -> None:
        states = hook.prepare_layer_inputs(args)
        hook.hashed_inputs.append((tracker.number(args[0]), args[0].storage_offset()))
        del states

    with ExitStack() as stack:
        stack.enter_context(mock.patch("torch.tensor", functional.tensor))
        stack.enter_context(mock.patch.object(eva.HashHook, "__call__", compare))
        stack.enter_context(mock.patch.object(eva, "get_device_with_meta_params", return_value=META))
        stack.enter_context(mock.patch("torch.random.fork_rng", return_value=nullcontext()))  # there is no generator
        stack.enter_context(values)
        eva.initialize_lora_eva_weights(model, [batch], forward_fn=forward, show_progress_bar=False)
