"""The tensors that one rank keeps under FSDP2: shards of parameters and optimizer states, reduced gradients by unit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements, named
from calculator.common.dtype import ITEMSIZE
from calculator.inputs.sharding import FSDPConfig
from calculator.methods.compared import REFERENCE, compared_model
from calculator.resident.per_parameter import gradients
from calculator.resident.tensor import ResidentTensor
from calculator.resident.tensors import resident_tensors
from calculator.sharding.communication import all_gather, reduce_scatter
from calculator.sharding.fsdp.parameters import cast_biases, is_sharded, recast, shard, stored
from calculator.sharding.fsdp.units import GRADIENT_SHARDS, outer_units, units_of
from calculator.sharding.shards import Shards
from calculator.trainers import trainer_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.resident.optimizer import Optimizer
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.sharding.communication import Collective


class FSDPShards(Shards):
    """The first rank's tensors. A step accumulates whole gradients and reduces them at its end."""

    __slots__ = ()

    #: The stacked norms, their squares, the result of the all-reduce, and its root. Source: torch/nn/utils/clip_grad.py
    #: on DTensor; torch/distributed/tensor/_ops/_math_ops.py, _NormPartial.
    norm_vectors = 4

    #: False: the whole weights are loaded on the host.
    loads_whole = False

    def whole(self, tensors: tuple[ResidentTensor, ...]) -> tuple[ResidentTensor, ...]:
        """Return the whole model as accelerate stores it."""
        return tuple(stored(tensors, self.prepared.method, self.prepared.training))

    @property
    def offloads(self) -> bool:
        """Whether shards, their gradients and optimizer states are in host memory."""
        return (self.prepared.training.fsdp_config or FSDPConfig()).cpu_offload

    def rank_tensors(self, whole: tuple[ResidentTensor, ...]) -> tuple[ResidentTensor, ...]:
        """Return the first rank's shards, unless they are in host memory, and the tensors that are not sharded."""
        whole = (*self._with_reference(whole),)
        biases = self._cast_biases(whole)
        if self.offloads:
            return (*(tensor for tensor in whole if not is_sharded(tensor)), *biases)
        return (*(shard(tensor, self.prepared.device.count) for tensor in whole), *biases)

    def _cast_biases(self, whole: tuple[ResidentTensor, ...]) -> Iterator[ResidentTensor]:
        """Yield the whole biases in the dtype to which their 4-bit layers have cast them."""
        training = self.prepared.training
        for bias in cast_biases(whole, training):
            cast = recast(bias, training.dtype)
            yield replace(cast, name=f"{bias.name}: cast by its 4-bit layer", parameters=0, trained=False)

    def _with_reference(self, whole: tuple[ResidentTensor, ...]) -> Iterator[ResidentTensor]:
        """Yield the tensors, in which a second model has the parameters that TRL shards."""
        prepared = self.prepared
        if trainer_of(prepared.training).compared(prepared) != "model":
            yield from whole
            return
        parameters = {tensor.name: tensor.parameters for tensor in resident_tensors(compared_model(prepared, "model"))}
        for tensor in whole:
            count = parameters.get(tensor.name.removeprefix(REFERENCE), 0) if tensor.name.startswith(REFERENCE) else 0
            yield replace(tensor, parameters=count) if count else tensor

    def host_bytes(self, whole: tuple[ResidentTensor, ...], optimizer: Optimizer) -> int | None:
        """Return the bytes of shards with their gradients and optimizer states, in their stored dtype."""
        if not self.offloads:
            return None
        count = self.prepared.device.count
        shards = (shard(tensor, count) for tensor in self._with_reference(whole) if is_sharded(tensor))
        return sum(_host_bytes(shard, optimizer) * shard.count for shard in shards)

    def accumulated(self, whole: Iterable[ResidentTensor]) -> tuple[ResidentTensors, ...]:
        """Return the whole gradients, in the dtype in which their parameters are gathered."""
        dtype = self.prepared.training.autocast
        trained = (tensor for tensor in whole if tensor.gets_gradient)
        return (gradients([recast(parameter, dtype) if dtype else parameter for parameter in trained]),)

    def collectives(self) -> tuple[Collective, ...]:
        """Return the all-gathers of every micro-batch, and the reductions of the last one.

        Norms are not counted, which are a number each. Units that are freed after their forward pass are gathered
        again: each layer for its own backward pass, and the embeddings because the first layer's backward pass
        prefetches the unit that ran before it.
        """
        training, count = self.prepared.training, self.prepared.device.count
        frees = (training.fsdp_config or FSDPConfig()).reshard_after_forward
        outer, units = outer_units(self.prepared), units_of(self.prepared)
        kept = (outer.root.name, outer.tail.name)
        gathered = sum(
            _bytes(*unit.all_gather_output) * times * (2 if frees and unit.name not in kept else 1)
            for unit, times in units
        )
        reduced = sum(
            count * unit.shard_elements(unit.trained) * ITEMSIZE[unit.gathered_dtype(unit.trained[0])] * times
            for unit, times in units
            if unit.trained
        )
        steps = training.gradient_accumulation_steps
        return (
            all_gather(gathered * steps, count, "gathered weights"),
            reduce_scatter(reduced, count, "gradients"),
        )

    def reduced(self, whole: Iterable[ResidentTensor]) -> tuple[ResidentTensors, ...]:  # noqa: ARG002  a hook's signature
        """Return one gradient tensor for each unit, in the dtype of its stored parameters."""
        if self.offloads:
            return ()
        return tuple(
            ResidentTensor(
                name=unit.name + GRADIENT_SHARDS,
                shape=(named(unit.shard_elements(unit.trained), "trained in unit / N"),),
                dtype=unit.trained[-1].dtype,
                component="gradients",
                count=count,
                base=False,
            )
            for unit, count in units_of(self.prepared)
            if unit.trained
        )


def _host_bytes(tensor: ResidentTensor, optimizer: Optimizer) -> int:
    """Return the bytes of one shard, of its gradient, and of its optimizer states."""
    size = _bytes(tensor.shape, tensor.dtype)
    if not tensor.gets_gradient:
        return size
    states = sum(_bytes(shape, dtype) for _, shape, dtype in optimizer.states(tensor.shape, tensor.dtype))
    return 2 * size + states


def _bytes(shape: Shape, dtype: DType) -> int:
    return elements(shape) * ITEMSIZE[dtype]
