"""The files of a checkpoint of several GPUs, and the memory that writing them takes on the host and on a GPU.

Sources: transformers 5.24, trainer.py (save_model, _save_optimizer_and_scheduler); accelerate 1.15, accelerator.py
(get_state_dict) and utils/fsdp_utils.py; PyTorch 2.13, distributed/_state_dict_utils.py (_gather_state_dict); deepspeed
0.19.8, checkpoint/utils.py (clone_tensors_for_torch_save).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements, named
from calculator.checkpoint import fsdp_files, zero_files
from calculator.checkpoint.parameters import Named
from calculator.checkpoint.safetensors_file import SavedTensor
from calculator.common.dtype import ITEMSIZE, allocated
from calculator.estimation.answer import Row
from calculator.run.answer import SavedFile
from calculator.run.saving import Saving
from calculator.run.sentences import CLONES, GATHERED_WEIGHTS, PARTITIONS, SHARDS, WHOLE_STATE
from calculator.sharding.fsdp.parameters import RANKS, is_sharded, shard_shape, stored

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.inputs.run import RunSettings
    from calculator.sharding.zero.state import FlatState
    from calculator.sharding.zero3.parameters import Partitioned
    from calculator.sharding.zero3.state import PartitionedState
    from calculator.training_step.resident_state import ResidentState

_FULL = "torch.save of tensors that are gathered on the first process"
_SHARDED = "torch.distributed.checkpoint: an archive of torch.save for each tensor of a process"
_ZERO = "deepspeed/runtime/engine.py; the tensors in the file"
#: The text that PEFT's LoRA adds to a module's name, without and with the name of the adapter.
_OWN = re.compile(r"\.(lora_\w+|modules_to_save)\b")
DEFAULT_ADAPTER = r".\1.default"

_CONSOLIDATED = "deepspeed/runtime/engine.py, _zero3_consolidated_16bit_state_dict"
_GATHERED = "torch/distributed/_state_dict_utils.py, _gather_state_dict"


class FSDPSaving(Saving):
    """The files that a run under FSDP2 writes."""

    def __init__(self, resident: ResidentState, *, is_full: bool) -> None:
        super().__init__(resident)
        self._is_full = is_full
        kinds = stored([parameter.kind for parameter in self.parameters], self.prepared.method, self.prepared.training)
        self.parameters = [
            parameter._replace(kind=kind) for parameter, kind in zip(self.parameters, kinds, strict=True)
        ]

    @property
    def _model_file_tensors(self) -> list[Named]:
        """The tensors in the model's state dict: trained parameters, and tied ones again under their other names."""
        names = {parameter.name: parameter for parameter in self.parameters}
        tied = [
            Named(alias, names[source].kind) for alias, source in self.prepared.model.tied.items() if source in names
        ]
        return [*(parameter for parameter in self.parameters if parameter.kind.trained), *tied]

    @property
    def _sharded_tensors(self) -> list[SavedTensor]:
        """The tensors of which each process saves a shard: those of PEFT's adapter, or of the whole model."""
        if not self.prepared.method.facts.trains_base:
            return [*self.saved]
        whole = ((self._name(tensor.name), tensor.kind) for tensor in self._model_file_tensors)
        return [SavedTensor(name, tuple(map(int, kind.shape)), kind.dtype) for name, kind in whole]

    @property
    def model_files(self) -> tuple[SavedFile, ...]:
        """The files of `save_pretrained`, which the Trainer only calls with a full state dict."""
        return super().model_files if self._is_full else ()

    @property
    def optimizer_files(self) -> tuple[SavedFile, ...]:
        """The files of the model and the optimizer that accelerate saves."""
        count, optimizer, name_of = self.prepared.device.count, self.resident.optimizer, self._name
        if self._is_full:
            model = fsdp_files.model_bytes(self._model_file_tensors, name_of)
            states = fsdp_files.optimizer_bytes(self.groups, optimizer, name_of)
            return (
                SavedFile(name="pytorch_model_fsdp.bin", bytes=model, source=_FULL),
                SavedFile(name="optimizer.bin", bytes=states, source=_FULL),
            )
        model = fsdp_files.sharded_model_bytes(((shard.shape, shard.dtype) for shard in self._sharded_tensors), count)
        states = fsdp_files.sharded_optimizer_bytes(self.groups, optimizer, count, name_of)
        return (
            SavedFile(name="pytorch_model_fsdp_0/*.distcp", bytes=model, source=_SHARDED),
            SavedFile(name="optimizer_0/*.distcp", bytes=states, source=_SHARDED),
        )

    def _name(self, name: str) -> str:
        """Return the name of a parameter in the model. PEFT's names contain the name of the adapter."""
        if self.prepared.method.facts.trains_base:
            return name
        return f"base_model.model.{_OWN.sub(DEFAULT_ADAPTER, name)}"

    @property
    def gpu_rows(self) -> tuple[Row, ...]:
        """The largest tensor, which every process gathers whole. With offload, its shard too."""
        sharded = [parameter.kind for parameter in self.parameters if is_sharded(parameter.kind)]
        if not self._is_full or not sharded:
            return ()
        largest = max(sharded, key=lambda kind: elements(kind.shape) * ITEMSIZE[kind.dtype])
        ranks = named(self.prepared.device.count, RANKS)
        part = shard_shape(largest.shape, self.prepared.device.count)
        rows = [(f"{largest.name}: gathered", (ranks, *part))]
        if self.resident.host_bytes is not None:
            rows.append((f"{largest.name}: shard", part))
        return tuple(
            Row.build(
                name=name,
                count=1,
                bytes=allocated(elements(shape), ITEMSIZE[largest.dtype]),
                shape=shape,
                dtype=largest.dtype,
                source=_GATHERED,
            )
            for name, shape in rows
        )

    def host_bytes(self, *, optimizer: bool) -> int:
        """Return the bytes of the first process's state dicts, or of the largest shard.

        The state dicts are that of the whole model, then that of the optimizer.
        """
        if not self._is_full:
            count = self.prepared.device.count
            largest = max(
                elements(shard_shape(shard.shape, count)) * ITEMSIZE[shard.dtype] for shard in self._sharded_tensors
            )
            return largest * count // self.prepared.device.nodes
        model = sum(elements(parameter.kind.shape) * ITEMSIZE[parameter.kind.dtype] for parameter in self.parameters)
        states = replace(self.resident.optimizer, step_on_device=False)
        trained = [parameter.kind for parameter in self.parameters if parameter.kind.gets_gradient]
        whole = sum(
            elements(shape) * ITEMSIZE[dtype]
            for kind in trained
            for _, shape, dtype in states.states(kind.shape, kind.dtype)
        )
        return max(model, whole if optimizer else 0)

    def host_sentence(self, *, optimizer: bool) -> str:  # noqa: ARG002  a hook's signature
        """Return the sentence on where this memory comes from."""
        return WHOLE_STATE if self._is_full else SHARDS


class PartitionedSaving(Saving):
    """The files that a run under ZeRO's stage 3 writes."""

    def __init__(self, resident: ResidentState, state: PartitionedState) -> None:
        super().__init__(resident)
        self._state = state

    @property
    def model_files(self) -> tuple[SavedFile, ...]:
        """The files of `save_pretrained`. There are files of a whole model only if DeepSpeed gathers it."""
        gathers = self._state.zero.stage3_gather_16bit_weights_on_model_save
        return super().model_files if gathers or not self.prepared.method.facts.trains_base else ()

    @property
    def optimizer_files(self) -> tuple[SavedFile, ...]:
        """The partitions of all processes: float32 master weights, which are the weights, and states."""
        kind = "" if self._state.dtype == "float32" else "bf16_"
        size = zero_files.sub_groups_bytes(self._state) * self.prepared.device.count
        name = f"global_step*/{kind}zero_pp_rank_*_mp_rank_00_optim_states.pt"
        return (SavedFile(name=name, bytes=size, source=_ZERO),)

    @property
    def gpu_rows(self) -> tuple[Row, ...]:
        """The weights that every process gathers: those of the largest module, or at the end the persistent ones.

        Persistent weights are partitioned before saving (checkpoint_event_prologue in stage3.py).
        """
        if not self.model_files:
            return ()
        moments = map(self._gathered, (*self._state.modules, self._state.persistent))
        return max(moments, key=lambda rows: sum(row.bytes for row in rows))

    def _gathered(self, module: Iterable[Partitioned]) -> tuple[Row, ...]:
        ranks = named(self.prepared.device.count, RANKS)
        return tuple(
            Row.build(
                name=f"{tensor.key.name}: gathered",
                count=1,
                bytes=allocated(tensor.partition * ranks, ITEMSIZE[tensor.dtype]),
                shape=(ranks, named(tensor.partition, "parameters / ranks")),
                dtype=tensor.dtype,
                source=_CONSOLIDATED,
            )
            for tensor in module
        )

    def host_bytes(self, *, optimizer: bool) -> int:
        """Return the bytes of the weights that the first process gathers on the host.

        If they are fewer, return those of torch.save's copies of a tensor.
        """
        local = self.prepared.device.count // self.prepared.device.nodes
        largest = self.largest_state * local if optimizer else 0
        return max(super().host_bytes_of_model if self.model_files else 0, largest)

    def host_sentence(self, *, optimizer: bool) -> str:
        """Return the sentence on where this memory comes from."""
        gathered = super().host_bytes_of_model if self.model_files else 0
        return PARTITIONS if self.host_bytes(optimizer=optimizer) > gathered else GATHERED_WEIGHTS


class ZeroSaving(Saving):
    """The files that a run under ZeRO's stages 1 and 2 writes."""

    def __init__(self, resident: ResidentState, flat: FlatState) -> None:
        super().__init__(resident)
        self._flat = flat

    @property
    def optimizer_files(self) -> tuple[SavedFile, ...]:
        """The trained weights again, and the partitions of all processes."""
        count, kind = self.prepared.device.count, "" if self._flat.dtype == "float32" else "bf16_"
        weights, partitions = zero_files.weights_bytes(self._flat), zero_files.partition_bytes(self._flat) * count
        return (
            SavedFile(name="global_step*/mp_rank_00_model_states.pt", bytes=weights, source=_ZERO),
            SavedFile(
                name=f"global_step*/{kind}zero_pp_rank_*_mp_rank_00_optim_states.pt", bytes=partitions, source=_ZERO
            ),
        )

    def host_bytes(self, *, optimizer: bool) -> int:  # noqa: ARG002  a hook's signature
        """Return the bytes of the whole model, which every process clones to the host."""
        local = self.prepared.device.count // self.prepared.device.nodes
        return local * sum(
            elements(parameter.kind.shape) * ITEMSIZE[parameter.kind.dtype] for parameter in self.parameters
        )

    def host_sentence(self, *, optimizer: bool) -> str:  # noqa: ARG002  a hook's signature
        """Return the sentence on where this memory comes from."""
        return CLONES


def saving_of(resident: ResidentState, run: RunSettings) -> Saving:
    """Return the files that a run writes."""
    if resident.flat is not None:
        return ZeroSaving(resident, resident.flat)
    if resident.partitioned is not None:
        return PartitionedSaving(resident, resident.partitioned)
    if resident.prepared.device.sharding == "fsdp":
        return FSDPSaving(resident, is_full=run.state_dict_type == "FULL_STATE_DICT")
    return Saving(resident)
