"""Reading a checkpoint onto a GPU with from_pretrained, traced on the meta device: what fusing and quantizing take.

Threads of transformers read the weights. In the trace, they have read all of them before the first is converted, as far
as a load may be ahead; weights that are quantized have no threads.
"""

from __future__ import annotations

import weakref
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import BitsAndBytesConfig, core_model_loading, modeling_utils

from calculator.methods import Full
from calculator.resident.quantization import Quantization
from validation.reference.build import META
from validation.sharding.from_checkpoint import checkpoint_of
from validation.tracing.ledger import rounded
from validation.tracing.merging import quantizing_on_meta

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.estimation.request import Request


class _LiveBytes(TorchDispatchMode):
    """The bytes of the storages that operations make on the meta device, and the most of them."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation. Views of the model that waits for its weights on the meta device are none of them.

        What torch.tensor makes is shown by the first operation that changes it in place.
        """
        out = func(*args, **(kwargs or {}))
        if not any(return_.alias_info and not return_.alias_info.is_write for return_ in func._schema.returns):
            for tensor in tree_leaves(out):
                if isinstance(tensor, torch.Tensor) and tensor.device == META:
                    self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, rounded(storage.nbytes())
        if key in self._alive:
            return
        self._now += size
        self.peak = max(self.peak, self._now)

        def free(_: Any) -> None:
            del self._alive[key]
            self._now -= size

        self._alive[key] = weakref.ref(storage, free)


class _ReadsAhead:
    """A pool of threads that reads a weight when it is submitted."""

    def __init__(self, max_workers: int) -> None:
        """Any number of workers is as fast."""

    def submit(self, read: Callable[[], Any]) -> Future[Any]:
        """Read a weight."""
        future: Future[Any] = Future()
        future.set_result(read())
        return future

    def shutdown(self, **_: Any) -> None:
        """Do nothing. Nothing is left to do."""


def trace_reading(request: Request) -> int:
    """Return the most bytes alive while from_pretrained reads a request's model onto a GPU."""
    live = _LiveBytes()
    convert = modeling_utils.convert_and_load_state_dict_in_model

    def converting(*args: Any, **kwargs: Any) -> Any:
        with live:
            return convert(*args, **kwargs)

    with checkpoint_of(replace(request, method=Full())) as checkpoint, ExitStack() as stack:
        stack.enter_context(mock.patch.object(core_model_loading, "ThreadPoolExecutor", _ReadsAhead))
        stack.enter_context(mock.patch.object(modeling_utils, "convert_and_load_state_dict_in_model", converting))
        stack.enter_context(quantizing_on_meta())
        checkpoint.load(device_map={"": "meta"}, **_quantization(request))
    return live.peak


def _quantization(request: Request) -> dict[str, Any]:
    """Return the argument that quantizes the weights as they are read."""
    packed = request.method.base_quantization(request.training)
    if not isinstance(packed, Quantization):
        return {}
    dtype = getattr(torch, request.training.dtype)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=packed.quant_type,
        bnb_4bit_use_double_quant=packed.double_quant,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config}
