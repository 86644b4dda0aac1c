"""TRL's offloading of activations on the meta device: its own context manager, with streams and pinned tensors in name.

The manager reads the device's type, makes streams and events, and copies saved tensors to pinned host memory and back.
Here the device is meta, a copy on the host is its size, and each storage has an address that no other storage ever has.
"""

from __future__ import annotations

import weakref
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.sharding.streams import Streams

_MODULE = "trl.models.activation_offloading"

#: The distance of the addresses of storages: more than the bytes of any.
_STRIDE = 1 << 48


def pinned_block(nbytes: int) -> int:
    """Return the bytes of the block that PyTorch's allocator of pinned memory has for a tensor: the next power of two.

    Source: aten/src/ATen/core/CachingHostAllocator.h, allocate.
    """
    return 1 << max(0, nbytes - 1).bit_length() if nbytes else 0


@dataclass(slots=True)
class PinnedMemory:
    """The pinned host memory of a run: bytes in use, the most so far, and the tensors copied since the last reset."""

    live: int = 0
    peak: int = 0
    copied: list[tuple[tuple[int, ...], str]] = field(default_factory=list)
    #: The shapes whose blocks on the device wait for an event when they are freed (`record_stream`).
    recorded: list[tuple[int, ...]] = field(default_factory=list)

    def allocate(self, tensor: HostTensor) -> None:
        """Count the block of a tensor until the tensor is freed."""
        size = pinned_block(tensor.nbytes)
        self.live += size
        self.peak = max(self.peak, self.live)
        self.copied.append((tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")))
        weakref.finalize(tensor, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size


class HostTensor:
    """A tensor in pinned host memory. It has a shape and a dtype, and no data."""

    def __init__(self, shape: torch.Size | tuple[int, ...], dtype: torch.dtype, memory: PinnedMemory) -> None:
        self.shape, self.dtype = torch.Size(shape), dtype
        self.nbytes = self.shape.numel() * dtype.itemsize
        memory.allocate(self)

    def copy_(self, _source: torch.Tensor, **_: Any) -> None:
        """Copy nothing."""

    def to(self, device: str, **_: Any) -> torch.Tensor:
        """Return a new tensor on the device."""
        return torch.empty(self.shape, dtype=self.dtype, device=device)


class _Torch:
    """The module torch, as the manager sees it."""

    def __init__(self, streams: Streams, memory: PinnedMemory) -> None:
        self.accelerator = SimpleNamespace(current_accelerator=lambda: torch.device("meta"))
        self.get_device_module = lambda _: streams
        self._memory = memory

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def empty(self, size: int, *, dtype: torch.dtype, **_: Any) -> HostTensor:
        """Return a tensor in pinned host memory."""
        return HostTensor((size,), dtype, self._memory)

    def empty_like(self, tensor: torch.Tensor, **_: Any) -> HostTensor:
        """Return a tensor in pinned host memory, like one on the device."""
        return HostTensor(tensor.shape, tensor.dtype, self._memory)


class _Addresses:
    """An address for each storage on the meta device."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref, int]] = {}
        self._count = 0
        self._data_ptr = torch.UntypedStorage.data_ptr

    def address(self, storage: torch.UntypedStorage) -> int:
        """Return the address of a storage."""
        if storage.device.type != "meta":
            return int(self._data_ptr(storage))
        key = storage._cdata
        if key not in self._known:
            self._count += 1
            gone = weakref.ref(storage, lambda _: self._known.pop(key, None))
            self._known[key] = gone, self._count * _STRIDE
        return self._known[key][1]


@contextmanager
def offloaded_on_meta(streams: Streams, *, on_host: bool = False) -> Iterator[PinnedMemory]:
    """Run TRL's manager on the meta device inside the context.

    `on_host`: whether the model is on the host when a trainer makes the manager, as under FSDP and DeepSpeed. So the
    manager knows no storage of the parameters on the device.
    """
    memory, addresses = PinnedMemory(), _Addresses()

    def data_ptr(storage: torch.UntypedStorage) -> int:
        return addresses.address(storage)

    def record_stream(tensor: torch.Tensor, _stream: object) -> None:
        memory.recorded.append(tuple(tensor.shape))

    with ExitStack() as stack:
        stack.enter_context(mock.patch(f"{_MODULE}.torch", _Torch(streams, memory)))
        stack.enter_context(mock.patch.object(torch.UntypedStorage, "data_ptr", data_ptr))
        stack.enter_context(mock.patch.object(torch.Tensor, "record_stream", record_stream))
        if on_host:
            stack.enter_context(mock.patch(f"{_MODULE}.OffloadActivations.update_model_params"))
        yield memory
