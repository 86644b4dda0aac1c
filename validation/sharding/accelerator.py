"""A DeepSpeed accelerator that poses as CUDA over another device, so that DeepSpeed runs its CUDA paths there."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from deepspeed.accelerator import cuda_accelerator, real_accelerator
from deepspeed.comm import comm
from deepspeed.runtime.zero import utils as zero_utils
from deepspeed.utils import groups

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.sharding.streams import Streams

#: Bytes that the device claims to have: enough for DeepSpeed to flatten weights on it.
MEMORY = 1 << 60

#: The properties of an accelerator that make a tensor from values, and their dtypes.
TENSORS = {
    "BFloat16Tensor": torch.bfloat16,
    "ByteTensor": torch.uint8,
    "DoubleTensor": torch.double,
    "FloatTensor": torch.float,
    "HalfTensor": torch.half,
    "IntTensor": torch.int,
    "LongTensor": torch.long,
}


class PosingAccelerator(cuda_accelerator.CUDA_Accelerator):
    """DeepSpeed's accelerator for CUDA, with the streams of a trace and the tensors of another device."""

    def __init__(self, device: str, streams: Streams, backend: str) -> None:
        super().__init__()
        self._name, self._streams, self._communication_backend_name = device, streams, backend

    def device_name(self, device_index: int | None = None) -> str:
        """Return the device's type."""
        return self._name

    def device(self, device_index: int | None = None) -> torch.device:
        """Return the device."""
        return torch.device(self._name)

    def current_device_name(self) -> str:
        """Return the device's type."""
        return self._name

    def on_accelerator(self, tensor: torch.Tensor) -> bool:
        """Return whether a tensor is on the device."""
        return tensor.device.type == self._name

    def __getattribute__(self, name: str) -> Any:
        """Streams, events and devices are those of the trace, and tensors are on its device."""
        if name in TENSORS:
            return partial(torch.tensor, dtype=TENSORS[name], device=self._name)
        if not name.startswith("_") and hasattr(type(self._streams), name):
            return getattr(self._streams, name)
        return super().__getattribute__(name)

    def total_memory(self, device_index: int | None = None) -> int:
        """Return bytes of the device."""
        return MEMORY

    available_memory = total_memory

    def memory_allocated(self, device_index: int | None = None) -> int:
        """Zero: DeepSpeed only logs it."""
        return 0

    max_memory_allocated = memory_reserved = max_memory_reserved = memory_allocated
    reset_peak_memory_stats = reset_max_memory_allocated = memory_allocated

    def empty_cache(self) -> None:
        """Do nothing: there is no cache."""

    def pin_memory(self, tensor: torch.Tensor, align_bytes: int = 1, make_copy: bool = True) -> torch.Tensor:
        """Return host memory as it is: pinning needs CUDA."""
        return tensor

    def range_push(self, msg: str, domain: Any = None, category: Any = None) -> None:
        """Mark nothing."""

    def range_pop(self, domain: Any = None) -> None:
        """Mark nothing."""

    def is_triton_supported(self) -> bool:
        """Return whether Triton kernels run."""
        return False


def forget_groups() -> None:
    """Make DeepSpeed forget the process groups of an earlier trace in this process."""
    comm.cdb = None
    for name in ("_WORLD_GROUP", "_DATA_PARALLEL_GROUP", "_ZERO_PARAM_INTRA_PARALLEL_GROUP", "mesh_device"):
        setattr(groups, name, None)


@contextmanager
def posing_as_cuda(device: str, streams: Streams, backend: str) -> Iterator[None]:
    """Make DeepSpeed use a device as it uses CUDA, inside the context."""
    with ExitStack() as stack:
        accelerator = PosingAccelerator(device, streams, backend)
        stack.enter_context(mock.patch.object(real_accelerator, "ds_accelerator", accelerator))
        stack.enter_context(mock.patch.object(torch.Tensor, "record_stream", return_value=None))
        stack.enter_context(mock.patch.dict("os.environ", {"LOCAL_RANK": "0"}))
        if device == "meta":
            # PEFT names the current device for the rows that other ranks than the first get.
            stack.enter_context(mock.patch.object(torch.cuda, "current_device", return_value=0))
            stack.enter_context(_lists_not_compared())
        yield


@contextmanager
def cuda_alone() -> Iterator[None]:
    """Make DeepSpeed use CUDA, with the process group that exists, inside the context."""
    accelerator = cuda_accelerator.CUDA_Accelerator()
    accelerator._communication_backend_name = "fake"
    with mock.patch.object(real_accelerator, "ds_accelerator", accelerator), _lists_not_compared():
        yield


@contextmanager
def _lists_not_compared() -> Iterator[None]:
    """Keep a rank from comparing lists with those of rank 0, whose values it does not receive."""
    with (
        mock.patch.object(zero_utils, "get_lst_from_rank0", lambda values: values),
        mock.patch.object(zero_utils, "assert_lst_len_same_as_other_ranks"),
    ):
        yield
