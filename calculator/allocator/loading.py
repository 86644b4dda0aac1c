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
    from collections.abc import Iterable, Iterator

    from calculator.inputs.training import Training
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.tensors import ResidentTensor

#: The allocation that makes room for all weights before they are read.
WARMUP = "transformers: caching_allocator_warmup"
#: Bytes of the device that the warmup does not allocate.
#: Source: transformers 5.13, modeling_utils.py, caching_allocator_warmup.
UNTOUCHED = 1.2 * (1 << 30)


def layers(resident: Iterable[ResidentTensors]) -> Iterator[tuple[list[ResidentTensor], int]]:
    """Tensors next to each other that come equally often, and how often: those of a layer come once for each layer."""
    for (count, _), group in groupby(tensors(resident), lambda tensor: (tensor.count, "*" in tensor.name)):
        yield list(group), count


def one_by_one(resident: Iterable[ResidentTensors]) -> list[ResidentTensor]:
    """Repeat each tensor `count` times, layer by layer."""
    repeated: list[ResidentTensor] = []
    for group, count in layers(resident):
        repeated += group * count
    return repeated


class Read(NamedTuple):
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
    """The events of loading: event `n` allocates a tensor of `sizes[n]` bytes, event `~n` frees it.

    `most_reserved` are bytes that it reserves on a device with room for them, and returns before the first step.
    """

    __slots__ = ("events", "most_reserved", "names", "sizes", "training")

    def __init__(self, state: tuple[ResidentTensor, ...], training: Training) -> None:
        self.training = training
        self.most_reserved = 0
        self.sizes: list[int] = []
        #: The name of each row's tensor.
        self.names: list[str] = []
        self.events: list[int] = []
        base = [tensor for tensor in state if tensor.base]
        warmup = sum(self._as_read(tensor) * tensor.count for tensor in base if tensor.parameters)
        self._request([WARMUP], [rounded(warmup)])
        self.events.append(~0)
        reads = {tensor: self._read_of(tensor) for tensor in base}
        by_name: list[ResidentTensor] = sorted(base, key=self._key)
        self._recast(base, reads, self._read(by_name, reads))
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

    def spare(self, total: int) -> int:
        """By how much a device of a size could be smaller before something else is requested."""
        return int(total - UNTOUCHED) - self.warmup

    def _key(self, tensor: ResidentTensor) -> list[str]:
        """What orders the weights as they are read."""
        return tensor.name.split(".")

    def _read(self, base: list[ResidentTensor], reads: dict[ResidentTensor, Read]) -> dict[str, list[int]]:
        """Read the weights in the order of their names. A dense weight is freed after its 4-bit form is complete.

        The result is the rows of the tensors that are to be cast, by name.
        """
        dense: list[int] = []
        recast: dict[str, list[int]] = {}
        for group, count in layers(base):
            layer = [reads[tensor] for tensor in group]
            # Each further layer is read as the second, which frees what is left of the one before it.
            frees = not all(read.is_constant for read in layer)
            for _ in range(min(count, 2) if frees else count):
                events, rows = len(self.events), len(self.sizes)
                dense = self._read_layer(layer, dense, recast)
            if not frees or count <= 2:
                continue
            more, stride = count - 2, len(self.sizes) - rows
            self.sizes += self.sizes[rows:] * more
            self.names += self.names[rows:] * more
            second = self.events[events:]
            self.events += [event for n in range(1, more + 1) for event in _later(second, n * stride)]
            dense = _later(dense, more * stride)
            for name in {tensor.name for tensor in group if reads[tensor].is_recast}:
                of_second = [row for row in recast[name] if row >= rows]
                recast[name] += [row + n * stride for n in range(1, more + 1) for row in of_second]
        self.events += dense
        return recast

    def _read_layer(self, reads: list[Read], dense: list[int], recast: dict[str, list[int]]) -> list[int]:
        """Read the weights of a layer once; the result is the frees of dense weights that the next one begins with."""
        for read in reads:
            if dense and not read.is_constant:
                self.events += dense
                dense = []
            start = len(self.sizes)
            self._request(read.names, read.sizes)
            dense += [~(start + row) for row in read.freed]
            if read.is_recast:
                recast.setdefault(read.names[read.row], []).append(start + read.row)
        return dense

    def _read_of(self, tensor: ResidentTensor) -> Read:
        packed, is_constant = _packed(tensor), tensor.component == "quantization_constants"
        whole = tensor.packed or not tensor.parameters
        sizes = [tensor.parameters * ITEMSIZE[self.training.dtype]] if packed else []
        if packed and tensor.dtype == "int8":
            sizes.append(tensor.parameters * ITEMSIZE["float16"])
        sizes.append(_size(tensor) if whole else self._as_read(tensor))
        if is_constant and tensor.dtype == "uint8":
            sizes.append(_size(tensor) * ITEMSIZE["float32"])
        row = len(sizes) - 1 if packed else 0
        return Read(
            names=[tensor.name] * len(sizes),
            sizes=[*map(rounded, sizes)],
            row=row,
            freed=tuple(each for each in range(len(sizes)) if each != row),
            is_constant=is_constant,
            is_recast=bool(tensor.parameters) and not tensor.packed and tensor.dtype != self.training.dtype,
        )

    def _recast(
        self, base: list[ResidentTensor], reads: dict[ResidentTensor, Read], rows: dict[str, list[int]]
    ) -> None:
        """Cast weights that were read in half precision and that a model prepared for training keeps in float32."""
        for group, count in layers(base) if rows else ():
            for tensor in [tensor for tensor in group if reads[tensor].is_recast] * count:
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


def _later(events: list[int], rows: int) -> list[int]:
    """The same events with later rows."""
    return [event + rows if event >= 0 else event - rows for event in events]


def _size(tensor: ResidentTensor) -> int:
    return tensor.bytes // tensor.count


def _packed(tensor: ResidentTensor) -> bool:
    """Whether it is a matrix that is quantized while the checkpoint is loaded."""
    return tensor.packed and not tensor.in_checkpoint
