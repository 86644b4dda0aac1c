"""The CUDA streams on which a sharding allocates, each of which has blocks of its own in PyTorch's caching allocator.

A block belongs to the stream that was current when it was allocated, and is cached for that stream alone. FSDP2 casts
and gathers shards on one stream and reduces gradients on another; gathered weights and the inputs of reductions are
allocated where the model computes. It calls no `record_stream`: it keeps references until the other stream has waited,
so that a block is free when its tensor is. DistributedDataParallel allocates its buckets where the model computes.
DeepSpeed's streams have the same places as FSDP2's: with `overlap_comm`, stage 3 gathers on one, and all stages reduce
on another; without it, all is where the model computes (`zero/replayed.py`). It calls `record_stream`, which delays
when a block is free by a time that is not known: it counts as free when its tensor is.

Source: torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py (foreach_all_gather, foreach_all_gather_copy_out,
foreach_reduce) and _fsdp_param_group.py (FSDPCommContext.lazy_init); torch/csrc/distributed/c10d/reducer.cpp
(initialize_buckets).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.sharding.fsdp.units import (
    ALL_GATHER_OUTPUT,
    CAST_SHARDS,
    GRADIENT_SHARDS,
    REDUCE_SCATTER_OUTPUT,
    UPLOADED,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.engine.tape import Allocation
    from calculator.inputs.sharding import ShardingName

#: The streams that shardings allocate on, in FSDP2's words; the first is that of the model's computation.
STREAMS = ("", "all_gather_copy_in_stream", "reduce_scatter_stream")

#: How the names of tensors end that are not allocated on the first stream, and the numbers of their streams.
ALLOCATED_ON: dict[ShardingName, dict[str, int]] = {
    "fsdp": {CAST_SHARDS: 1, UPLOADED: 1, ALL_GATHER_OUTPUT: 1, REDUCE_SCATTER_OUTPUT: 2, GRADIENT_SHARDS: 2},
}


def streams_of(rows: Sequence[Allocation], sharding: ShardingName) -> Sequence[int]:
    """The number of each row's stream; empty where all are on the first."""
    endings = ALLOCATED_ON.get(sharding)
    if endings is None:
        return ()
    known: dict[str, int] = {}
    for name, *_ in rows:
        if name not in known:
            known[name] = next((number for ending, number in endings.items() if name.endswith(ending)), 0)
    return [known[row[0]] for row in rows]
