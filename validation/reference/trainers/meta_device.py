"""The meta device as accelerate's and transformers' CUDA device."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from unittest import mock

import accelerate.accelerator  # noqa: F401  (patched below)
import bitsandbytes as bnb
import torch
from accelerate.state import AcceleratorState, GradientState

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Questions about the device, which is as capable as a current GPU.
CAPABILITIES = {
    "transformers.training_args.is_torch_bf16_gpu_available": lambda: True,
    "accelerate.accelerator.is_bf16_available": lambda *_: True,
}


@contextmanager
def accelerate_on_meta() -> Iterator[None]:
    """Make accelerate place models and batches on the meta device; afterwards no library keeps a trainer's state."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, {"ACCELERATE_TORCH_DEVICE": "meta"}))
        for name, answer in CAPABILITIES.items():
            stack.enter_context(mock.patch(name, answer))
        stack.callback(forget_trainer)
        forget_trainer()
        yield


def forget_trainer() -> None:
    """Make the libraries forget the state of a trainer that ran in this process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    bnb.optim.GlobalOptimManager._instance = None
    torch._C._autograd._saved_tensors_hooks_enable()
