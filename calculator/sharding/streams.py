"""The CUDA streams on which a sharding allocates. Each stream has its own blocks in PyTorch's caching allocator.

A block belongs to the stream that was current when it was allocated, and is cached for that stream alone. FSDP2 casts
and gathers shards on one stream and reduces gradients on another. Gathered weights and the inputs of reductions are
allocated on the stream of the model's computation. FSDP2 calls no `record_stream`. It keeps references until the other
stream has waited, so a block is free when its tensor is. DistributedDataParallel allocates its buckets on the stream of
the model's computation. DeepSpeed's streams correspond to FSDP2's. With `overlap_comm`, stage 3 gathers on one stream
and all stages reduce on another. Without it, everything runs on the stream of the model's computation
(`zero/replayed.py`). DeepSpeed calls `record_stream`, which delays the free of a block by an unknown time, and so
does TRL's manager of offloaded activations. The block counts as free when its tensor is.

On a stub of a GPU, the real libraries reserve the same on each of these streams (validation/measure/sharded.py).

Source: torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py (foreach_all_gather, foreach_all_gather_copy_out,
foreach_reduce) and _fsdp_param_group.py (FSDPCommContext.lazy_init); torch/csrc/distributed/c10d/reducer.cpp
(initialize_buckets).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.offloading import RETURNED
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

#: The streams that shardings allocate on, in FSDP2's words. The first one is that of the model's computation.
STREAMS = ("", "all_gather_copy_in_stream", "reduce_scatter_stream")

#: The name suffixes of tensors that are not allocated on the first stream, and the numbers of their streams.
ALLOCATED_ON: dict[ShardingName, dict[str, int]] = {
    "fsdp": {CAST_SHARDS: 1, UPLOADED: 1, ALL_GATHER_OUTPUT: 1, REDUCE_SCATTER_OUTPUT: 2, GRADIENT_SHARDS: 2},
}

#: The number of the stream on which TRL's manager copies saved tensors back from the host.
OF_OFFLOADING = len(STREAMS)


def streams_of(rows: Sequence[Allocation], sharding: ShardingName, *, offloads: bool = False) -> Sequence[int]:
    """Return the number of each row's stream, or an empty list if all rows are on the first stream.

    `offloads`: whether saved tensors are offloaded.
    """
    endings = ALLOCATED_ON.get(sharding, {})
    if offloads:
        endings = {**endings, RETURNED: OF_OFFLOADING}
    if not endings:
        return ()
    numbers: dict[str, int] = {}
    for name, *_ in rows:
        if name not in numbers:
            numbers[name] = next((number for ending, number in endings.items() if name.endswith(ending)), 0)
    return [numbers[row[0]] for row in rows]
