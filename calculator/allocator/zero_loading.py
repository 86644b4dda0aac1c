"""The allocations that load a model and create DeepSpeed's tensors from it, before the first step.

DeepSpeed empties the cache before it flattens each group of trained weights, and before stage 3 copies its partitions
from the host to one tensor. Everything that is freed before that is left out.

Sources: deepspeed 0.19.8, runtime/zero/stage_1_and_2.py (DeepSpeedZeroOptimizer.__init__, initialize_optimizer_states),
runtime/zero/stage3.py (_create_fp16_partitions_with_defragmentation, _create_fp32_partitions,
initialize_optimizer_states) and runtime/zero/utils.py (defragment).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.allocator.host_loading import HostLoading
from calculator.allocator.loading import Loading, loading_options, one_by_one
from calculator.allocator.segments import SMALL_SEGMENT, segment_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.tensor import ResidentTensor
    from calculator.sharding.zero.state import FlatState
    from calculator.sharding.zero3.state import PartitionedState
    from calculator.training_step.resident_state import ResidentState


class FlattenedLoading(HostLoading):
    """A load for stages 1 and 2.

    Frozen weights stay whole, and the trained weights of each group become one flat tensor.

    `most_reserved` counts the weights and the flat tensors together. A GPU without that much room flattens on the
    host.
    """

    __slots__ = ()

    def __init__(self, resident: ResidentState, state: FlatState) -> None:
        super().__init__(resident.prepared)
        groups, on_host = [group.names for group in state.partitions.groups], state.host_bytes is not None
        emptied = frozenset[str]().union(*groups[:-1])
        loaded = tuple(tensor for tensor in resident.tensors if not (tensor.trained and tensor.name in emptied))
        last = self._load(resident.prepared, loaded, groups[-1])
        for number, weights in enumerate(state.flat_weights):
            self._stay([weights])
            if number == len(groups) - 1:
                self._free(last)
            partition = state.like_partition(number, "weights of the partition", state.dtype)
            copied = self._allocate([partition] if state.dtype != "float32" or on_host else [])
            self._stay([] if on_host else [state.like_partition(number, "master weights")])
            self._free(copied)
        zeros = (state.like_partition(number, "zeros for gradients") for number in range(len(groups)))
        self._free(self._allocate(() if on_host else zeros))
        self._stay(state.divided[-1:])
        whole = -(-sum(tensor.bytes for tensor in resident.tensors) // SMALL_SEGMENT) * SMALL_SEGMENT
        self.most_reserved = whole + sum(segment_bytes(flat_weight.bytes) for flat_weight in state.flat_weights)

    def _load(
        self, prepared: PreparedModel, tensors: tuple[ResidentTensor, ...], of_last: frozenset[str]
    ) -> Sequence[int]:
        """Load a model onto the GPU, and return the rows of the weights of the last group."""
        if not prepared.method.facts.quantizes_base:
            # The weights of frozen layers have the names of trained ones.
            rows = zip(one_by_one(tensors), self._allocate(tensors), strict=True)
            return [row for tensor, row in rows if tensor.trained and tensor.name in of_last]
        whole = Loading(tensors, prepared.training, loading_options(prepared))
        self.names, self.sizes, self.parts = whole.names, whole.sizes, whole.parts
        self.parts_before = whole.parts_before
        freed = {~event for event in self.events if event < 0}
        return [row for row, name in enumerate(self.names) if row not in freed and name in of_last]


class PartitionedLoading(HostLoading):
    """A load for stage 3: partitions of weights, one tensor for the trained ones, and float32 master weights."""

    __slots__ = ()

    def __init__(self, resident: ResidentState, state: PartitionedState) -> None:
        super().__init__(resident.prepared)
        flat, *frozen = state.weights
        self._stay([*state.resident_tensors[: len(state.resident_tensors) - len(state.divided)], *frozen, flat])
        copied: list[int] = []
        for number in range(len(state.sub_groups)):
            # A master is a copy of the cast partition, which lives until the next partition is cast.
            master = state.like_sub_group(number, "master weights")
            cast = self._allocate([master] if state.dtype != "float32" else [])
            self._free(copied)
            self._stay([master])
            copied = cast
        self._free(copied)
        self._free(self._allocate([state.like_sub_group(state.largest, "zeros for gradients")]))
        self._stay([*state.buckets, state.divided[-1]])
        for parameter in state.persistent:
            self._add(f"{parameter.key.name}: gathered", parameter.with_padding)
