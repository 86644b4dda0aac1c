"""The allocations that load a model which FSDP2 shards: on the host, or in 4 bits on the GPU.

Source: accelerate/utils/fsdp_utils.py (fsdp2_prepare_model); torch/distributed/fsdp/_fully_shard/_fully_shard.py
(fully_shard) and _fsdp_init.py (_move_states_to_device), which move a unit's whole parameters to the GPU one by one,
and _fsdp_param.py (_init_sharded_param), which copies this rank's part of each. The whole parameters are freed when
`fully_shard` returns, except the weights of the embeddings and of the head and the last parameter, which locals of
fsdp2_prepare_model refer to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.allocator.broadcast_loading import LoadedByBroadcast, broadcasts
from calculator.allocator.host_loading import HostLoading
from calculator.allocator.loading import Loading, loading_options, one_by_one
from calculator.allocator.replicated_loading import ReplicatedLoading
from calculator.allocator.zero_loading import FlattenedLoading, PartitionedLoading
from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE, allocated, rounded
from calculator.methods.compared import is_second
from calculator.sharding.fsdp.parameters import is_sharded, shard_shape
from calculator.sharding.fsdp.units import ROOT, last_parameter, layer_unit, outer_units, tower_stacks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.tensor import ResidentTensor
    from calculator.sharding.fsdp.units import UnitParameters
    from calculator.training_step.resident_state import ResidentState

#: The suffix of the name of the code book of nested constants.
CODE_BOOK = ".nested_code"


def loading_of(resident: ResidentState) -> Loading:
    """Return the load of a run."""
    prepared = resident.prepared
    if resident.flat is not None:
        return FlattenedLoading(resident, resident.flat)
    if resident.partitioned is not None:
        return PartitionedLoading(resident, resident.partitioned)
    if prepared.device.sharding != "fsdp":
        known, replicated = resident.known, prepared.device.sharding == "ddp"
        options = loading_options(prepared)
        key = "replicated loading" if replicated else "loading", options
        if key not in known:
            tensors, training = resident.tensors, prepared.training
            known[key] = ReplicatedLoading(resident) if replicated else Loading(tensors, training, options)
        found: Loading = known[key]
        return found
    if broadcasts(prepared):
        return LoadedByBroadcast(resident)
    return LoadedWhole(resident) if prepared.method.facts.quantizes_base else LoadedOnHost(resident)


def in_order(prepared: PreparedModel) -> Iterator[UnitParameters]:
    """Yield FSDP2's units in the order in which they are sharded: layers, embeddings, the tail, and the rest."""
    outer, model = outer_units(prepared), prepared.model
    for stack in (*tower_stacks(model), model.decoder):
        yield from (layer_unit(prepared, layer, stack.name) for layer in stack.layers)
    yield from (unit for unit in (outer.embeddings, outer.tail, outer.root) if unit is not None)


def with_referred(prepared: PreparedModel) -> Iterator[tuple[UnitParameters, list[str]]]:
    """Yield the units with the names of the whole parameters that locals refer to until all units are sharded.

    The last layer has the last parameter if no module comes after the layers. A trained copy of a module returns its
    own weight (peft, utils/other.py, ModulesToSaveWrapper).
    """
    model, units, last = prepared.model, [*in_order(prepared)], last_parameter(prepared)
    outer = [model.embedding, *([model.output] if outer_units(prepared).has_head else [])]
    copies = [prepared.module_spec(module.name, module).copied for module in outer]
    weights = [
        ".".join(filter(None, (module.name, copy, "weight"))) for module, copy in zip(outer, copies, strict=True)
    ]
    having = [number for number, unit in enumerate(units) if any(tensor.name == last for tensor in unit.parameters)]
    for number, unit in enumerate(units):
        yield unit, [*weights, last] if number in having[-1:] else weights


class LoadedOnHost(HostLoading):
    """A model that is read into host memory.

    The whole parameters of each unit are on the GPU until they are sharded.
    """

    __slots__ = ()

    def __init__(self, resident: ResidentState) -> None:
        prepared = resident.prepared
        super().__init__(prepared)
        kept: list[int] = []
        for unit, referred in with_referred(prepared):
            whole = [(parameter, self._add(parameter.name, _size(parameter))) for parameter in unit.parameters]
            if unit.name == ROOT:
                self._stay(tensor for tensor in resident.whole if not tensor.parameters and not is_second(tensor))
            self._shard(unit.parameters, prepared.device.count)
            self._free(row for parameter, row in whole if parameter.name not in referred)
            kept += [row for parameter, row in whole if parameter.name in referred]
        self._free(kept)
        self._stay(tensor for tensor in resident.tensors if is_second(tensor))

    def _shard(self, parameters: Iterable[ResidentTensor], count: int) -> None:
        for parameter in parameters:
            row = self._add(parameter.name, _shard_size(parameter, count))
            if self._offloads:
                self._free((row,))


class LoadedWhole(Loading):
    """A 4-bit model, which is whole on the GPU until all of it is sharded, because accelerate keeps its state dict.

    The state dict has copies of nested constants' code books (bitsandbytes, functional.py, QuantState.as_dict).
    """

    __slots__ = ()

    def __init__(self, resident: ResidentState) -> None:
        prepared = resident.prepared
        super().__init__(resident.whole, prepared.training, loading_options(prepared))
        sharded = {tensor.name for tensor in resident.whole if is_sharded(tensor)}
        freed = {~event for event in self.events if event < 0}
        whole = [row for row, name in enumerate(self.names) if row not in freed and name in sharded]
        books = one_by_one(tensor for tensor in resident.whole if tensor.name.endswith(CODE_BOOK))
        start = len(self.sizes)
        self._request([book.name for book in books], [rounded(book.bytes // book.count) for book in books])
        copies = range(start, len(self.sizes))
        for unit in in_order(prepared):
            sizes = [_shard_size(parameter, prepared.device.count) for parameter in unit.parameters]
            self._request([parameter.name for parameter in unit.parameters], sizes)
        self.add_events(~row for row in (*whole, *copies))


def _size(tensor: ResidentTensor) -> int:
    return allocated(elements(tensor.shape), ITEMSIZE[tensor.dtype])


def _shard_size(tensor: ResidentTensor, count: int) -> int:
    return allocated(elements(shard_shape(tensor.shape, count)), ITEMSIZE[tensor.dtype])
