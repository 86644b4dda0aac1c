"""The flat tensors in which DistributedDataParallel broadcasts a model's parameters and buffers.

When it is made, DDP broadcasts all of them from the first rank. It broadcasts the buffers again before a forward pass,
if the pass before was one whose gradients were reduced. Tensors of one dtype are copied into a flat tensor, up to a
size. A single tensor is broadcast without a copy.

Source: torch/nn/parallel/distributed.py (__init__, _pre_forward, _post_forward, _sync_buffers, broadcast_bucket_size);
torch/distributed/utils.py (_sync_module_states);
torch/csrc/distributed/c10d/comm.cpp (broadcast_coalesced); torch/csrc/utils/tensor_flatten.h (flatten_dense_tensors).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict, deque
from itertools import accumulate, chain, compress
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import elements, named
from calculator.architecture.model import Stack
from calculator.common.dtype import ITEMSIZE
from calculator.resident.tensor import ResidentTensor
from calculator.resident.tensors import layer_buffers, outer_buffers
from calculator.sharding.ddp import Bucket
from calculator.sharding.parameter_order import named_parameters

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from calculator.architecture.dimension import Dim
    from calculator.architecture.model import Layer
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tape, Tensor
    from calculator.methods.prepared_model import PreparedModel

#: The bytes at which a flat tensor is complete (torch/nn/parallel/distributed.py, broadcast_bucket_size).
LIMIT = 250 * 1024 * 1024

#: The number of broadcasts at once (comm.cpp, max_in_flight).
IN_FLIGHT = 2

NAME = "DistributedDataParallel: buffers, joined"

#: The label of the place in a micro-batch where buffers are broadcast, or would be if the pass before had reduced.
MARK = "broadcasts"

#: The elements and the dtype of a buffer.
_Size = tuple["Dim | int", "DType"]
_ELEMENTS, _DTYPE = itemgetter(0), itemgetter(1)


class _Joined(NamedTuple):
    """Buffers of one broadcast: the place of the first one in the model, their number, and their elements."""

    first: int = 0
    number: int = 0
    elements: int = 0

    def with_next(self, place: int, size: int) -> _Joined:
        return _Joined(self.first if self.number else place, self.number + 1, self.elements + size)


#: The flat tensors in the order of their broadcasts. None stands for a single buffer, which is not copied.
Broadcasts = tuple[Bucket | None, ...]


def broadcasts(prepared: PreparedModel) -> Broadcasts:
    """Return the broadcasts of the model's buffers before a forward pass."""
    sizes = [*_sizes(prepared)]
    joined_by_dtype: defaultdict[DType, _Joined] = defaultdict(_Joined)
    for place, (size, dtype) in enumerate(sizes):
        joined_by_dtype[dtype] = joined_by_dtype[dtype].with_next(place, size)
    if all(joined.elements * ITEMSIZE[dtype] < LIMIT for dtype, joined in joined_by_dtype.items()):
        return tuple(_bucket(joined, dtype) for dtype, joined in joined_by_dtype.items())
    return _coalesced(sizes)


def construction_broadcasts(prepared: PreparedModel) -> Broadcasts:
    """Return the broadcasts of parameters and buffers when DDP is made."""
    parts = named_parameters(prepared)
    part_sizes = {id(part): [*map(_stored_size, part)] for part in parts}
    return _coalesced([*chain.from_iterable(map(part_sizes.__getitem__, map(id, parts))), *_sizes(prepared)])


def broadcast(tape: Tape, flat: Broadcasts) -> None:
    """Run the broadcasts, and mark their place. A flat tensor is freed before the second one after it is allocated."""
    tape.mark(MARK)
    in_flight: deque[Tensor | None] = deque()
    for bucket in flat:
        if len(in_flight) == IN_FLIGHT:
            in_flight.popleft()
        shape = () if bucket is None else (named(bucket.elements, "elements"),)
        in_flight.append(None if bucket is None else tape.new(shape, bucket.dtype, NAME, component="workspace"))
    while in_flight:
        in_flight.popleft()


def live_flat_tensors(prepared: PreparedModel) -> tuple[ResidentTensor, ...]:
    """Return the flat tensors that are alive at once, where they are the largest."""
    flat = broadcasts(prepared)
    every = [flat[start : start + IN_FLIGHT] for start in range(max(len(flat) - 1, 1))]
    largest = max(every, key=lambda buckets: sum(bucket.bytes for bucket in buckets if bucket is not None))
    return tuple(
        ResidentTensor(
            name=NAME,
            shape=(named(bucket.elements, "elements"),),
            dtype=bucket.dtype,
            component="workspace",
            base=False,
        )
        for bucket in largest
        if bucket is not None
    )


def _coalesced(sizes: Sequence[_Size]) -> Broadcasts:
    """Join tensors in order until their bytes reach the limit, separately for each dtype."""
    joined: list[tuple[_Joined, DType]] = []
    counts, dtypes = [*map(_ELEMENTS, sizes)], [*map(_DTYPE, sizes)]
    for dtype in dict.fromkeys(dtypes):
        places = [*compress(range(len(dtypes)), map(dtype.__eq__, dtypes))]
        filled = [*accumulate(map(counts.__getitem__, places))]
        before = start = 0
        while start < len(filled):
            last = min(bisect_left(filled, before - (-LIMIT // ITEMSIZE[dtype]), start), len(filled) - 1)
            joined.append((_Joined(places[start], last + 1 - start, filled[last] - before), dtype))
            before, start = filled[last], last + 1
    return tuple(_bucket(bucket, dtype) for bucket, dtype in sorted(joined))


def _bucket(joined: _Joined, dtype: DType) -> Bucket | None:
    return Bucket(joined.elements, dtype) if joined.number > 1 else None


def _sizes(prepared: PreparedModel) -> Iterator[_Size]:
    """Yield the buffers in the order of `named_buffers()`.

    What a method adds for all modules is in the first module that refers to it.
    """
    model = prepared.model
    shared = [parameter for parameter in prepared.method.added(model, prepared.given) if _is_buffer(parameter)]
    outer = [*outer_buffers(prepared)]
    for part in model.parts:
        if shared and any(prepared.module_spec(path, module).added for path, module in _modules(part)):
            yield from _tensor_sizes(shared)
            shared = []
        if isinstance(part, Stack):
            layer_sizes = {id(layer): [*_layer_sizes(prepared, part, layer)] for layer, _ in part.distinct}
            for layer in part.layers if any(layer_sizes.values()) else ():
                yield from layer_sizes[id(layer)]
        else:
            yield from _method_buffers(prepared, part.name, part)
            yield from _tensor_sizes(buffer for buffer in outer if buffer.name.startswith(f"{part.name}."))
            outer = [buffer for buffer in outer if not buffer.name.startswith(f"{part.name}.")]
    yield from _tensor_sizes(outer)


def _stored_size(parameter: ResidentTensor) -> _Size:
    """Return the number of stored elements and their dtype. Elements of 4-bit weights are packed."""
    if parameter.packed:
        return parameter.bytes // parameter.count // ITEMSIZE[parameter.dtype], parameter.dtype
    return elements(parameter.shape), parameter.dtype


def _is_buffer(added: ResidentTensor) -> bool:
    return added.component == "adapter_weights" and not added.parameters


def _modules(part: Module | Stack) -> Iterator[tuple[str, Module]]:
    """Yield the modules of a part with their paths, those of each kind of layer once."""
    if not isinstance(part, Stack):
        yield part.name, part
        return
    for layer, _ in part.distinct:
        yield from _in_layer(part, layer)


def _in_layer(stack: Stack, layer: Layer) -> Iterator[tuple[str, Module]]:
    for module in layer.modules:
        yield module.under(f"{stack.name}.*"), module


def _layer_sizes(prepared: PreparedModel, stack: Stack, layer: Layer) -> Iterator[_Size]:
    for path, module in _in_layer(stack, layer):
        yield from _method_buffers(prepared, path, module)
    yield from _tensor_sizes(layer_buffers(prepared, stack.name, layer, 1))


def _method_buffers(prepared: PreparedModel, path: str, module: Module) -> Iterator[_Size]:
    """Yield the buffers that the method adds to a module."""
    for parameter in prepared.module_spec(path, module).added:
        if parameter.buffer:
            yield elements(parameter.view or parameter.shape), parameter.dtype


def _tensor_sizes(tensors: Iterable[ResidentTensor]) -> Iterator[_Size]:
    for tensor in tensors:
        yield from [(elements(tensor.shape), tensor.dtype)] * tensor.count
