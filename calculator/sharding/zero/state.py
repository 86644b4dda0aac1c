"""The tensors that stages 1 and 2 keep on one GPU between steps: whole weights, partitioned master weights and states.

Source: deepspeed/runtime/zero/stage_1_and_2.py, DeepSpeedZeroOptimizer.__init__.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements, named
from calculator.common.dtype import ITEMSIZE, allocated
from calculator.common.errors import refusal
from calculator.inputs.sharding import STAGES, offloads_optimizer
from calculator.resident import torchao
from calculator.resident.per_parameter import optimizer_states
from calculator.resident.tensor import ResidentTensor
from calculator.sharding.communication import all_gather, all_reduce
from calculator.sharding.zero.parameters import Key, auto_hidden_size
from calculator.sharding.zero.partitions import Partitions, Pattern
from calculator.sharding.zero.plan import Gradients, Plan
from calculator.sharding.zero.shared import parameters_in_place

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence

    from calculator.common.dtype import DType
    from calculator.common.names import ComponentName
    from calculator.inputs.sharding import ZeroOptimization
    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.optimizer import Optimizer
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.sharding.communication import Collective
    from calculator.sharding.zero.partitions import Owned
    from calculator.sharding.zero.plan import Point

#: The name of the number of elements of a rank's gradients.
_IN_PARTITION = "parameters in the partition"
#: The prefix of the names of tensors that DeepSpeed allocates.
PREFIX = "DeepSpeed: "
SOURCE = "deepspeed/runtime/zero/stage_1_and_2.py, DeepSpeedZeroOptimizer"


@lru_cache(maxsize=4096)
def row(
    name: str, size: int, what: str, dtype: DType, component: ComponentName = "workspace", count: int = 1
) -> ResidentTensor:
    """Return a tensor of some elements that DeepSpeed allocates. `what` names the elements in formulas."""
    shape = (named(size, what),) if what else ()
    return ResidentTensor(name=PREFIX + name, shape=shape, dtype=dtype, component=component, count=count, base=False)


@lru_cache(maxsize=256)
def _like_partition(partition: int, name: str, dtype: DType, component: ComponentName) -> ResidentTensor:
    return ResidentTensor(
        name=PREFIX + name,
        shape=(named(partition, "(trained parameters, padded) / count"),),
        dtype=dtype,
        component=component,
        base=False,
        trained=True,
    )


class FlatState:
    """The flat tensors of stages 1 and 2, and each rank's part of them."""

    def __init__(
        self,
        prepared: PreparedModel,
        tensors: Sequence[ResidentTensor],
        groups: Sequence[Sequence[ResidentTensor]],
        optimizer: Optimizer,
    ) -> None:
        self.prepared, self.optimizer, self.tensors = prepared, optimizer, tensors
        self.zero: ZeroOptimization = prepared.training.zero
        self.dtype: DType = prepared.cast_to or "float32"
        #: The trained parameters of each group in the model's order, and the names of those that get no gradient.
        self._groups = [[*_group_parameters(parameters_in_place(prepared, tensors), group)] for group in groups]
        self.partitions = Partitions(
            [[(layer, pattern) for layer, pattern, _ in group] for group in self._groups],
            prepared.device.count,
            round_robin=self.zero.round_robin_gradients,
        )
        #: The cached peak moments of the optimizer's step, by what a rank owns.
        self.steps: dict[Hashable, tuple[ResidentTensors, ...]] = {}

    @property
    def resident_tensors(self) -> tuple[ResidentTensors, ...]:
        """The tensors that stay on the device between steps."""
        return (*(tensor for tensor in self.tensors if not tensor.trained), *self.divided)

    @property
    def divided(self) -> tuple[ResidentTensors, ...]:
        """The tensors that stay on the device between steps in addition to the model's frozen tensors."""
        norm = row("gradient norm", 1, "", "float32")
        return (*self.flat_weights, *self._masters(), *self.states, norm)

    @property
    def flat_weights(self) -> list[ResidentTensor]:
        """The flat tensors of the trained weights."""
        component: ComponentName = "base_weights" if self.prepared.method.facts.trains_base else "adapter_weights"
        what = "trained parameters, padded"
        return [row("flat weights", group.padded, what, self.dtype, component) for group in self.partitions.groups]

    def _masters(self) -> list[ResidentTensor]:
        groups = range(len(self.partitions.groups))
        return [self.like_partition(group, "master weights", component="optimizer_states") for group in groups]

    def like_partition(
        self, group: int, name: str, dtype: DType = "float32", component: ComponentName = "workspace"
    ) -> ResidentTensor:
        """Return a tensor with as many elements as a rank's partition of a group."""
        return _like_partition(self.partitions.groups[group].partition, name, dtype, component)

    @property
    def largest(self) -> int:
        """The number of the group with the largest partitions."""
        groups = self.partitions.groups
        return max(range(len(groups)), key=lambda number: groups[number].partition)

    @property
    def largest_partition(self) -> int:
        """The number of elements of a rank's partition of that group."""
        return self.partitions.groups[self.largest].partition

    @property
    def states(self) -> list[ResidentTensors]:
        """The optimizer's states, which its first step creates.

        Raises:
            PlanError: if DeepSpeed slices torchao's states at a parameter that ends inside a block.
        """
        if self.optimizer.storage in ("torchao_8bit", "torchao_4bit"):
            self._check_blocks()
        return [*optimizer_states(self._masters(), self.optimizer)]

    def _check_blocks(self) -> None:
        """Refuse torchao's states if a parameter ends inside one of their blocks.

        Source: deepspeed/utils/tensor_fragment.py (set_optim_state_fragment); torchao, optim/subclass_8bit.py.
        """
        block = torchao.BLOCK_SIZE
        groups = (group for group in self.partitions.groups if torchao.is_quantized(group.partition))
        sizes = (size for group in groups for _, pattern in group.parts for size in pattern.sizes)
        odd = next((size for size in sizes if size % block), None)
        if odd is not None:
            message = (
                f"DeepSpeed slices its states at each parameter, and torchao refuses that for {odd:,} elements, no"
                f" multiple of {block}: use adamw_8bit, or device.sharding zero3 or fsdp"
            )
            raise refusal("training.optimizer", message, self.optimizer.name)

    @cached_property
    def owned(self) -> list[tuple[Owned, ...]]:
        """The parameters that each rank owns parts of, by rank and group."""
        ranks = range(self.partitions.count)
        return [tuple([group.owned(rank) for group in self.partitions.groups]) for rank in ranks]

    @cached_property
    def _elements(self) -> list[int]:
        """By rank, the number of elements of the buffer for the gradients of its partition."""
        return [sum([part.whole for part in owned]) for owned in self.owned]

    @cached_property
    def _zeros(self) -> list[list[int]]:
        """By group and rank, the bytes of zeros for parameters of the partition that get no gradient."""
        by_group = []
        for group in self._groups:
            changes = [0] * (self.partitions.count + 1)
            idle = (Key(name, layer) for layer, _, names in group for name in names)
            for place in map(self.partitions.place, idle):
                size = allocated(place.elements, ITEMSIZE[self.dtype])
                changes[place.ranks.start] += size
                changes[place.ranks.stop] -= size
            by_group.append([*accumulate(changes[:-1])])
        return by_group

    @cached_property
    def _reduces(self) -> list[list[bool]]:
        """By group and rank, whether a parameter of the partition gets a gradient."""
        count = self.partitions.count
        if not any(idle for group in self._groups for _, _, idle in group):
            return [[owned[number].parameters > 0 for owned in self.owned] for number in range(len(self._groups))]
        changes = [[0] * (count + 1) for _ in self._groups]
        keys = (Key(name, layer) for layer, gradients in self.plan.in_order for name in gradients.names)
        for place in map(self.partitions.place, keys):
            changes[place.group][place.ranks.start] += 1
            changes[place.group][place.ranks.stop] -= 1
        return [[number > 0 for number in accumulate(own[:-1])] for own in changes]

    @cached_property
    def equivalence_keys(self) -> list[Hashable]:
        """By rank, what determines its tensors but for the order in which gradients are ready. Many ranks are equal.

        That is by group: how many parameters the rank owns, with how many elements, which one is the largest, how many
        zeros stand for parameters without a gradient and pad the partition, and whether any gradient is reduced.
        """
        ranks, columns = range(self.partitions.count), []
        for number, group in enumerate(self.partitions.groups):
            owned = [
                (own.parameters, own.whole, own.largest) for own in [rank_groups[number] for rank_groups in self.owned]
            ]
            columns += [owned, self._zeros[number], [*map(group.padding, ranks)], self._reduces[number]]
        return [*zip(*columns, strict=True)]

    def last_reduced(self, rank: int) -> int:
        """Return the last group whose gradients are in a rank's buffer, or -1.

        The last group keeps the buffer alive.
        """
        return max((number for number, reduces in enumerate(self._reduces) if reduces[rank]), default=-1)

    def reduced_on(self, rank: int) -> tuple[ResidentTensor, ...]:
        """Return a rank's gradients after the last reduction."""
        own, zeros = self.gradients_of(rank)
        return (*own, *zeros, *(size for size in self.padding_of(rank) if size is not None))

    def gradients_of(self, rank: int) -> tuple[tuple[ResidentTensor, ...], tuple[ResidentTensor, ...]]:
        """Return the gradients of a rank's partition, and zeros for gradients that the step does not produce."""
        whole = self._elements[rank]
        own = row("gradients of the partition", whole, _IN_PARTITION, self.dtype, "gradients")
        idle = tuple(size for size in self.zeros_of(rank) if size is not None)
        return (own,) if whole and self.last_reduced(rank) >= 0 else (), idle

    def zeros_of(self, rank: int) -> list[ResidentTensor | None]:
        """Return, by group, the zeros that replace gradients that the step does not produce.

        None for a group without any.
        """
        sizes = [zeros[rank] // ITEMSIZE[self.dtype] for zeros in self._zeros]
        name = "zeros for parameters without a gradient"
        return [row(name, size, _IN_PARTITION, self.dtype, "gradients") if size else None for size in sizes]

    def accumulated_by(self, rank: int) -> tuple[ResidentTensor, ...]:
        """Return the tensors that earlier micro-batches of a step left alive for the next forward pass."""
        if self.plan.accumulated:
            accumulated = row(
                "gradients", self.plan.accumulated // ITEMSIZE[self.dtype], "trained", self.dtype, "gradients"
            )
            return accumulated, self._bucket()
        return self.partition_of_earlier(rank)

    def partition_of_earlier(self, rank: int) -> tuple[ResidentTensor, ...]:
        """Return the gradients of a rank's partition that earlier micro-batches of a step left."""
        accumulates = self.prepared.training.gradient_accumulation_steps > 1
        if not accumulates or STAGES[self.prepared.device.sharding] == 1:
            return ()
        own, zeros = self.gradients_of(rank)
        return (*own, *zeros)

    @property
    def earlier_plan(self) -> Plan | None:
        """The plan by which the micro-batches before the last keep their gradients.

        None if the last one does not reduce gradients as they are ready. Of two micro-batches, the first leaves its
        gradients one by one. A later micro-batch has all of them from its start.
        """
        plan, steps = self.plan, self.prepared.training.gradient_accumulation_steps
        if not plan.accumulated or not plan.streams:
            return None
        return replace(plan, streams=False, accumulated=plan.accumulated if steps > 2 else 0)

    @property
    def communication(self) -> tuple[Collective, ...]:
        """The collectives of a step.

        Stage 2 reduces in each micro-batch. Updated weights are gathered once.
        """
        count, item, steps = self.partitions.count, ITEMSIZE[self.dtype], 1
        if STAGES[self.prepared.device.sharding] == 2:
            steps = self.prepared.training.gradient_accumulation_steps
        gradients = sum([own.elements[-1] for _, own in self.plan.in_order]) * item
        weights = sum(group.padded for group in self.partitions.groups) * item
        what = "gradients" if steps == 1 else "gradients × gradient_accumulation_steps"
        return all_reduce(gradients * steps, count, what), all_gather(weights, count, "trained weights")

    @property
    def host_bytes(self) -> int | None:
        """The bytes of host memory that a rank uses. None without offload."""
        return None

    def padding_of(self, rank: int) -> list[ResidentTensor | None]:
        """Return, by group, the zeros after a rank's gradients. None for a group without any."""
        sizes = [group.padding(rank) for group in self.partitions.groups]
        return [
            row("padding of gradients", size, "padding", self.dtype, "gradients") if size else None for size in sizes
        ]

    def _bucket(self) -> ResidentTensor:
        plan = self.plan
        return row("reduction bucket", plan.bucket_size, "reduce_bucket_size", self.dtype, count=plan.buffers)

    def reducing(self, point: Point) -> Iterator[ResidentTensor]:
        """Yield the tensors that the reduction has allocated at a point, which are the same on every rank."""
        item = ITEMSIZE[self.dtype]
        if point.has_bucket:
            yield self._bucket()
        if point.large:
            yield row("gradients larger than the bucket", point.large // item, "parameters", self.dtype, "gradients")
        if point.separate:
            yield row("gradients", point.separate // item, "parameters", self.dtype, "gradients")
        if point.copied:
            yield row("gradients, flat", point.copied // item, "gradients in the bucket", self.dtype)

    @cached_property
    def plan(self) -> Plan:
        """The plan by which the gradients are reduced."""
        stage, zero, training = STAGES[self.prepared.device.sharding], self.zero, self.prepared.training
        in_order, keeps = self._with_gradient(), stage == 1 and training.gradient_accumulation_steps > 1
        return Plan(
            partitions=self.partitions,
            in_order=in_order,
            bucket_size=zero.resolved("reduce_bucket_size", auto_hidden_size(self.prepared.model)),
            buffers=2 if zero.overlap_comm else 1,
            dtype=self.dtype,
            streams=stage == 2 or bool(zero.overlap_comm),
            copies=zero.reduce_scatter,
            offloads=offloads_optimizer(zero),
            keeps_large=stage == 1,
            accumulated=sum([own.bytes[-1] for _, own in in_order]) if keeps else 0,
        )

    def _with_gradient(self) -> list[tuple[int | None, Gradients]]:
        by_number: dict[int, Gradients] = {}
        tensors = []
        for layer, pattern, idle in (entry for group in self._groups for entry in group):
            if id(pattern) not in by_number:
                names = [name for name in pattern.index if name not in idle]
                sizes = [pattern.sizes[pattern.index[name]] for name in names]
                are_joined = self.partitions.is_regular and not idle
                by_number[id(pattern)] = Gradients(names, sizes, self.dtype, are_joined=are_joined)
            tensors.append((layer, by_number[id(pattern)]))
        return tensors


def _group_parameters(
    ordered: Iterable[tuple[int | None, Sequence[ResidentTensor]]], group: Sequence[ResidentTensor]
) -> Iterator[tuple[int | None, Pattern, frozenset[str]]]:
    """Yield the parameters of a group in the model's order, with the names of those that get no gradient."""
    names = {tensor.name for tensor in group}
    patterns: dict[int, tuple[Pattern, frozenset[str]]] = {}
    kept = []  # keeps the objects alive, so that their ids are not reused
    for layer, tensors in ordered:
        if id(tensors) not in patterns:
            kept.append(tensors)
            group_tensors = [tensor for tensor in tensors if tensor.name in names]
            idle = frozenset(tensor.name for tensor in group_tensors if not tensor.in_graph)
            pattern = Pattern(
                [tensor.name for tensor in group_tensors], [int(elements(tensor.shape)) for tensor in group_tensors]
            )
            patterns[id(tensors)] = pattern, idle
        yield layer, *patterns[id(tensors)]
