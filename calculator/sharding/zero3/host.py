"""The bytes that stage 3 keeps in host memory with offload_param and offload_optimizer.

Source: deepspeed/runtime/zero/partition_parameters.py, _partition_param; stage3.py, __init__.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE
from calculator.inputs.sharding import Offload, offloads_optimizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.common.dtype import DType
    from calculator.inputs.sharding import ZeroOptimization
    from calculator.resident.optimizer import Optimizer
    from calculator.sharding.zero3.parameters import Partitioned


class PinnedMemory:
    """PyTorch's cache of page-locked memory. Its blocks are powers of two, are used again, and are never returned.

    Source: aten/src/ATen/core/CachingHostAllocator.h, allocate.
    """

    def __init__(self) -> None:
        self._free: Counter[int] = Counter()
        self.bytes = 0

    def allocate(self, size: int) -> None:
        """Allocate some bytes."""
        block = _block(size)
        if self._free[block]:
            self._free[block] -= 1
        else:
            self.bytes += block

    def free(self, size: int) -> None:
        """Return a block to the cache."""
        self._free[_block(size)] += 1


def _block(size: int) -> int:
    return 1 << (size - 1).bit_length() if size else 0


def host_bytes(
    parameters: Sequence[Partitioned],
    sub_groups: Sequence[Sequence[Partitioned]],
    zero: ZeroOptimization,
    dtype: DType,
    optimizer: Optimizer,
) -> int:
    """Return the bytes of a rank's offloaded partitions, with their gradients, master weights and states.

    `dtype` is that of the gradients.
    """
    sizes = [sum(parameter.partition for parameter in group) for group in sub_groups]
    pinned, item = PinnedMemory(), ITEMSIZE[sub_groups[0][0].dtype]
    weights = _weights(parameters, sizes, zero.offload_param or Offload(), item, pinned)
    weights += _cast(zero, item) * max(sizes)
    if not offloads_optimizer(zero):
        return pinned.bytes + weights
    gradients = [*(4 * size for size in sizes), ITEMSIZE[dtype] * sum(sizes)]
    if zero.offload_optimizer is not None and zero.offload_optimizer.pin_memory:
        for size in gradients:
            pinned.allocate(size)
        gradients = []
    states = sum(
        elements(shape) * ITEMSIZE[kind] for size in sizes for _, shape, kind in optimizer.states((size,), "float32")
    )
    return pinned.bytes + weights + sum(gradients) + 4 * sum(sizes) + states


def _cast(zero: ZeroOptimization, item: int) -> int:
    """Return the bytes per updated element on the host during a cast between a GPU and the host.

    Source: aten/src/ATen/native/cuda/Copy.cu, copy_kernel_cuda: the host casts.
    """
    on_host = (zero.offload_param or Offload()).device == "cpu", offloads_optimizer(zero)
    if item == ITEMSIZE["float32"] or on_host[0] == on_host[1]:
        return 0
    return item if on_host[1] else ITEMSIZE["float32"]


def _weights(
    parameters: Sequence[Partitioned], sizes: Sequence[int], offload: Offload, item: int, pinned: PinnedMemory
) -> int:
    """Allocate the partitions of the weights, and return the bytes of those that are not pinned.

    Trained ones move to a flat tensor, which is always pinned.
    """
    if offload.device != "cpu":
        return 0
    frozen = 0
    for parameter in parameters:
        size = parameter.partition * ITEMSIZE[parameter.dtype]
        if offload.pin_memory:
            pinned.allocate(size)
        elif not parameter.trained:
            frozen += size
    pinned.allocate(item * sum(sizes))
    if offload.pin_memory:
        for parameter in parameters:
            if parameter.trained:
                pinned.free(parameter.partition * ITEMSIZE[parameter.dtype])
    return frozen
