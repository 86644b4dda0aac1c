"""The peak bytes on a GPU while a model that is loaded on the host is sharded over several GPUs.

Sources: accelerate 1.15, utils/fsdp_utils.py (fsdp2_prepare_model), whose locals refer to the whole weights of the
embeddings and of the output head, and to the whole last parameter, to its end; PyTorch 2.13,
torch/distributed/fsdp/_fully_shard/_fully_shard.py (fully_shard), which moves a unit to the GPU, and _fsdp_param.py
(_init_sharded_param); deepspeed 0.19.8, runtime/engine.py (_configure_distributed_model),
runtime/zero/stage_1_and_2.py (__init__, initialize_optimizer_states) and, of stage 3,
runtime/zero/partition_parameters.py (_partition_param) and stage3.py (__init__).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate, repeat
from operator import itemgetter
from typing import TYPE_CHECKING

from calculator.allocator.sharded_loading import CODE_BOOK, with_referred
from calculator.common.dtype import ITEMSIZE, allocated
from calculator.inputs.sharding import offloads_optimizer
from calculator.run.zero_init_loading import LoadingUnderZeroInit, gathered
from calculator.sharding.fsdp.parameters import is_sharded, shard
from calculator.sharding.fsdp.units import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.tensor import ResidentTensor
    from calculator.sharding.zero.state import FlatState
    from calculator.sharding.zero3.parameters import Partitioned
    from calculator.sharding.zero3.state import PartitionedState
    from calculator.training_step.resident_state import ResidentState

#: The tensors alive at a moment: names and bytes.
Alive = list[tuple[str, int]]


def sharding_moments(resident: ResidentState) -> Iterator[tuple[Alive, str]]:
    """Yield the moments that may be the peak: the tensors alive, and the operation."""
    if resident.flat is not None:
        return _flattened(resident, resident.flat)
    if resident.partitioned is not None:
        return _stage_3_moments(resident, resident.partitioned)
    return _fully_sharded(resident)


def _fully_sharded(resident: ResidentState) -> Iterator[tuple[Alive, str]]:
    """Yield the moments after each of FSDP's units is sharded, before its whole weights are freed.

    The state dict of the whole model lives to the end. For a 4-bit model, it is on the GPU, with copies of the code
    books of nested constants (bitsandbytes 0.50, functional.py, QuantState.as_dict).
    """
    prepared, offloads = resident.prepared, resident.host_bytes is not None
    if prepared.method.facts.quantizes_base:
        sharded = [tensor for tensor in resident.whole if is_sharded(tensor)]
        books = [(f"{tensor.name}: copy", tensor.bytes) for tensor in resident.whole if tensor.name.endswith(CODE_BOOK)]
        yield [*_named(resident.whole), *books, *_shards(sharded, prepared)], "fully_shard"
        return
    buffers = [tensor for tensor in resident.whole if not tensor.parameters]
    kept: Alive = []
    for unit, referred in with_referred(prepared):
        unit_shards = [_one(parameter) for parameter in unit.parameters]
        shards = _shards(unit_shards, prepared)
        uploaded = [max(shards, key=itemgetter(1))] if offloads and shards else shards
        moved = buffers if unit.name == ROOT else []
        yield [*kept, *_named([*unit_shards, *moved]), *uploaded], f"fully_shard: {unit.name}"
        kept += [] if offloads else shards
        kept += _named(unit_shard for unit_shard in unit_shards if unit_shard.name in referred)


def _shards(whole: Iterable[ResidentTensor], prepared: PreparedModel) -> Alive:
    return [(f"{tensor.name}: shard", shard(tensor, prepared.device.count).bytes) for tensor in whole]


def _flattened(resident: ResidentState, state: FlatState) -> Iterator[tuple[Alive, str]]:
    """Yield the moments at which DeepSpeed flattens a group's weights, casts master weights, and creates zeros.

    The zeros are for gradients.
    """
    groups = [group.names for group in state.partitions.groups]
    whole = [*_named(resident.tensors)]
    flat: Alive = []
    casts = state.dtype != "float32"
    for number, (names, weights) in enumerate(zip(groups, state.flat_weights, strict=True)):
        flat.append((weights.name, weights.bytes))
        yield [*whole, *flat], "flatten_dense_tensors_aligned"
        whole = [tensor for tensor in whole if tensor[0] not in names]
        master = state.like_partition(number, "master weights")
        copied = state.like_partition(number, "weights of the partition", state.dtype)
        yield [*whole, *flat, *_named([copied, *([master] if casts else [])])], "master weights"
        flat += [] if offloads_optimizer(state.zero) else _named([master])
    if not offloads_optimizer(state.zero):
        zeros = [state.like_partition(number, "zeros for gradients") for number in range(len(groups))]
        yield [*whole, *flat, *_named(zeros)], "initialize_optimizer_states"


def _stage_3_moments(resident: ResidentState, state: PartitionedState) -> Iterator[tuple[Alive, str]]:
    """Yield the moments of loading a model for stage 3.

    Under deepspeed.zero.Init, only adapters are partitioned later.
    """
    buffers = [*_named(tensor for tensor in resident.tensors if not tensor.parameters)]
    parts, later = _partitions(state), state.all_parameters
    if state.is_built_partitioned:
        yield from LoadingUnderZeroInit(state).moments()
        base = {tensor.name for tensor in state.tensors if tensor.base}
        before = [part for part, row in zip(parts, state.all_parameters, strict=True) if row.key.name in base]
        parts = [part for part, row in zip(parts, state.all_parameters, strict=True) if row.key.name not in base]
        buffers, later = [*buffers, *before], [row for row in state.all_parameters if row.key.name not in base]
    if later:
        yield _partitioned(buffers, parts, later)
    yield from _set_up(resident, state)


def _partitioned(kept: Alive, parts: Alive, parameters: list[Partitioned]) -> tuple[Alive, str]:
    """Return the peak moment while stage 3 partitions parameters one by one that are whole on the GPU."""
    whole = [(parameter.key.name, parameter.whole) for parameter in parameters]
    added = accumulate(size for _, size in parts)
    freed = accumulate((size for _, size in whole), initial=0)
    alive = [more - less for more, less in zip(added, freed, strict=False)]
    at = max(range(len(alive)), key=alive.__getitem__)
    return [*kept, *parts[: at + 1], *whole[at:]], f"partition: {whole[at][0]}"


def _partitions(state: PartitionedState) -> Alive:
    """Return the partition of each parameter on the GPU. There are none if parameters are offloaded."""
    if state.sizes.offloads_parameters:
        return [(f"{row.key.name}: partition", 0) for row in state.all_parameters]
    return [
        (f"{row.key.name}: partition", allocated(row.partition, ITEMSIZE[row.dtype])) for row in state.all_parameters
    ]


def _set_up(resident: ResidentState, state: PartitionedState) -> Iterator[tuple[Alive, str]]:
    """Yield the moments while stage 3 creates master weights, zero gradients, its bucket and gradient partitions.

    Then it gathers each trained parameter to add hooks to it.
    """
    kept = [*_named(tensor for tensor in resident.tensors if not tensor.parameters), *_named(state.weights)]
    numbers = range(len(state.sub_groups))
    masters: Alive = []
    if not state.sizes.offloads_optimizer:
        kept.append(("inf_or_nan_tracker", 512))
        before: Alive = []
        for master in map(state.like_sub_group, numbers, repeat("master weights")):
            # A master is a cast copy of the partition.
            copied = [] if state.dtype == "float32" else [(f"{master.name}: cast", master.bytes)]
            yield [*kept, *masters, *before, *copied], "_create_fp32_partitions"
            masters += _named([master])
            yield [*kept, *masters, *copied], "_create_fp32_partitions"
            before = copied
        largest = max((state.like_sub_group(number, "zeros for gradients") for number in numbers), key=_bytes)
        yield [*kept, *masters, *_named([largest])], "initialize_optimizer_states"
    kept += [*masters, *_named(state.buckets)]
    largest_parameter = max((row for row in state.all_parameters if row.trained), key=_gathered_bytes)
    yield (
        [*kept, *gathered([(largest_parameter.key.name, largest_parameter)], state)],
        "create_reduce_and_remove_grad_hooks",
    )


def _bytes(tensor: ResidentTensor) -> int:
    return tensor.bytes


def _gathered_bytes(parameter: Partitioned) -> int:
    return parameter.with_padding


def _named(tensors: Iterable[ResidentTensor]) -> Alive:
    return [(tensor.name, tensor.bytes) for tensor in tensors]


def _one(tensor: ResidentTensor) -> ResidentTensor:
    return replace(tensor, count=1, bytes=tensor.bytes // tensor.count)
