"""The allocations that load a model which accelerate broadcasts to the GPUs, one weight after the other.

A process other than the first has two whole weights at a time, because the buffer of the next weight is allocated
before that of the last is freed. `distribute_tensor` pads the parts of a weight that are shorter than the first part.
`load_state_dict` copies a GPU's own shorter parts again. The last GPU has the most of these, so the load is that of the
last GPU.

Source: accelerate 1.15, utils/fsdp_utils.py (fsdp2_load_full_state_dict); torch/distributed/tensor/placement_types.py
(Shard._split_tensor, _shard_tensor); torch/distributed/fsdp/_fully_shard/_fsdp_param.py (reset_sharded_param).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.allocator.host_loading import HostLoading
from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE, allocated
from calculator.inputs.sharding import FSDPConfig
from calculator.methods.compared import is_second
from calculator.sharding.fsdp.parameters import shard_shape, stored
from calculator.sharding.parameter_order import state_dict

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.tensor import ResidentTensor
    from calculator.training_step.resident_state import ResidentState


def broadcasts(prepared: PreparedModel) -> bool:
    """Return whether accelerate broadcasts the weights. It does not broadcast a model with 4-bit weights."""
    config = prepared.training.fsdp_config or FSDPConfig()
    return config.cpu_ram_efficient_loading and not prepared.method.facts.quantizes_base


class LoadedByBroadcast(HostLoading):
    """The load of a model on the last GPU, which keeps its shards."""

    __slots__ = ("_count", "_tied")

    def __init__(self, resident: ResidentState) -> None:
        prepared = resident.prepared
        super().__init__(prepared)
        self._count, self._tied = prepared.device.count, prepared.model.tied
        whole: int | None = None
        shards: dict[int, tuple[str, ResidentTensor]] = {}
        for name, tensor in state_dict(prepared, partial(stored, method=prepared.method, training=prepared.training)):
            added = self._add(tensor.name, _bytes(tensor.shape, tensor))
            self._free(() if whole is None else (whole,))
            shards[self._shard(tensor)] = name, tensor
            whole = added
        if not self._offloads:
            shards = self._loaded(shards)
        self._free(() if whole is None else (whole,))
        self._stay(buffer for buffer in resident.whole if not buffer.parameters and not is_second(buffer))
        if not self._offloads:
            self._free(row for row, (name, _) in shards.items() if name in self._tied)
        self._stay(resident_tensor for resident_tensor in resident.tensors if is_second(resident_tensor))

    def _shard(self, tensor: ResidentTensor) -> int:
        """Pad the parts that are shorter than the first one, and receive this GPU's part."""
        size = self._shard_size(tensor)
        padded = [self._add(f"{tensor.name}: padded part", size) for _ in range(self._shorter(tensor))]
        row = self._add(f"{tensor.name}: shard", size)
        self._free((*padded, *((row,) if self._offloads else ())))
        return row

    def _loaded(self, shards: dict[int, tuple[str, ResidentTensor]]) -> dict[int, tuple[str, ResidentTensor]]:
        """Copy the shorter parts to padded ones. The original parts are freed after the last copy.

        FSDP knows a tied weight by one of its modules. The other module keeps the part that it received until weights
        are tied again.
        """
        loaded: dict[int, tuple[str, ResidentTensor]] = {}
        for row, (name, tensor) in shards.items():
            copied = self._shorter(tensor) and name not in self._tied
            loaded[self._add(f"{tensor.name}: shard", self._shard_size(tensor)) if copied else row] = name, tensor
        self._free(row for row in shards if row not in loaded)
        return loaded

    def _shorter(self, tensor: ResidentTensor) -> int:
        """Return the number of GPUs whose part is shorter than the first GPU's."""
        rows = int(tensor.shape[0])
        return self._count - rows // -(-rows // self._count)

    def _shard_size(self, tensor: ResidentTensor) -> int:
        return _bytes(shard_shape(tensor.shape, self._count), tensor)


def _bytes(shape: Shape, tensor: ResidentTensor) -> int:
    return allocated(elements(shape), ITEMSIZE[tensor.dtype])
