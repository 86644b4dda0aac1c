"""An allocation that fails: PyTorch's torch.OutOfMemoryError, with the figures of its message.

Source: DeviceCachingAllocator::malloc, reportProcessMemoryInfo and format_size in c10/cuda/CUDACachingAllocator.cpp.
The end of the sentence on expandable segments is spelled as in published logs from the time of torch 2.13.
"""

from __future__ import annotations

from dataclasses import dataclass

_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_ADVICE = (
    " If reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid"
    " fragmentation.  See documentation for Memory Management "
    " (https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage-with-pytorch-cuda-alloc-conf)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """The memory that a device offers the allocator of one process, in bytes.

    Attributes:
        capacity: What the allocator can get from the device: `total` less the CUDA context of this process, less what
            other processes and the driver use.
        total: The device's memory as `torch.cuda.mem_get_info` states it.
        context: What this process uses outside the allocator.
    """

    capacity: int
    total: int
    context: int

    @property
    def outside(self) -> int:
        """The bytes that the allocator cannot get from the device."""
        return self.total - self.capacity


class OutOfMemoryError(Exception):
    """A request that fails after all cached blocks that could be freed were freed.

    Attributes:
        requested: The request, rounded to a block, bytes.
        segment: The segment that the device was to allocate, bytes.
        allocated: The blocks in use, bytes.
        reserved: The blocks in use and the cached ones, bytes.
        free: What is left of the allocator's capacity, bytes.
        allowed: The limit that `per_process_memory_fraction` sets, if there is one, bytes.
        row: The row of the request, if events were replayed.
        tensor: The name of the requested tensor, if events were replayed.
    """

    def __init__(
        self, *, requested: int, segment: int, allocated: int, reserved: int, free: int, allowed: int | None
    ) -> None:
        super().__init__(f"Tried to allocate {format_size(segment)}")
        self.requested = requested
        self.segment = segment
        self.allocated = allocated
        self.reserved = reserved
        self.free = free
        self.allowed = allowed
        self.row = 0
        self.tensor = ""

    def message(self, device: DeviceMemory) -> str:
        """Return the text of torch.OutOfMemoryError on a device."""
        allowed = f"{format_size(self.allowed)} allowed; " if self.allowed is not None else ""
        in_use = device.context + self.reserved
        return (
            f"CUDA out of memory. Tried to allocate {format_size(self.segment)}. GPU 0 has a total capacity of"
            f" {format_size(device.total)} of which {format_size(self.free)} is free. Including non-PyTorch memory,"
            f" this process has {format_size(in_use)} memory in use. {allowed}Of the allocated memory"
            f" {format_size(self.allocated)} is allocated by PyTorch, and"
            f" {format_size(self.reserved - self.allocated)} is reserved by PyTorch but unallocated.{_ADVICE}"
        )


def format_size(size: int) -> str:
    """Return a size as the message spells it: "2.00 GiB", "512.00 MiB", "1024 bytes"."""
    for unit, name in _UNITS:
        if size > unit:
            return f"{size / unit:.2f} {name}"
    return f"{size} bytes"
