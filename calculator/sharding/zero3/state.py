"""The tensors that stage 3 keeps on one GPU between steps: partitions of weights, master weights, states and gradients.

Source: deepspeed/runtime/zero/stage3.py, DeepSpeedZeroOptimizer_Stage3.__init__.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from functools import cached_property
from itertools import accumulate, chain
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements, named
from calculator.common.dtype import ITEMSIZE, allocated
from calculator.methods.compared import REFERENCE as SECOND
from calculator.methods.compared import compared_model
from calculator.resident.per_parameter import optimizer_states
from calculator.resident.tensor import ResidentTensor
from calculator.resident.tensors import resident_tensors
from calculator.sharding.communication import all_gather, all_reduce, reduce_scatter
from calculator.sharding.precision import is_built_partitioned
from calculator.sharding.zero.parameters import Key, auto_hidden_size, parameters_by_part
from calculator.sharding.zero.state import PREFIX, row
from calculator.sharding.zero3.followed import Reach
from calculator.sharding.zero3.host import host_bytes
from calculator.sharding.zero3.parameters import PARTITION, Parameters, Partitioned
from calculator.sharding.zero3.sizes import sizes_of, sizes_of_second
from calculator.trainers import trainer_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from calculator.common.dtype import DType
    from calculator.common.names import ComponentName
    from calculator.engine.repetition import Repetition
    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.optimizer import Optimizer
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.sharding.communication import Collective
    from calculator.sharding.zero3.followed import Followed
    from calculator.sharding.zero3.gathering import Gathering
    from calculator.sharding.zero3.numbered_gathering import NumberedGathering
    from calculator.sharding.zero3.sizes import Sizes

#: The scalars that stay from step to step: the flag of infinite gradients, and the norm of the last step.
KEPT_NUMBERS = 2

#: The parameters of a layer with its number, or those around the layers.
_Part = tuple[int | None, "Sequence[ResidentTensor]"]


class _Elements(dict[ResidentTensor, int]):
    """The number of elements of tensors, cached because layers are equal."""

    def __missing__(self, tensor: ResidentTensor) -> int:
        size = self[tensor] = int(elements(tensor.shape))
        return size


class PartitionedState:
    """The tensors of stage 3 on a rank. Partitions are padded, so all ranks have the same number of bytes."""

    def __init__(
        self,
        prepared: PreparedModel,
        tensors: Sequence[ResidentTensor],
        groups: Sequence[Sequence[ResidentTensor]],
        optimizer: Optimizer,
    ) -> None:
        self.prepared, self.optimizer, self.tensors = prepared, optimizer, tensors
        self.zero = prepared.training.zero
        self.is_built_partitioned = is_built_partitioned(prepared.given, prepared.device, prepared.method)
        #: The dtype in which gradients are reduced and accumulated.
        self.dtype: DType = prepared.cast_to or "float32"
        self.sizes = sizes_of(self.zero, prepared.device.count, auto_hidden_size(prepared.model))
        self._groups = [{tensor.name for tensor in group} for group in groups]
        self.sizes_of_second = sizes_of_second(self.zero, prepared.device.count)
        self._elements = _Elements()
        #: The cached gathers of the run.
        self.gatherings: list[Gathering | NumberedGathering] = []

    def parameters(self, followed: Followed) -> Parameters:
        """Return the parameters in their state before the first step, in the order of `named_parameters()`.

        They are the parameters of the followed copies of the repeated layers, and those outside the copies.
        """
        second = self._build_parameters(self._listed(self._second), followed, self.sizes_of_second)
        for parameter in second:
            parameter.key = Key(f"{SECOND}{parameter.key.name}", parameter.key.layer)
        return Parameters(self._build_parameters(self._tensors_of_parts, followed, self.sizes), second)

    @cached_property
    def _second(self) -> list[ResidentTensor]:
        """The parameters of a second model, by their names in it."""
        compared = trainer_of(self.prepared.training).compared(self.prepared)
        if compared != "model":
            return []
        tensors = resident_tensors(compared_model(self.prepared, compared))
        return [replace(tensor, trained=False) for tensor in tensors if tensor.parameters]

    def _listed(self, tensors: Sequence[ResidentTensor]) -> list[_Part]:
        """Return the parameters of each layer with its number, and those around the layers."""
        return [*parameters_by_part(self.prepared.model, tensors, frozen=True)]

    @cached_property
    def _tensors_of_parts(self) -> list[_Part]:
        return self._listed(self.tensors)

    def _build_parameters(self, listed: Sequence[_Part], followed: Followed, sizes: Sizes) -> list[Partitioned]:
        parameters: list[Partitioned] = []
        part = 0
        for layer, own in self._elements_by_part(listed, followed.layers()):
            # Odd parts are layers. Even parts are the parameters around them.
            part += bool(own) and (layer is not None) != bool(part % 2)
            represents = layer is not None and followed.copy_of(layer) == followed.representative
            for key, tensor, size in own:
                parameter = self._partitioned(key, tensor, size, sizes)
                # Under zero.Init, the model is partitioned before PEFT adds to it.
                after = self.is_built_partitioned and not tensor.base
                parameter.order = int(after), part, layer or 0, len(parameters)
                parameter.represents = 1 + represents * followed.skipped
                parameters.append(parameter)
        return parameters

    def _elements_by_part(
        self, listed: Sequence[_Part], layers: Collection[int]
    ) -> Iterator[tuple[int | None, list[tuple[Key, ResidentTensor, int]]]]:
        """Yield every parameter with its elements, by layer and around the layers: of the decoder, these layers.

        The layers of a tower are outside the repeated layers: the names of their parameters contain their numbers.
        """
        towers = self.prepared.model.towers
        for number, own in listed:
            in_tower = number is not None and towers and own and own[0].name.startswith(towers)
            if not (number is None or in_tower or number in layers):
                continue
            keys = [tuple.__new__(Key, (parameter.name, number)) for parameter in own]  # faster than a call
            layer = None if in_tower else number
            keys = [key.numbered for key in keys] if in_tower else keys
            yield layer, [*zip(keys, own, map(self._elements.__getitem__, own), strict=True)]

    def _partitioned(self, key: Key, tensor: ResidentTensor, size: int, sizes: Sizes) -> Partitioned:
        dtype, persists = _partition_dtype(tensor, self.prepared.cast_to), size <= sizes.persistence_threshold
        parameter = Partitioned(key, size, dtype, sizes.ranks, trained=tensor.trained, persists=persists)
        if dtype != tensor.dtype:
            parameter.cast = allocated(size, ITEMSIZE[tensor.dtype])
        return parameter

    @cached_property
    def all_parameters(self) -> list[Partitioned]:
        """Every parameter in order. Parameters of layers are one object for all layers."""
        return [*chain.from_iterable(self._parameters_by_layer)]

    @cached_property
    def _parameters_by_layer(self) -> list[list[Partitioned]]:
        """Every parameter, by layer and around the layers. Layers of one kind have the same list."""
        return self._parameters_by_part(self._tensors_of_parts)

    @cached_property
    def _second_parameters(self) -> list[Partitioned]:
        return [*chain.from_iterable(self._parameters_by_part(self._listed(self._second)))]

    def _parameters_by_part(self, listed: Sequence[_Part]) -> list[list[Partitioned]]:
        every = [own for _, own in listed]
        by_id = {
            id(own): [
                self._partitioned(Key(parameter.name, None), parameter, self._elements[parameter], self.sizes)
                for parameter in own
            ]
            for own in {id(own): own for own in every}.values()
        }
        return [by_id[id(own)] for own in every]

    @property
    def persistent(self) -> list[Partitioned]:
        """The persistent parameters, which stay gathered, of all layers."""
        return [parameter for parameter in self.all_parameters if parameter.persists]

    @property
    def modules(self) -> list[list[Partitioned]]:
        """The parameters of each module, once for all layers of a kind."""
        modules: list[list[Partitioned]] = []
        for part in {id(part): part for part in self._parameters_by_layer}.values():
            own: dict[str, list[Partitioned]] = {}
            for parameter in part:
                own.setdefault(parameter.key.name.rpartition(".")[0], []).append(parameter)
            modules += own.values()
        return modules

    def reach(self, repetition: Repetition, leaves: Collection[str]) -> Reach:
        """Return how many copies of the repeated layers are prefetched, and over how many a parameter stays gathered.

        The elements of `leaves`, which are paths, do not count for the reuse distance of other parameters. They are
        gathered like all others.
        """
        layers = {repetition.numbers[at] for at in range(repetition.start, repetition.end)}
        inside = tuple(f"{path}." for path in leaves)
        copy_sizes = [
            parameter
            for layer, own in self._elements_by_part(self._tensors_of_parts, layers)
            if layer is not None
            for parameter in own
        ]
        every = sum([size for _, _, size in copy_sizes])
        size = sum([size for key, _, size in copy_sizes if not key.name.startswith(inside)]) if leaves else every
        most = self.sizes.max_live if self.sizes.prefetch_bucket else 0
        return Reach(
            ahead=-(-most // every) if every else 0,
            reuse=-(-self.sizes.max_reuse_distance // size) if size else 0,
        )

    @property
    def sub_groups(self) -> list[list[Partitioned]]:
        """The sub-groups of trained parameters, which the optimizer updates one after the other."""
        return [own for own, _ in self._sub_groups]

    @property
    def sizes_of_parts(self) -> list[list[int]]:
        """The number of elements of a rank's part of each parameter, by sub-group."""
        return [sizes for _, sizes in self._sub_groups]

    @cached_property
    def _sub_groups(self) -> list[tuple[list[Partitioned], list[int]]]:
        """The sub-groups, each with the number of elements of a rank's part of each parameter."""
        sub_groups = []
        keys = [*map(id, self._parameters_by_layer)]
        distinct = dict(zip(keys, self._parameters_by_layer, strict=True))
        for names in self._groups:
            own = {
                key: [parameter for parameter in part if parameter.trained and parameter.key.name in names]
                for key, part in distinct.items()
            }
            part_sizes = {key: [*map(PARTITION, part)] for key, part in own.items()}
            group = [*chain.from_iterable(map(own.__getitem__, keys))]
            sizes = [*chain.from_iterable(map(part_sizes.__getitem__, keys))]
            sub_groups += [(group[begin:end], sizes[begin:end]) for begin, end in self._divided(sizes)]
        return sub_groups

    @cached_property
    def partitions(self) -> list[int]:
        """The number of elements of a rank's part of each sub-group."""
        return [*map(sum, self.sizes_of_parts)]

    @cached_property
    def largest(self) -> int:
        """The number of the sub-group with the most elements."""
        return self.partitions.index(max(self.partitions))

    @property
    def largest_partition(self) -> int:
        """The number of elements of a rank's part of that sub-group."""
        return self.partitions[self.largest]

    @property
    def trained_dtype(self) -> DType:
        """The dtype of the trained parameters, which is the same for all."""
        return self.sub_groups[0][0].dtype

    def _divided(self, own: list[int]) -> Iterator[tuple[int, int]]:
        """Yield where the sub-groups of a group begin and end.

        One is complete when its partitions, whose elements are given, reach the size of a sub-group.
        """
        if sum(own) <= self.sizes.sub_group:
            yield 0, len(own)
            return
        sizes = [*accumulate(own)]
        begun = before = 0
        while before + self.sizes.sub_group < sizes[-1]:
            end = bisect_left(sizes, before + self.sizes.sub_group, begun) + 1
            yield begun, end
            begun, before = end, sizes[end - 1]
        if begun < len(own):
            yield begun, len(own)

    @property
    def resident_tensors(self) -> tuple[ResidentTensors, ...]:
        """The tensors that stay on the device between steps, without the persistent parameters."""
        sharded = {f"{SECOND}{tensor.name}" for tensor in self._second}
        buffers = [tensor for tensor in self.tensors if not tensor.parameters and tensor.name not in sharded]
        return (*buffers, *self.divided)

    @cached_property
    def divided(self) -> tuple[ResidentTensors, ...]:
        """The tensors that stay on the device between steps in addition to the model's buffers."""
        if self.sizes.offloads_optimizer:
            return (*self.weights, self._bucket)
        numbers = row("flag and norm", 1, "", "float32", count=KEPT_NUMBERS)
        return (*self.weights, *self._masters, *self._states, self._gradients, self._bucket, numbers)

    @property
    def weights(self) -> list[ResidentTensor]:
        """The partitions of weights on the device."""
        return [] if self.sizes.offloads_parameters else self._weights

    @property
    def buckets(self) -> list[ResidentTensor]:
        """The bucket of the reduction, and the partitions of gradients on the device."""
        return [self._bucket] if self.sizes.offloads_optimizer else [self._bucket, self._gradients]

    @cached_property
    def _weights(self) -> list[ResidentTensor]:
        trains_base = self.prepared.method.facts.trains_base
        component: ComponentName = "base_weights" if trains_base else "adapter_weights"
        trained = sum(self.partitions)
        formula = "trained parameters, padded, / count"
        flat = row("flat partitions of weights", trained, formula, self.trained_dtype, component)
        return [flat, *self._frozen]

    @property
    def _frozen(self) -> Iterator[ResidentTensor]:
        """The partitions of frozen parameters, each a tensor of its own."""
        count = named(self.sizes.ranks, "count")
        second = [replace(parameter, name=f"{SECOND}{parameter.name}") for parameter in self._second]
        for tensor in (*self.tensors, *second):
            if tensor.parameters and not tensor.trained:
                whole = self._elements[tensor]
                size = -(-whole // self.sizes.ranks)
                dtype = _partition_dtype(tensor, self.prepared.cast_to)
                yield ResidentTensor(
                    name=f"{tensor.name}: partition",
                    shape=(named(whole, "parameters").divided(count),),
                    dtype=dtype,
                    component=tensor.component,
                    count=tensor.count,
                    bytes=allocated(size, ITEMSIZE[dtype]) * tensor.count,
                )

    @cached_property
    def _masters(self) -> list[ResidentTensor]:
        return [self.like_sub_group(n, "master weights", component="optimizer_states") for n in self._numbers]

    @property
    def _numbers(self) -> range:
        return range(len(self.sub_groups))

    def like_sub_group(
        self, number: int, name: str, dtype: DType = "float32", component: ComponentName = "workspace"
    ) -> ResidentTensor:
        """Return a tensor with as many elements as a rank's part of a sub-group."""
        return ResidentTensor(
            name=PREFIX + name,
            shape=(named(self.partitions[number], "trained, padded, / count"),),
            dtype=dtype,
            component=component,
            base=False,
            trained=True,
        )

    @property
    def states(self) -> tuple[ResidentTensors, ...]:
        """The optimizer's states on the device, which its first step creates."""
        return () if self.sizes.offloads_optimizer else (*self._states,)

    @cached_property
    def _states(self) -> list[ResidentTensors]:
        return [*optimizer_states(self._masters, self.optimizer)]

    @cached_property
    def _gradients(self) -> ResidentTensor:
        trained = sum(self.partitions)
        return row("partitions of gradients", trained, "trained parameters, padded, / count", self.dtype, "gradients")

    @cached_property
    def _bucket(self) -> ResidentTensor:
        return row("reduction bucket", self.sizes.reduce_bucket, "reduce_bucket_size", self.dtype)

    @property
    def host_bytes(self) -> int | None:
        """The bytes of host memory that a rank uses. None without offload."""
        if not (self.sizes.offloads_parameters or self.sizes.offloads_optimizer):
            return None
        parameters = [*self.all_parameters, *self._second_parameters]
        return host_bytes(parameters, self.sub_groups, self.zero, self.dtype, self.optimizer)

    def communication(self, gathered: int) -> tuple[Collective, ...]:
        """Return the collectives of a step: gathers around each module, and reductions in each micro-batch.

        `gathered` are the bytes that the gathers result in.
        """
        count, steps = self.sizes.ranks, self.prepared.training.gradient_accumulation_steps
        sent = sum(self.partitions) * count
        if not self.sizes.reduce_scatter:
            sent = sum([parameter.elements for group in self.sub_groups for parameter in group])
        reduce = reduce_scatter if self.sizes.reduce_scatter else all_reduce
        what = "gradients" if steps == 1 else "gradients × gradient_accumulation_steps"
        reduced = reduce(sent * ITEMSIZE[self.dtype] * steps, count, what)
        return all_gather(gathered, count, "gathered weights"), reduced


def _partition_dtype(tensor: ResidentTensor, cast_to: DType | None) -> DType:
    """Return the dtype of a parameter's partition. 4-bit layers cast their biases when they are called.

    Source: bitsandbytes/nn/modules.py, Linear4bit.forward.
    """
    is_cast = tensor.base and not tensor.trained and tensor.dtype == "float32"
    return (cast_to or tensor.dtype) if is_cast else tensor.dtype
