"""The allocations that load a model onto the GPU, before its first step.

Source: transformers/modeling_utils.py (caching_allocator_warmup) and core_model_loading.py, which quantizes matrices
one by one; bitsandbytes.functional.quantize_4bit; peft.utils.other.prepare_model_for_kbit_training, which then empties
the cache; then PEFT's own modules.
"""

from __future__ import annotations

from itertools import chain, groupby
from typing import TYPE_CHECKING, NamedTuple

from calculator.allocator.equal_layers import EqualLayers, shifted_rows
from calculator.allocator.reads import Read, constants_of_4_bits, read_to_4_bits
from calculator.common.dtype import ITEMSIZE, rounded
from calculator.resident.per_parameter import tensors
from calculator.resident.quantization import BOOK
from calculator.stack.releases import release
from calculator.stack.renamed import OLDER_HEADS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.allocator.flat_pool import FlatPool
    from calculator.inputs.training import Training
    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.tensor import ResidentTensor

#: The name of the allocation that makes room for all weights before they are read.
WARMUP = "transformers: caching_allocator_warmup"
#: The bytes of the device that the warmup does not allocate. Source: transformers 5.13, modeling_utils.py,
#: caching_allocator_warmup.
UNTOUCHED = 1.2 * (1 << 30)
#: The first release of PEFT whose prepare_model_for_kbit_training empties the cache.
#: Source: peft 0.20.0, utils/other.py (auto_clear_cache).
EMPTIES_CACHE = (0, 20)
#: The first major release of transformers that reads the next weight before it frees the last one.
#: Source: transformers 5.0, core_model_loading.py.
READS_AHEAD = 5
#: The name of the output head.
_HEAD = "lm_head"


class LoadingOptions(NamedTuple):
    """How the releases of a stack load a model.

    Attributes:
        empties_cache: Whether PEFT empties the cache after it has cast the weights of the loaded model to float32.
        reads_ahead: Whether the next weight is allocated before the last one is freed. Then the block of a freed weight
            does not merge with the free blocks of float32 quantization constants. Before transformers 5, a weight is
            freed when it is quantized. Published peaks in whole blocks (`fms_acceleration`) equal those of a merge.
        head_in_files: The output head's name in checkpoints, which sort it by that name. Source: transformers 5.24,
            conversion_mapping.py, and core_model_loading.py, convert_and_load_state_dict_in_model.
    """

    empties_cache: bool = False
    reads_ahead: bool = True
    head_in_files: str = _HEAD


def loading_options(prepared: PreparedModel) -> LoadingOptions:
    """Return how a run's releases load its model."""
    stack = prepared.stack
    head, _ = OLDER_HEADS.get(prepared.model.model_type or "", (_HEAD, None))
    return LoadingOptions(
        empties_cache=prepared.method.is_cast_to_float32 and release(stack.peft)[:2] >= EMPTIES_CACHE,
        reads_ahead=release(stack.transformers)[0] >= READS_AHEAD,
        head_in_files=head,
    )


_DEFAULT = LoadingOptions()


def layers(resident: Iterable[ResidentTensors]) -> Iterator[tuple[list[ResidentTensor], int]]:
    """Yield consecutive tensors that occur equally often, and how often.

    The tensors of a layer occur once for each layer.
    """
    for (count, _), group in groupby(tensors(resident), lambda tensor: (tensor.count, "*" in tensor.name)):
        yield list(group), count


def one_by_one(resident: Iterable[ResidentTensors]) -> list[ResidentTensor]:
    """Repeat each tensor `count` times, layer by layer."""
    repeated: list[ResidentTensor] = []
    for group, count in layers(resident):
        repeated += group * count
    return repeated


class Loading:
    """The events of loading a model. Event `n` allocates a tensor of `sizes[n]` bytes, and event `~n` frees it.

    Attributes:
        parts: Layers that are read in the same way, and other events as a layer of their own.
        parts_before: The number of parts after which the cache is emptied. None if it is not.
        names: The name of each row's tensor.
        most_reserved: The number of bytes that the load reserves on a device with enough room, and returns before the
            first step.
        loaded: The small and the large pool that the last fast replay of the load left, on an unlimited device.
    """

    __slots__ = (
        "_book",
        "_events",
        "_head",
        "loaded",
        "most_reserved",
        "names",
        "parts",
        "parts_before",
        "sizes",
        "training",
    )

    def __init__(
        self, state: tuple[ResidentTensor, ...], training: Training, options: LoadingOptions = _DEFAULT
    ) -> None:
        """List the events of a load."""
        self._begin(training)
        self._head = options.head_in_files
        base = [tensor for tensor in state if tensor.base]
        warmup = sum(self._as_read(tensor) * tensor.count for tensor in base if tensor.parameters)
        self._request([WARMUP], [rounded(warmup)])
        self.add_events([~0])
        reads = self._reads(base) if options.reads_ahead else {tensor: self._read_of(tensor) for tensor in base}
        read = [tensor for tensor in base if tensor in reads]
        by_name: list[ResidentTensor] = sorted(read, key=self._key)
        self._recast(read, reads, self._read(by_name, reads))
        if options.empties_cache:
            self._empty_cache()
        for group, count in layers(tensor for tensor in state if not tensor.base):
            self._request([tensor.name for tensor in group], [rounded(_size(tensor)) for tensor in group], count)

    def _begin(self, training: Training) -> None:
        self.training = training
        self.most_reserved = 0
        self.sizes: list[int] = []
        self.names: list[str] = []
        self.parts: list[EqualLayers] = []
        self.parts_before: int | None = None
        self._events: list[int] | None = None
        #: The code book that bitsandbytes creates when it quantizes the first constants, until it has.
        self._book: ResidentTensor | None = None
        #: The name of the output head in checkpoints.
        self._head = _HEAD
        self.loaded: tuple[FlatPool, FlatPool] | None = None

    @property
    def events(self) -> list[int]:
        """All events in order."""
        if self._events is None:
            self._events = [event for part in self.parts for event in part.every()]
        return self._events

    def add_events(self, events: Iterable[int]) -> None:
        """Add events at the end."""
        if not self.parts or self.parts[-1].times > 1 or len(self.parts) == self.parts_before:
            self.parts.append(EqualLayers([], 0, 1))
        self.parts[-1].events.extend(events)
        self._events = None

    def _empty_cache(self) -> None:
        """Empty the cache after the events so far."""
        self.parts_before = len(self.parts)

    @property
    def warmup(self) -> int:
        """The bytes that are allocated and freed before the weights are read, if the device is large enough."""
        return self.sizes[0]

    def for_device(self, total: int | None) -> tuple[list[int], list[list[int]]]:
        """Return the sizes, and the events before and after the cache is emptied, on a device with `total` bytes.

        The warmup leaves 1.2 GiB of it untouched.
        """
        first, *rest = self.stages
        if total is None or total - UNTOUCHED >= self.warmup:
            return self.sizes, [first, *rest]
        warmup = rounded(max(0, int(total - UNTOUCHED)))
        return [warmup, *self.sizes[1:]], [first if warmup else first[2:], *rest]

    @property
    def stages(self) -> list[list[int]]:
        """All events in order, in lists between which the cache is emptied."""
        if self.parts_before is None:
            return [self.events]
        count = sum(len(part.events) * part.times for part in self.parts[: self.parts_before])
        return [self.events[:count], self.events[count:]]

    def spare(self, total: int) -> int:
        """Return by how many bytes a device could shrink before the load requests something else."""
        return int(total - UNTOUCHED) - self.warmup

    def _key(self, tensor: ResidentTensor) -> list[str]:
        """Return the key by which weights are sorted before they are read."""
        first, *rest = tensor.name.split(".")
        return [self._head if first == _HEAD else first, *rest]

    def _read(self, base: list[ResidentTensor], reads: dict[ResidentTensor, Read]) -> dict[str, list[int]]:
        """Read the weights in the order of their names. A dense weight is freed after its 4-bit form is complete.

        Return the rows of the tensors that are cast afterwards, by name.
        """
        dense: list[int] = []
        recast: dict[str, list[int]] = {}
        for group, count in layers(base):
            layer = [reads[tensor] for tensor in group]
            # Each further layer is read like the second one, which also frees what is left of the layer before it.
            frees = not all(read.is_constant for read in layer)
            for _ in range(min(count, 1) if frees else count):
                dense = self._read_layer(layer, dense, recast)
            if not frees or count < 2:
                continue
            rows, more = len(self.sizes), count - 2
            self.parts.append(EqualLayers([], 0, 1))
            dense = self._read_layer(layer, dense, recast)
            stride = len(self.sizes) - rows
            self.parts[-1:] = [EqualLayers(self.parts[-1].events, stride, count - 1)]
            self.sizes += self.sizes[rows:] * more
            self.names += self.names[rows:] * more
            dense = shifted_rows(dense, more * stride)
            for name in {tensor.name for tensor in group if reads[tensor].is_recast}:
                of_second = [row for row in recast[name] if row >= rows]
                recast[name] += [row + n * stride for n in range(1, more + 1) for row in of_second]
        self.add_events(dense)
        return recast

    def _read_layer(self, reads: list[Read], dense: list[int], recast: dict[str, list[int]]) -> list[int]:
        """Read the weights of a layer once.

        Return the frees of dense weights with which the next layer begins.
        """
        for read in reads:
            if dense and not read.is_constant:
                self.add_events(dense)
                dense = []
            start = self._add_read(read)
            dense += [~(start + row) for row in read.freed]
            if read.is_recast:
                recast.setdefault(read.names[read.row], []).append(start + read.row)
        return dense

    def _add_read(self, read: Read) -> int:
        """Add the requests of reading a tensor. Return the first of their rows.

        The code book has the row before them, so that the rows of all layers are equally far from each other.
        """
        start = len(self.sizes)
        events = shifted_rows(read.events, start)
        if read.book is not None and self._book is not None:
            self.sizes.append(rounded(_size(self._book)))
            self.names.append(self._book.name)
            self._book, start = None, start + 1
            events = shifted_rows(read.events, start)
            events.insert(read.book, start - 1)
        self.sizes += read.sizes
        self.names += read.names
        self.add_events(events)
        return start

    def _reads(self, base: list[ResidentTensor]) -> dict[ResidentTensor, Read]:
        """Return how tensors are read. Constants of 4-bit weights are read with their weights."""
        of_4_bits = constants_of_4_bits(base)
        weights = {tensor.name: tensor for tensor in base if tensor.name in of_4_bits and _packed(tensor)}
        constants = {constant for name in weights for constant in of_4_bits[name].values()}
        self._book = next((tensor for tensor in base if weights and tensor.name == BOOK), None)
        found: dict[ResidentTensor, Read] = {}
        for tensor in base:
            if tensor.name in weights:
                dense = tensor.parameters * ITEMSIZE[self.training.dtype]
                found[tensor] = read_to_4_bits(tensor, dense, _size(tensor), of_4_bits[tensor.name])
            elif tensor not in constants and tensor is not self._book:
                found[tensor] = self._read_of(tensor)
        return found

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
            events=range(len(sizes)),
            freed=tuple(index for index in range(len(sizes)) if index != row),
            is_constant=is_constant,
            is_recast=bool(tensor.parameters) and not tensor.packed and tensor.dtype != self.training.dtype,
        )

    def _recast(
        self, base: list[ResidentTensor], reads: dict[ResidentTensor, Read], rows: dict[str, list[int]]
    ) -> None:
        """Cast weights that were read in half precision but that a model prepared for training keeps in float32."""
        left = {name: iter(of_name) for name, of_name in rows.items()}
        for group, count in layers(base) if rows else ():
            cast = [tensor for tensor in group if reads[tensor].is_recast]
            names, sizes = [tensor.name for tensor in cast], [rounded(_size(tensor)) for tensor in cast]
            start = len(self.sizes)
            self.names += names * count
            self.sizes += sizes * count
            freed = (~next(left[name]) for name in names * count)
            self.add_events(chain.from_iterable(zip(range(start, len(self.sizes)), freed, strict=True)))

    def _as_read(self, tensor: ResidentTensor) -> int:
        """Return a parameter's bytes when it is read, in the checkpoint's dtype or in its quantized form."""
        if not _packed(tensor):
            return tensor.parameters * ITEMSIZE[self.training.dtype]
        return tensor.parameters if tensor.dtype == "int8" else tensor.parameters // 2

    def _request(self, names: list[str], sizes: list[int], times: int = 1) -> None:
        start = len(self.sizes)
        self.sizes += sizes * times
        self.names += names * times
        events = range(start, start + len(sizes))
        if times > 1:
            self.parts.append(EqualLayers([*events], len(sizes), times))
            self._events = None
        else:
            self.add_events(events)


def _size(tensor: ResidentTensor) -> int:
    return tensor.bytes // tensor.count


def _packed(tensor: ResidentTensor) -> bool:
    """Return whether a tensor is a matrix that is quantized while the checkpoint is loaded."""
    return tensor.packed and not tensor.in_checkpoint
