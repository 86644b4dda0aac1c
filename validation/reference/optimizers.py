"""The optimizers of a request, as the HF Trainer makes them, on the meta device."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

import bitsandbytes as bnb
import torch
from transformers.optimization import Adafactor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.common.names import OptimizerName

#: How the HF Trainer makes each optimizer. Source: transformers/trainer_optimizer.py.
OPTIMIZERS: dict[OptimizerName, Callable[..., torch.optim.Optimizer]] = {
    "adamw_torch": partial(torch.optim.AdamW, foreach=True),
    "adamw_torch_fused": partial(torch.optim.AdamW, fused=True),
    "adamw_8bit": partial(bnb.optim.AdamW, optim_bits=8),
    "adamw_bnb_8bit": partial(bnb.optim.AdamW, optim_bits=8),
    "paged_adamw_8bit": partial(bnb.optim.AdamW, optim_bits=8, is_paged=True),
    "paged_adamw_32bit": partial(bnb.optim.AdamW, optim_bits=32, is_paged=True),
    "lion_8bit": partial(bnb.optim.Lion, optim_bits=8),
    "paged_lion_8bit": partial(bnb.optim.Lion, optim_bits=8, is_paged=True),
    "lion_32bit": partial(bnb.optim.Lion, optim_bits=32),
    "paged_lion_32bit": partial(bnb.optim.Lion, optim_bits=32, is_paged=True),
    "sgd": partial(torch.optim.SGD, foreach=True),
    "adafactor": partial(Adafactor, scale_parameter=False, relative_step=False),
    "adagrad": partial(torch.optim.Adagrad, foreach=True),
    "rmsprop": partial(torch.optim.RMSprop, foreach=True),
}


def optimizer_for(name: OptimizerName, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that `optim=name` stands for, over one group of parameters."""
    return OPTIMIZERS[name](parameters, lr=1e-4)


def states(optimizer: torch.optim.Optimizer) -> Iterator[tuple[torch.nn.Parameter, str, torch.Tensor]]:
    """Every tensor that an optimizer keeps on the device, with its parameter and name; not those in managed memory."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and not getattr(value, "is_paged", False):
                yield parameter, name, value


def _managed(*shape: int, dtype: torch.dtype = torch.float32, device: torch.device) -> torch.Tensor:
    """A tensor that stands for one in managed memory (bitsandbytes.functional.get_paged)."""
    buffer = torch.empty(shape, dtype=dtype, device=device)
    buffer.is_paged = True
    return buffer


def _nothing(*_: Any, **__: Any) -> None:
    """What a call for a real device's memory does here."""


@contextmanager
def on_meta() -> Iterator[None]:
    """Let the optimizers take the meta device for CUDA."""
    replacements = {
        "torch.optim.adam._device_dtype_check_for_fused": _nothing,
        "torch.utils._foreach_utils._get_foreach_kernels_supported_devices": lambda: ["cuda", "meta"],
        "bitsandbytes.functional.get_paged": _managed,
        "bitsandbytes.functional.fill": _nothing,
        "bitsandbytes.functional.prefetch_tensor": _nothing,
        "bitsandbytes.functional.is_on_gpu": _nothing,
        "bitsandbytes.optim.optimizer.sync_gpu": _nothing,
    }
    with ExitStack() as stack:
        for name, replacement in replacements.items():
            stack.enter_context(mock.patch(name, replacement))
        yield
