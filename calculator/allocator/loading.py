"""The allocations that load a model onto the card, before its first step.

Source: transformers/modeling_utils.py (caching_allocator_warmup) and core_model_loading.py, which quantises matrices
one by one; bitsandbytes.functional.quantize_4bit; peft.utils.other.prepare_model_for_kbit_training; then PEFT's own
modules.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from calculator.common.dtype import ITEMSIZE, rounded
from calculator.resident.per_parameter import tensors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.inputs.training import Training
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.tensors import ResidentTensor

#: The allocation that makes room for all weights before they are read.
WARMUP = "transformers: caching_allocator_warmup"
#: Bytes of the device that the warmup does not allocate.
#: Source: transformers 5.13, modeling_utils.py, caching_allocator_warmup.
UNTOUCHED = 1.2 * (1 << 30)


def one_by_one(resident: Iterable[ResidentTensors]) -> list[ResidentTensor]:
    """Repeat each tensor `count` times, layer by layer."""
    repeated: list[ResidentTensor] = []
    for (count, _), group in groupby(tensors(resident), lambda tensor: (tensor.count, "*" in tensor.name)):
        repeated += list(group) * count
    return repeated


class Loading:
    """The events of loading: event `n` allocates a tensor of `sizes[n]` bytes, event `~n` frees it."""

    __slots__ = ("events", "names", "read", "sizes", "training")

    def __init__(self, state: tuple[ResidentTensor, ...], training: Training) -> None:
        self.training = training
        self.sizes: list[int] = []
        #: The name of each row's tensor.
        self.names: list[str] = []
        self.events: list[int] = []
        #: The rows of each tensor as read from the checkpoint, by name.
        self.read: dict[str, list[int]] = {}
        base = [tensor for tensor in state if tensor.base]
        warmup = sum(self._as_read(tensor) * tensor.count for tensor in base if tensor.parameters)
        self._free(self._new(warmup, WARMUP))
        by_name: list[ResidentTensor] = sorted(base, key=lambda tensor: tensor.name.split("."))
        self._read(one_by_one(by_name))
        self._recast(one_by_one(base))
        for tensor in one_by_one(tensor for tensor in state if not tensor.base):
            self._new(_size(tensor), tensor.name)

    @property
    def warmup(self) -> int:
        """Bytes that are allocated and freed before the weights are read, where the device is large enough."""
        return self.sizes[0]

    def on(self, total: int | None) -> tuple[list[int], list[int]]:
        """Sizes and events on a device of a size, of which the warmup leaves 1.2 GiB alone."""
        if total is None or total - UNTOUCHED >= self.warmup:
            return self.sizes, self.events
        warmup = rounded(max(0, int(total - UNTOUCHED)))
        return [warmup, *self.sizes[1:]], self.events if warmup else self.events[2:]

    def _read(self, base: list[ResidentTensor]) -> None:
        """Read the weights in the order of their names. A dense weight is freed after its 4-bit form is complete."""
        dense: list[int] = []
        for tensor in base:
            if tensor.component != "quantization_constants":
                self._free(*dense)
                dense = []
            if _packed(tensor):
                dense.append(self._new(tensor.parameters * ITEMSIZE[self.training.dtype], tensor.name))
            whole = _packed(tensor) or not tensor.parameters
            row = self._new(_size(tensor) if whole else self._as_read(tensor), tensor.name)
            self.read.setdefault(tensor.name, []).append(row)
            if tensor.component == "quantization_constants" and tensor.dtype == "uint8":
                dense.append(self._new(_size(tensor) * ITEMSIZE["float32"], tensor.name))
        self._free(*dense)

    def _recast(self, base: list[ResidentTensor]) -> None:
        """Cast weights that were read in half precision and that a model prepared for training keeps in float32."""
        for tensor in base:
            if tensor.parameters and not _packed(tensor) and tensor.dtype != self.training.dtype:
                self._new(_size(tensor), tensor.name)
                self._free(self.read[tensor.name].pop(0))

    def _as_read(self, tensor: ResidentTensor) -> int:
        """A parameter's bytes in the checkpoint's dtype, or half a byte per element if it is to be quantized."""
        return tensor.parameters // 2 if _packed(tensor) else tensor.parameters * ITEMSIZE[self.training.dtype]

    def _new(self, size: int, name: str) -> int:
        self.sizes.append(rounded(size))
        self.names.append(name)
        self.events.append(len(self.sizes) - 1)
        return len(self.sizes) - 1

    def _free(self, *rows: int) -> None:
        self.events += (~row for row in rows)


def _size(tensor: ResidentTensor) -> int:
    return tensor.bytes // tensor.count


def _packed(tensor: ResidentTensor) -> bool:
    """Whether it is a matrix in 4 bits."""
    return tensor.packed
