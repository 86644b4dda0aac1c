"""The kernels of memory-efficient attention: which one runs the backward pass, and its workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import ceil_div

if TYPE_CHECKING:
    from calculator.engine.tape import Tape, Tensor

#: The largest head whose output the forward kernel keeps in registers.
_IN_REGISTERS = 128
#: The queries, keys and heads up to which a block accumulates gradients in registers.
_SMALL, _LARGE = 64, 128
#: The largest head of a kernel that only compute capabilities 8.6 and 8.9 choose, and only without dropout.
_MEDIUM, _MEDIUM_CAPABILITIES = 96, ((8, 6), (8, 9))
#: The blocks of keys' gradients that are accumulated at a time, over all heads of a batch.
_MOST_SPLITS = 200


class Kernel(NamedTuple):
    """A backward kernel: the queries and keys of a block, and whether it accumulates gradients in registers."""

    queries: int
    keys: int
    in_registers: bool


def backward_kernel(query: Tensor, value: Tensor, *, drops: bool) -> Kernel:
    """Return the first kernel whose shared memory the GPU has. In a trace, it is that of compute capability 8.0.

    Source: mem_eff_attention/kernels/generate_kernels.py, BwdKernel; attention_backward.cu, which skips kernels.
    """
    capability = _capability(query.tape)
    size = max(query.shape[-1], value.shape[-1])
    if size <= _SMALL or capability < (7, 0):
        return Kernel(_SMALL, _SMALL, query.dtype != "float32" and size <= _SMALL)
    if query.dtype == "float32":
        return Kernel(_LARGE if _has_large_memory(capability) else _SMALL, _SMALL, in_registers=False)
    if size > _LARGE:
        return Kernel(_LARGE, _SMALL, in_registers=False)
    if _has_large_memory(capability):
        return Kernel(_LARGE, _LARGE, in_registers=True)
    if capability < (8, 0) or (size <= _MEDIUM and capability in _MEDIUM_CAPABILITIES and not drops):
        return Kernel(_LARGE, _SMALL, in_registers=True)
    return Kernel(_SMALL, _SMALL, in_registers=False)


def _capability(tape: Tape) -> tuple[int, int]:
    return tape.capability if tape.cuda else (8, 0)


def _has_large_memory(capability: tuple[int, int]) -> bool:
    """Return whether a block can have 163 KiB of shared memory or more.

    Source: CUDA C++ Programming Guide, technical specifications per compute capability.
    """
    return capability in ((8, 0), (8, 7)) or capability[0] in (9, 10)


def computes_delta(query: Tensor, kernel: Kernel) -> bool:
    """Return whether the kernel computes delta itself (kernel_backward.h, kKernelComputesDelta)."""
    return query.dtype != "float32" and (kernel.in_registers or _capability(query.tape) != (7, 0))


def accumulates_output(value: Tensor) -> bool:
    """Return whether the forward kernel has a float32 copy of its output on CUDA.

    Source: mem_eff_attention/kernel_forward.h, kNeedsOutputAccumulatorBuffer.
    """
    return value.tape.cuda and value.dtype != "float32" and value.shape[-1] > _IN_REGISTERS


def workspace_bytes(query: Tensor, key: Tensor, value: Tensor, kernel: Kernel) -> int:
    """Return the bytes of the backward kernel's workspace.

    Source: mem_eff_attention/kernel_backward.h, Params::workspace_size.
    """
    batch, heads, length, head_dim = query.shape
    block_i, block_j, in_registers = kernel
    elements = ceil_div(length, block_i) * ceil_div(head_dim, block_j) * (4 + block_i * block_j)
    if query.dtype != "float32" and not in_registers:
        splits = max(1, min(ceil_div(key.shape[2], block_j), _MOST_SPLITS // (batch * heads)))
        width = ceil_div(head_dim, block_i) + ceil_div(value.shape[-1], block_i)
        elements += splits * block_j * width * block_i
    return batch * heads * ceil_div(elements, 4) * 16
