"""Meters of a device's memory: the counters of CUDA's caching allocator, or the live storages on the CPU.

The allocator counts blocks. It does not split a large block if the remainder is 1 MiB or less, so `allocated` can
exceed the tensors' sizes by that much per block, except with `every_block_split`. `requested` is the tensors' sizes
before any rounding.
"""

from __future__ import annotations

import gc
import weakref
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from validation.tracing.ledger import rounded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Bytes at the end of a moment, and the most during it; None if the meter does not measure them.

    `allocated` and `requested` exclude what existed before the case; `reserved` is that of the whole process.
    """

    allocated: int
    peak_allocated: int | None = None
    requested: int | None = None
    peak_requested: int | None = None
    reserved: int | None = None
    peak_reserved: int | None = None

    def to_json(self) -> dict[str, int | None]:
        """Return the fields of a results file."""
        return asdict(self)


class Meter(Protocol):
    """Reads a device's memory at the end of each moment of a case; the case runs inside its context."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def read(self, *, host: Iterable[torch.Tensor] = ()) -> Reading:
        """End a moment. `host` has the tensors that would be on the host if the device were a GPU."""
        ...


class CudaMeter:
    """The caching allocator's counters."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __enter__(self) -> Self:
        gc.collect()
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        self._before = torch.cuda.memory_stats(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Do nothing. There is nothing to release."""

    def read(self, *, host: Iterable[torch.Tensor] = ()) -> Reading:
        """Read the counters and reset the peaks."""
        torch.cuda.synchronize(self._device)
        stats = torch.cuda.memory_stats(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        return Reading(
            allocated=self._since(stats, "allocated_bytes", "current"),
            peak_allocated=self._since(stats, "allocated_bytes", "peak"),
            requested=self._since(stats, "requested_bytes", "current"),
            peak_requested=self._since(stats, "requested_bytes", "peak"),
            reserved=stats["reserved_bytes.all.current"],
            peak_reserved=stats["reserved_bytes.all.peak"],
        )

    def _since(self, stats: dict[str, int], counter: str, statistic: str) -> int:
        return stats[f"{counter}.all.{statistic}"] - self._before[f"{counter}.all.current"]


class StorageMeter:
    """Live storages on the CPU, each rounded up to 512 bytes as the caching allocator does.

    Temporaries inside the CPU's kernels differ from a GPU's, so only tensors alive between operations are comparable.
    """

    def __init__(self) -> None:
        self._storages: dict[int, tuple[int, weakref.ref[torch.UntypedStorage]]] = {}
        self._mode = _StorageTracker(self)

    def __enter__(self) -> Self:
        self._mode.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._mode.__exit__(*exc_info)

    def track(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._storages and tensor.device.type == "cpu" and storage.nbytes():
            guard = weakref.ref(storage, lambda _: self._storages.pop(key, None))
            self._storages[key] = rounded(storage.nbytes()), guard

    def read(self, *, host: Iterable[torch.Tensor] = ()) -> Reading:
        """Return the live bytes, without the tensors that would be on the host."""
        gc.collect()
        on_host = {tensor.untyped_storage()._cdata for tensor in host}
        return Reading(allocated=sum(size for key, (size, _) in self._storages.items() if key not in on_host))


class _StorageTracker(TorchDispatchMode):
    def __init__(self, meter: StorageMeter) -> None:
        super().__init__()
        self._meter = meter

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and track its outputs."""
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._meter.track(leaf)
        return out


@contextmanager
def every_block_split(device: torch.device) -> Iterator[None]:
    """Let CUDA's caching allocator split every block, so that `allocated` counts tensors rounded up to 512 bytes.

    It does so with expandable segments (should_split in c10/cuda/CUDACachingAllocator.cpp). On the CPU this changes
    nothing.
    """
    if device.type != "cuda":
        yield
        return
    _set_expandable(device, True)
    try:
        yield
    finally:
        _set_expandable(device, False)


def _set_expandable(device: torch.device, value: bool) -> None:
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    set_allocator(f"expandable_segments:{value}")


def set_allocator(settings: str) -> None:
    """Set CUDA's caching allocator of this process, in the spelling of PYTORCH_CUDA_ALLOC_CONF."""
    if hasattr(torch._C, "_accelerator_setAllocatorSettings"):
        torch._C._accelerator_setAllocatorSettings(settings)
    else:
        torch.cuda.memory._set_allocator_settings(settings)


class Counts(NamedTuple):
    """How often the caching allocator freed cached blocks for a request, and how often it failed, in the process."""

    retries: int
    ooms: int


def counts(device: torch.device) -> Counts | None:
    """Return the counters `num_alloc_retries` and `num_ooms` of torch.cuda.memory_stats(); None without a GPU."""
    if device.type != "cuda":
        return None
    stats = torch.cuda.memory_stats(device)
    return Counts(stats["num_alloc_retries"], stats["num_ooms"])


def meter_of(device: torch.device) -> Meter:
    """Return the meter for a device."""
    return CudaMeter(device) if device.type == "cuda" else StorageMeter()


def workspace_bytes(device: torch.device) -> int | None:
    """Return bytes of the matrix libraries' workspaces, for the forward and the backward thread; None without a GPU.

    Call this before anything else, so that every later reading includes the workspaces.
    """
    if device.type != "cuda":
        return None
    before = torch.cuda.memory_allocated(device)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(64, 64, dtype=dtype, device=device, requires_grad=True)
        (x @ x).sum().backward()
        del x
    torch.cuda.synchronize(device)
    gc.collect()
    return int(torch.cuda.memory_allocated(device) - before)


def free_workspaces(device: torch.device) -> None:
    """Free the matrix libraries' workspaces on a GPU. The next products allocate them again."""
    if device.type == "cuda":
        torch._C._cuda_clearCublasWorkspaces()


def driver_bytes(device: torch.device) -> int | None:
    """Return bytes in use on a GPU by all processes, as the driver reports them."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return int(total - free)
