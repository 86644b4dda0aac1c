"""Resident tensors of a run: weights, gradients, optimizer states, and the optimizer step's temporaries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.architecture.dimension import elements
from calculator.common.cached import cached_property
from calculator.common.dtype import ITEMSIZE
from calculator.common.total import total_bytes
from calculator.inputs.sharding import DDPConfig, offloads_optimizer
from calculator.methods.compared import compared_tensors
from calculator.resident.optimizers import OPTIMIZERS, updates_in_backward
from calculator.resident.per_parameter import sizes
from calculator.resident.tensor_group import TensorGroup
from calculator.resident.tensors import parameters, resident_tensors
from calculator.sharding import ddp, ddp_buffers
from calculator.sharding.communication import between_nodes, ddp_collectives
from calculator.sharding.registry import BEFORE_LAST, shards_of
from calculator.sharding.zero.offload import OffloadedState
from calculator.sharding.zero.state import FlatState, row
from calculator.sharding.zero3.state import PartitionedState
from calculator.trainers.resident import GRADIENT_NORM, groups, kept, while_fetching
from calculator.training_step.ddp_buckets import ddp_buckets
from calculator.training_step.optimizer_step import temporaries
from calculator.training_step.optimizer_targets import with_targets
from calculator.training_step.optimizer_tensors import states, step_temporaries
from calculator.training_step.unrolled_cache import UnrolledCache

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from calculator.inputs.device import Device
    from calculator.inputs.training import Training
    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.tensor import ResidentTensor
    from calculator.sharding.communication import Collective
    from calculator.training_step.run import Run

#: What a `ResidentState` computes at first use and what depends on the batch and length of its run.
_OF_RUN = ("loop_tensors", "_loop_group", "always", "accumulated", "in_step")


class ResidentState:
    """Tensors that stay on the device for a whole run, and those that an optimizer step adds.

    A request has one. Peaks, the reserved rule, the replay, inference, merging and limits all read it. What only
    training needs is computed at first use.
    """

    def __init__(self, prepared: PreparedModel, unrolled: UnrolledCache | None = None) -> None:
        self.prepared = prepared
        #: Cached results that hold for further runs with the same tensors, and those that hold for this run alone.
        self.known: dict[Hashable, Any] = {}
        self.known_of_run: dict[Hashable, Any] = {}
        #: A micro-batch of the model, once one has run.
        self.run: Run | None = None
        #: The unrolled micro-batches of this run and of runs that differ in sizes alone, for replays.
        self.unrolled = unrolled or UnrolledCache()
        self.shards = shards_of(prepared)
        #: The facts about the training loop.
        self.trainer = prepared.trainer.facts
        #: Weights, quantization constants and buffers of the model, parameters that the method adds, and the tensors of
        #: a reference model.
        resident = resident_tensors(prepared)
        compared = prepared.trainer.compared(prepared)
        if compared is not None:
            resident = (*resident, *compared_tensors(prepared, compared, resident))
        self.whole = self.shards.whole(resident)
        #: The part of the tensors that is on this rank.
        self.tensors = self.shards.rank_tensors(self.whole)
        self.optimizer = with_targets(
            OPTIMIZERS[prepared.training.optimizer], prepared.model, self.tensors, prepared.training
        )

    @cached_property
    def parameters(self) -> tuple[int, int, int]:
        """The number of parameters of the base model, of added parameters, and of trained parameters."""
        return parameters(self.whole)

    @cached_property
    def base_bytes(self) -> int:
        """The bytes of the base model on all GPUs, without the reference model of a trainer."""
        base = [tensor for tensor in self.whole if tensor.component in ("base_weights", "quantization_constants")]
        return sum([tensor.bytes for tensor in base if not tensor.name.startswith("ref_model.")])

    @cached_property
    def added_bytes(self) -> int:
        """The bytes of the parameters that the method adds to the base model, on all GPUs."""
        return sum([tensor.bytes for tensor in self.whole if tensor.component == "adapter_weights"])

    @cached_property
    def saved_bytes(self) -> int:
        """The bytes that `save_pretrained` writes of the trained parameters."""
        return self.prepared.method.saved_bytes(self.whole, self.prepared.model)

    @property
    def updates_in_backward(self) -> bool:
        """Whether the backward pass updates each parameter and frees its gradient."""
        return updates_in_backward(self.prepared.training)

    @cached_property
    def always(self) -> TensorGroup:
        """The tensors that stay on the device during the whole run, without gradients."""
        if not self.loop_tensors:
            return self._always
        tensors = (*self.tensors, *self._states, *self.loop_tensors, *self.sharding_tensors)
        return TensorGroup.joined(tensors, self._always, self._loop_group)

    @cached_property
    def _loop_group(self) -> TensorGroup:
        return TensorGroup(self.loop_tensors)

    @cached_property
    def accumulated(self) -> TensorGroup:
        """The tensors that stay on the device between two micro-batches of a step, with gradients."""
        if not self.loop_tensors:
            return self._accumulated
        return TensorGroup.joined((*self.always, *self.gradients), self._accumulated, self._loop_group)

    @cached_property
    def in_step(self) -> TensorGroup:
        """The tensors that are on the device in the optimizer's step."""
        if not self.loop_tensors:
            return self._in_step
        return TensorGroup.joined((*self.always, *self._step_groups), self._in_step, self._loop_group)

    @cached_property
    def _always(self) -> TensorGroup:
        return TensorGroup((*self.tensors, *self._states, *self.sharding_tensors))

    @cached_property
    def _accumulated(self) -> TensorGroup:
        return TensorGroup.joined((*self._always, *self.gradients), self._always, TensorGroup(self.gradients))

    @cached_property
    def _in_step(self) -> TensorGroup:
        step_tensors = TensorGroup(self._step_groups)
        return TensorGroup.joined((*self._always, *step_tensors), self._always, step_tensors)

    @property
    def _step_groups(self) -> tuple[ResidentTensors, ...]:
        return (*self.kept_gradients, *self.step_temporaries)

    @property
    def optimizer_states(self) -> tuple[ResidentTensors, ...]:
        """The optimizer's states from its second step on, and the tensors that the trainer keeps."""
        added = self.loop_tensors
        return (*self._states, *added) if added else self._states

    @cached_property
    def _states(self) -> tuple[ResidentTensors, ...]:
        return states(self.prepared, self.tensors, self.optimizer)

    @cached_property
    def gradients(self) -> tuple[ResidentTensors, ...]:
        """The gradients between two micro-batches of a step, each a tensor of its own."""
        if self.updates_in_backward:
            return ()
        return self.shards.accumulated(self.whole)

    @cached_property
    def reduced_gradients(self) -> tuple[ResidentTensors, ...]:
        """The gradients that are alive in the optimizer's step, including buckets whose views some of them are."""
        if self.updates_in_backward:
            return ()
        return self.shards.reduced(self.whole)

    @cached_property
    def loaded_bytes(self) -> int:
        """The bytes that loading the base model allocates, including those that a cast frees afterwards."""
        base = [tensor for tensor in self.tensors if tensor.base]
        freed = self._freed_after_cast(base) if self.shards.loads_whole else 0
        return total_bytes(base) + freed

    def _freed_after_cast(self, base: Iterable[ResidentTensor]) -> int:
        """Return the bytes of half-precision weights that are cast to float32 after loading.

        The allocator keeps their blocks.
        """
        dtype = self.prepared.training.dtype
        freed = 0
        for tensor in base:
            if tensor.dtype != dtype and not tensor.packed:
                freed += tensor.parameters * ITEMSIZE[dtype] * tensor.count
        return freed

    def sizes_of_kept(self, *, gradients: bool) -> dict[int, int]:
        """Return the number of tensors by size that stay on the device in addition to the base and those of the loop.

        `gradients`: whether to include gradients.
        """
        return sizes(self.gradients, self._sizes_of_added) if gradients else self._sizes_of_added

    @cached_property
    def _sizes_of_added(self) -> dict[int, int]:
        return sizes((*[tensor for tensor in self.tensors if not tensor.base], *self._states, *self.sharding_tensors))

    @cached_property
    def sizes_of_temporaries(self) -> dict[int, int]:
        """The number of the optimizer step's temporaries, by size."""
        return sizes(self.step_temporaries)

    @property
    def differs_before_last(self) -> bool:
        """Whether a step has micro-batches that differ from its last, in which a sharding reduces gradients."""
        steps = self.prepared.training.gradient_accumulation_steps
        return steps > 1 and self.prepared.device.sharding in BEFORE_LAST

    @property
    def has_longer_first(self) -> bool:
        """Whether a step has several micro-batches, and the first one does more than the others."""
        return self.trainer.generates and self.prepared.training.gradient_accumulation_steps > 1

    def before_last(self, always: TensorGroup, accumulated: TensorGroup) -> TensorGroup:
        """Return the tensors that stay alive in the backward pass of the micro-batch before the last.

        If a step has two micro-batches, no gradients exist yet in the first one.
        """
        return always if self.prepared.training.gradient_accumulation_steps == 2 else accumulated

    @property
    def kept_gradients(self) -> tuple[ResidentTensors, ...]:
        """The gradients that are alive in the optimizer's step, without those that are views of buckets."""
        return () if self.frees_gradients else self.reduced_gradients

    @property
    def frees_gradients(self) -> bool:
        """Whether the gradients of the backward pass are freed before the optimizer's step has its peak.

        They are views of buckets, or BAdam's optimizer moves them to float32 copies.
        """
        return self.prepared.training.has_bucket_views or self.prepared.method.steps_copies

    @property
    def buckets(self) -> ddp.Buckets | None:
        """DDP's buckets. None for a run that is not wrapped in DDP."""
        return self._buckets if self.prepared.device.sharding == "ddp" else None

    @cached_property
    def _buckets(self) -> ddp.Buckets:
        return ddp_buckets(self.prepared, self.tensors, self.run)

    @cached_property
    def flat(self) -> FlatState | None:
        """The flat tensors of ZeRO's stages 1 and 2. None for other runs."""
        if self.prepared.device.sharding not in ("zero1", "zero2"):
            return None
        trained = [tensor for tensor in self.tensors if tensor.trained]
        parameter_groups = groups(self.trainer, self.prepared.model, trained, self.prepared.older)
        kind = OffloadedState if offloads_optimizer(self.prepared.training.zero) else FlatState
        return kind(self.prepared, self.tensors, parameter_groups, self.optimizer)

    @cached_property
    def partitioned(self) -> PartitionedState | None:
        """The partitions of ZeRO's stage 3. None for other runs."""
        if self.prepared.device.sharding != "zero3":
            return None
        trained = [tensor for tensor in self.tensors if tensor.trained]
        parameter_groups = groups(self.trainer, self.prepared.model, trained, self.prepared.older)
        return PartitionedState(self.prepared, self.tensors, parameter_groups, self.optimizer)

    @cached_property
    def loop_tensors(self) -> tuple[ResidentTensor, ...]:
        """The tensors that the training loop keeps.

        DeepSpeed stores the norm of the gradients itself. With offload, the norm is on the host. A run without
        gradients has no norm on the device either.
        """
        added = kept(self.prepared.trainer, self.prepared)
        if not added:
            return added
        is_plain = self.flat is None and self.partitioned is None and self._offloaded_bytes is None
        if is_plain and not self.updates_in_backward:
            return added
        return tuple(tensor for tensor in added if tensor.name != GRADIENT_NORM)

    @property
    def replayed_states(self) -> tuple[ResidentTensors, ...]:
        """The optimizer's states that the first step of a replay allocates, and the tensors that the trainer keeps."""
        sharded = self.flat or self.partitioned
        return self.optimizer_states if sharded is None else (*sharded.states, *self.loop_tensors)

    @property
    def replayed_temporaries(self) -> tuple[ResidentTensors, ...]:
        """The tensors that the optimizer's update allocates in a replay.

        Under ZeRO this is the update of the largest group. What precedes it is part of the replayed micro-batch. With
        offload, the host updates.
        """
        sharded = self.flat or self.partitioned
        if sharded is None:
            return self.step_temporaries
        if sharded.host_bytes is not None:
            return ()
        like = row("float32 gradients", sharded.largest_partition, "trained parameters, padded, / count", "float32")
        return temporaries([(like,)], self.optimizer, clips=False, keeps_norm=False)

    @property
    def while_fetching(self) -> tuple[ResidentTensor, ...]:
        """The tensors that are alive in addition to a step's batches while the loop fetches the batches.

        Text alone is small and not counted.
        """
        prepared = self.prepared
        return while_fetching(prepared.trainer, prepared) if prepared.training.has_images else ()

    @property
    def host_bytes(self) -> int | None:
        """The bytes that one GPU's process keeps in host memory. None if it keeps nothing there."""
        if self.optimizer.storage == "host":
            trained = (tensor for tensor in self.tensors if tensor.gets_gradient)
            return sum(
                elements(tensor.shape) * ITEMSIZE[tensor.dtype] * tensor.count * len(self.optimizer.names)
                for tensor in trained
            )
        return self._offloaded_bytes

    @property
    def _offloaded_bytes(self) -> int | None:
        if self.flat is not None:
            return self.flat.host_bytes
        if self.partitioned is not None:
            return self.partitioned.host_bytes
        return self.shards.host_bytes(self.whole, self.optimizer)

    @property
    def communication(self) -> tuple[Collective, ...] | None:
        """The bytes that one GPU sends in a step, by collective. None for a run on one GPU."""
        device = self.prepared.device
        if device.sharding == "none":
            return None
        collectives = self.shards.collectives() or None
        if self.flat is not None:
            collectives = self.flat.communication
        elif self.buckets is not None:
            collectives = ddp_collectives(self.buckets, device.count)
        return between_nodes(collectives, device.nodes)

    @property
    def sharding_tensors(self) -> tuple[ResidentTensor, ...]:
        """The tensors that stay on the device because the run has several GPUs."""
        return (*self.buckets.resident, *self._used_map) if self.buckets is not None else ()

    @property
    def broadcast(self) -> tuple[ResidentTensor, ...]:
        """The flat tensors in which DDP broadcasts buffers, the most that are alive at once."""
        return self._broadcast if self.prepared.device.sharding == "ddp" else ()

    @cached_property
    def _broadcast(self) -> tuple[ResidentTensor, ...]:
        return ddp_buffers.live_flat_tensors(self.prepared)

    @cached_property
    def _used_map(self) -> tuple[ResidentTensor, ...]:
        """DDP's map of used parameters."""
        return ddp.used_map(self.tensors, self.prepared.training.ddp or DDPConfig())

    @cached_property
    def step_temporaries(self) -> tuple[ResidentTensors, ...]:
        """The tensors that clipping, the optimizer or logging allocates while every gradient is alive."""
        return step_temporaries(self.prepared, self.tensors, self.optimizer, self.shards)

    def for_run(self, training: Training, device: Device) -> ResidentState:
        """Return the state for a run with another batch, length, or device that divides the state in the same way."""
        state = object.__new__(ResidentState)  # faster than `copy`, which each further request would call
        vars(state).update(vars(self))
        state.prepared, state.known_of_run = self.prepared.for_run(training, device), {}
        for name in _OF_RUN:
            vars(state).pop(name, None)
        return state
