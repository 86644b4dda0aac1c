"""The memory that CUDA and its libraries need in addition to tensors, with sources."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from calculator.common.sourced import Sourced
from calculator.devices.gpus import MIB, gpu
from calculator.inputs.stack import DEFAULT_STACK
from calculator.stack.torch_releases import frees_workspaces

if TYPE_CHECKING:
    from calculator.devices.gpus import GPU
    from calculator.inputs.stack import StackVersions

REFERENCE_GPU = "a100-sxm4-80gb"
"""The GPU whose workspaces count if a request names no GPU."""

_SIZES = "PyTorch, aten/src/ATen/cuda/CublasHandlePool.cpp, parseChosenWorkspaceSize"
_THREADS = "one per thread and stream; cuBLASLt shares it (getWorkspace, TORCH_CUBLASLT_UNIFIED_WORKSPACE)"
_LARGE_MAJORS = (9, 10, 12)
_CUBLAS_SMALL = 4096 * 1024 * 2 + 16 * 1024 * 8
_CUBLAS_LARGE = 4096 * 1024 * 8

_CONTEXT = Sourced(
    name="CUDA context",
    bytes=426 * MIB,
    source="unslothai/unsloth-zoo pull request 1053: 426 MiB on an RTX 6000 Ada with nothing allocated,"
    " torch 2.10 + cu130",
)


def product_workspace(card: GPU | None, stack: StackVersions) -> int:
    """Return the bytes that each matrix product allocates while it runs, or 0 if a thread keeps them."""
    return _size(card) if frees_workspaces(stack) else 0


def workspaces(card: GPU | None, stack: StackVersions = DEFAULT_STACK) -> tuple[int, int]:
    """Return the bytes that the threads of the forward and of the backward pass keep for matrix products."""
    return (0, 0) if frees_workspaces(stack) else (_size(card), _size(card))


def _size(card: GPU | None) -> int:
    large = (card or gpu(REFERENCE_GPU)).compute_major in _LARGE_MAJORS
    return _CUBLAS_LARGE if large else _CUBLAS_SMALL


@cache
def library_workspace(card: GPU | None, stack: StackVersions = DEFAULT_STACK) -> tuple[Sourced, ...]:
    """Return the cuBLAS workspaces of a training step: one for the main thread, one for autograd's thread.

    The caching allocator allocates them, so `max_memory_allocated` includes them. Without a GPU, they are those of an
    A100. There are none in releases whose products free their workspaces, which are among the tensors there.
    """
    if frees_workspaces(stack):
        return ()
    card = card or gpu(REFERENCE_GPU)
    kind = f"compute capability {card.compute_capability}" if card.compute_capability else "no compute capability"
    return tuple(
        Sourced(
            name=f"cuBLAS workspace, {thread} thread",
            bytes=_size(card),
            source=f"{_SIZES} ({card.name}, {kind}); {_THREADS}",
        )
        for thread in ("forward", "backward")
    )


def cuda_context(card: GPU | None) -> Sourced:
    """Return the memory that a process uses before its first tensor: kernels, driver and context.

    For a current stack there is one public measurement. It is used for every GPU, and `source` names its GPU.
    """
    if card is None or card.id == "rtx-6000-ada":
        return _CONTEXT
    return Sourced(
        name=_CONTEXT.name,
        bytes=_CONTEXT.bytes,
        source=f"{_CONTEXT.source}; used for {card.name}, which has no measurement of its own",
    )
