"""The allocations that load a model onto the card, before its first step.

Source: transformers/modeling_utils.py (caching_allocator_warmup) and core_model_loading.py, which quantises matrices
one by one; bitsandbytes.functional.quantize_4bit; peft.utils.other.prepare_model_for_kbit_training; then PEFT's own
modules.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

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


class _Read(NamedTuple):
    """What reading a tensor requests.

    Attributes:
        names, sizes: Its dense form if it is quantized (to 8 bits, also that in float16), itself, and its float32 form
            if it is a constant of 8 bits.
        row: Which of them is itself.
        freed: The others, which are freed once the next weight is read.
        is_constant: Whether it is a part of the quantized form of the weight before it.
        is_recast: Whether it is cast after all are read.
    """

    names: list[str]
    sizes: list[int]
    row: int
    freed: tuple[int, ...]
    is_constant: bool
    is_recast: bool


class Loading:
    """The events of loading: event `n` allocates a tensor of `sizes[n]` bytes, event `~n` frees it."""

    __slots__ = ("events", "names", "sizes", "training")

    def __init__(self, state: tuple[ResidentTensor, ...], training: Training) -> None:
        self.training = training
        self.sizes: list[int] = []
        #: The name of each row's tensor.
        self.names: list[str] = []
        self.events: list[int] = []
        base = [tensor for tensor in state if tensor.base]
        warmup = sum(self._as_read(tensor) * tensor.count for tensor in base if tensor.parameters)
        self._request([WARMUP], [rounded(warmup)])
        self.events.append(~0)
        reads = {tensor: self._read_of(tensor) for tensor in base}
        by_name: list[ResidentTensor] = sorted(base, key=lambda tensor: tensor.name.split("."))
        self._recast(base, reads, self._read(one_by_one(by_name), reads))
        added = one_by_one(tensor for tensor in state if not tensor.base)
        self._request([tensor.name for tensor in added], [rounded(_size(tensor)) for tensor in added])

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

    def _read(self, base: list[ResidentTensor], reads: dict[ResidentTensor, _Read]) -> dict[str, list[int]]:
        """Read the weights in the order of their names. A dense weight is freed after its 4-bit form is complete.

        The result is the rows of the tensors that are to be cast, by name.
        """
        dense: list[int] = []
        recast: dict[str, list[int]] = {}
        for tensor in base:
            read = reads[tensor]
            if dense and not read.is_constant:
                self.events += dense
                dense = []
            start = len(self.sizes)
            self._request(read.names, read.sizes)
            dense += [~(start + row) for row in read.freed]
            if read.is_recast:
                recast.setdefault(tensor.name, []).append(start + read.row)
        self.events += dense
        return recast

    def _read_of(self, tensor: ResidentTensor) -> _Read:
        packed, is_constant = _packed(tensor), tensor.component == "quantization_constants"
        whole = tensor.packed or not tensor.parameters
        sizes = [tensor.parameters * ITEMSIZE[self.training.dtype]] if packed else []
        if packed and tensor.dtype == "int8":
            sizes.append(tensor.parameters * ITEMSIZE["float16"])
        sizes.append(_size(tensor) if whole else self._as_read(tensor))
        if is_constant and tensor.dtype == "uint8":
            sizes.append(_size(tensor) * ITEMSIZE["float32"])
        row = len(sizes) - 1 if packed else 0
        return _Read(
            names=[tensor.name] * len(sizes),
            sizes=[*map(rounded, sizes)],
            row=row,
            freed=tuple(each for each in range(len(sizes)) if each != row),
            is_constant=is_constant,
            is_recast=bool(tensor.parameters) and not tensor.packed and tensor.dtype != self.training.dtype,
        )

    def _recast(
        self, base: list[ResidentTensor], reads: dict[ResidentTensor, _Read], rows: dict[str, list[int]]
    ) -> None:
        """Cast weights that were read in half precision and that a model prepared for training keeps in float32."""
        for tensor in one_by_one(base) if rows else ():
            if reads[tensor].is_recast:
                self._request([tensor.name], [rounded(_size(tensor))])
                self.events.append(~rows[tensor.name].pop(0))

    def _as_read(self, tensor: ResidentTensor) -> int:
        """A parameter's bytes in the checkpoint's dtype, or those per element that it is to be quantized to."""
        if not _packed(tensor):
            return tensor.parameters * ITEMSIZE[self.training.dtype]
        return tensor.parameters if tensor.dtype == "int8" else tensor.parameters // 2

    def _request(self, names: list[str], sizes: list[int]) -> None:
        start = len(self.sizes)
        self.sizes += sizes
        self.names += names
        self.events += range(start, len(self.sizes))


def _size(tensor: ResidentTensor) -> int:
    return tensor.bytes // tensor.count


def _packed(tensor: ResidentTensor) -> bool:
    """Whether it is a matrix that is quantized while the checkpoint is loaded."""
    return tensor.packed and not tensor.in_checkpoint
